//! The tasks of one thread and the queue of those that can go on.
//!
//! A waker may be used by any thread: on its own thread it pushes a number, from another one it
//! takes a lock and, only while the thread sleeps, rings its bell. It must not know of sockets.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use slab::Slab;

/// Number of the future that [`super::run`] was given.
pub(super) const ROOT: u32 = u32::MAX;

/// Whose queue this thread's is, and the queue.
struct Here {
    owner: Cell<*const Shared>,
    ready: RefCell<VecDeque<u32>>,
}

thread_local! {
    static HERE: Here = const {
        Here { owner: Cell::new(std::ptr::null()), ready: RefCell::new(VecDeque::new()) }
    };
}

/// What other threads may touch of an executor.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Tasks that other threads woke. A task is in it at most once.
    woken: Mutex<Vec<u32>>,
    /// Something is in `woken`.
    arrived: AtomicBool,
    /// The thread waits in its driver, or is about to.
    sleeping: AtomicBool,
    /// An eventfd that the driver waits for too.
    bell: OwnedFd,
}

impl Shared {
    pub(super) fn new(bell: OwnedFd) -> Arc<Self> {
        Arc::new(Self {
            woken: Mutex::new(Vec::new()),
            arrived: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            bell,
        })
    }

    pub(crate) fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    /// To be called before the driver waits; `false` when there is something to do instead.
    pub(super) fn may_sleep(&self) -> bool {
        // Either this thread sees what arrived, or the other one sees that it sleeps: both store
        // first and look afterwards, in one total order.
        self.sleeping.store(true, Ordering::SeqCst);
        let quiet = !self.arrived.load(Ordering::SeqCst);
        if !quiet {
            self.awake();
        }
        quiet
    }

    pub(super) fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    pub(super) fn has_arrived(&self) -> bool {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Moves what other threads woke into this thread's queue.
    pub(super) fn collect(&self) {
        if self.arrived.load(Ordering::Relaxed) {
            let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
            self.arrived.store(false, Ordering::SeqCst);
            HERE.with(|here| here.ready.borrow_mut().extend(woken.drain(..)));
        }
    }

    fn wake_from_afar(&self, key: u32) {
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        woken.push(key);
        self.arrived.store(true, Ordering::SeqCst);
        drop(woken);
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // It fails only when the counter is full, and then the bell rings anyway.
            let _ = nix::unistd::write(&self.bell, &1u64.to_ne_bytes());
        }
    }
}

/// What wakes or aborts a task.
#[derive(Debug)]
pub(crate) struct Handle {
    key: u32,
    queued: AtomicBool,
    aborted: AtomicBool,
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(key: u32, shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            key,
            queued: AtomicBool::new(false),
            aborted: AtomicBool::new(false),
            shared: Arc::clone(shared),
        })
    }

    /// Has the task dropped at its next turn.
    pub(super) fn abort(self: &Arc<Self>) {
        self.aborted.store(true, Ordering::Relaxed);
        self.wake_by_ref();
    }

    /// From here on a wake-up queues the task again.
    pub(super) fn begin_turn(&self) {
        self.queued.store(false, Ordering::Release);
    }
}

impl Wake for Handle {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let owner = Arc::as_ptr(&self.shared);
        let local = HERE.try_with(|here| {
            let own = std::ptr::eq(here.owner.get(), owner);
            if own {
                here.ready.borrow_mut().push_back(self.key);
            }
            own
        });
        if local != Ok(true) {
            self.shared.wake_from_afar(self.key);
        }
    }
}

/// Makes this thread's queue the one of `shared`; the queue is emptied at the end.
pub(super) struct OwnQueue;

impl OwnQueue {
    pub(super) fn take(shared: &Arc<Shared>) -> Self {
        HERE.with(|here| here.owner.set(Arc::as_ptr(shared)));
        Self
    }
}

impl Drop for OwnQueue {
    fn drop(&mut self) {
        HERE.with(|here| {
            here.owner.set(std::ptr::null());
            here.ready.borrow_mut().clear();
        });
    }
}

/// The task whose turn it is.
pub(super) fn next_ready() -> Option<u32> {
    HERE.with(|here| here.ready.borrow_mut().pop_front())
}

/// Whether some task can go on.
pub(super) fn any_ready() -> bool {
    HERE.with(|here| !here.ready.borrow().is_empty())
}

/// How many tasks can go on.
pub(super) fn ready_count() -> usize {
    HERE.with(|here| here.ready.borrow().len())
}

struct Slot {
    handle: Arc<Handle>,
    /// Not there during its turn.
    body: Option<Body>,
}

struct Body {
    future: Pin<Box<dyn Future<Output = ()>>>,
    waker: Waker,
}

/// The tasks of a thread. A number may be used again at once: a wake-up that was meant for its
/// former task is then one that had no reason, which every future allows for.
#[derive(Default)]
pub(super) struct Tasks {
    slots: RefCell<Slab<Slot>>,
}

impl Tasks {
    /// Adds a task and queues it. The bound on their number is the scope's.
    pub(super) fn spawn(
        &self,
        future: Pin<Box<dyn Future<Output = ()>>>,
        shared: &Arc<Shared>,
    ) -> Arc<Handle> {
        let mut slots = self.slots.borrow_mut();
        let entry = slots.vacant_entry();
        let key = u32::try_from(entry.key()).expect("fewer than four billion tasks fit in memory");
        let handle = Handle::new(key, shared);
        let waker = Waker::from(Arc::clone(&handle));
        entry.insert(Slot {
            handle: Arc::clone(&handle),
            body: Some(Body { future, waker }),
        });
        handle.wake_by_ref();
        handle
    }

    /// One turn of a task: polled, or dropped when it was aborted.
    pub(super) fn run(&self, key: u32) {
        let index = key as usize;
        let (mut body, aborted) = {
            let mut slots = self.slots.borrow_mut();
            let Some(slot) = slots.get_mut(index) else {
                return;
            };
            slot.handle.begin_turn();
            let Some(body) = slot.body.take() else {
                return;
            };
            (body, slot.handle.aborted.load(Ordering::Relaxed))
        };
        // A panic was reported by the hook, and its scope counts it. The future is not polled
        // again, so nobody sees a state that the panic has broken.
        let pending = !aborted
            && catch_unwind(AssertUnwindSafe(|| {
                let mut cx = Context::from_waker(&body.waker);
                body.future.as_mut().poll(&mut cx)
            }))
            .is_ok_and(|poll| poll == Poll::Pending);
        if pending {
            if let Some(slot) = self.slots.borrow_mut().get_mut(index) {
                slot.body = Some(body);
            }
        } else {
            let _ = catch_unwind(AssertUnwindSafe(move || drop(body)));
            self.slots.borrow_mut().try_remove(index);
        }
    }

    /// Drops all tasks, also those that are spawned by the drop of another.
    pub(super) fn clear(&self) {
        loop {
            let slots = std::mem::take(&mut *self.slots.borrow_mut());
            if slots.is_empty() {
                return;
            }
            for (_, slot) in slots {
                let _ = catch_unwind(AssertUnwindSafe(move || drop(slot)));
            }
        }
    }
}
