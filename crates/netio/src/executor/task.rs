//! The tasks of one thread and the queue of those that can go on.
//!
//! A waker is two numbers, so that a task needs no memory for it. It may be used by any thread: on
//! its own thread it queues a number, from another one it takes a lock and, only while the thread
//! sleeps, rings its bell. It must not know of sockets.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

use slab::Slab;

/// Number of the future that [`super::run`] was given; those of tasks follow.
pub(super) const ROOT: u32 = 0;

/// Of a thread without an executor.
const NOBODY: u32 = u32::MAX;

/// Who could go on.
#[derive(Default)]
struct Queue {
    /// Numbers, next first; each at most once.
    ready: VecDeque<u32>,
    /// Whether a number is in `ready`, by number.
    queued: Vec<bool>,
}

impl Queue {
    const fn new() -> Self {
        Self {
            ready: VecDeque::new(),
            queued: Vec::new(),
        }
    }

    /// From here on it may be queued.
    fn admit(&mut self, key: u32) {
        let places = self.queued.len().max(key as usize + 1);
        self.queued.resize(places, false);
    }

    fn push(&mut self, key: u32) {
        // A waker may outlive its executor, and its number then be of one with fewer tasks.
        if let Some(queued) = self.queued.get_mut(key as usize)
            && !std::mem::replace(queued, true)
        {
            self.ready.push_back(key);
        }
    }
}

/// Whose queue this thread's is, and the queue.
struct Here {
    number: Cell<u32>,
    queue: RefCell<Queue>,
}

thread_local! {
    static HERE: Here = const {
        Here { number: Cell::new(NOBODY), queue: RefCell::new(Queue::new()) }
    };
}

/// The executors of this process by number, for those who wake from another thread. A number may be
/// used again at once, as that of a task.
static EXECUTORS: Mutex<Slab<Arc<Shared>>> = Mutex::new(Slab::new());

/// What other threads may touch of an executor.
#[derive(Debug)]
pub(crate) struct Shared {
    woken: Mutex<Woken>,
    /// Something is in `woken`.
    arrived: AtomicBool,
    /// The thread waits in its driver, or is about to.
    sleeping: AtomicBool,
    /// An eventfd that the driver waits for too.
    bell: OwnedFd,
}

/// Tasks that other threads woke.
#[derive(Debug, Default)]
struct Woken {
    /// Numbers, each at most once.
    tasks: Vec<u32>,
    /// Whether a number is in `tasks`, by number.
    known: Vec<bool>,
}

impl Shared {
    pub(super) fn new(bell: OwnedFd) -> Arc<Self> {
        Arc::new(Self {
            woken: Mutex::default(),
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
            let Woken { tasks, known } = &mut *woken;
            HERE.with(|here| {
                let mut queue = here.queue.borrow_mut();
                for key in tasks.drain(..) {
                    known[key as usize] = false;
                    queue.push(key);
                }
            });
        }
    }

    fn wake_from_afar(&self, key: u32) {
        let mut woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        let index = key as usize;
        if woken.known.len() <= index {
            woken.known.resize(index + 1, false);
        }
        if !std::mem::replace(&mut woken.known[index], true) {
            woken.tasks.push(key);
        }
        self.arrived.store(true, Ordering::SeqCst);
        drop(woken);
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // It fails only when the counter is full, and then the bell rings anyway.
            let _ = nix::unistd::write(&self.bell, &1u64.to_ne_bytes());
        }
    }
}

/// What a waker points to: the number of its executor and of its task, no memory.
const _: () = assert!(usize::BITS == 64, "two numbers in a pointer");

static VTABLE: RawWakerVTable =
    RawWakerVTable::new(|name| RawWaker::new(name, &VTABLE), wake, wake, |_| {});

/// What wakes a task, or the root, of this thread's executor.
pub(super) fn waker(key: u32) -> Waker {
    let executor = HERE.with(|here| here.number.get());
    let name = (executor as usize) << u32::BITS | key as usize;
    let name = RawWaker::new(ptr::without_provenance(name), &VTABLE);
    // SAFETY: the table's functions only read the two numbers out of the pointer, which needs
    // nothing of the thread that they run on, nor that anything still lives.
    unsafe { Waker::from_raw(name) }
}

fn wake(name: *const ()) {
    let name = name.addr();
    let executor = name >> u32::BITS;
    let key = (name & u32::MAX as usize) as u32;
    let local = HERE.try_with(|here| {
        let own = here.number.get() as usize == executor;
        if own {
            here.queue.borrow_mut().push(key);
        }
        own
    });
    if local == Ok(true) {
        return;
    }
    let executors = EXECUTORS.lock().unwrap_or_else(PoisonError::into_inner);
    let shared = executors.get(executor).cloned();
    drop(executors);
    if let Some(shared) = shared {
        shared.wake_from_afar(key);
    }
}

/// Makes this thread's queue the one of an executor that others find; at the end it is emptied and
/// they do not.
pub(super) struct OwnQueue;

impl OwnQueue {
    pub(super) fn take(shared: &Arc<Shared>) -> Self {
        let mut executors = EXECUTORS.lock().unwrap_or_else(PoisonError::into_inner);
        let number = u32::try_from(executors.insert(Arc::clone(shared)));
        HERE.with(|here| {
            here.number
                .set(number.expect("there are fewer executors than threads"));
            here.queue.borrow_mut().admit(ROOT);
        });
        Self
    }
}

impl Drop for OwnQueue {
    fn drop(&mut self) {
        let number = HERE.with(|here| {
            here.queue.take();
            here.number.replace(NOBODY)
        });
        let mut executors = EXECUTORS.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = executors.try_remove(number as usize);
        drop(executors);
        drop(shared);
    }
}

/// The task whose turn it is. From here on a wake-up queues it again.
pub(super) fn next_ready() -> Option<u32> {
    HERE.with(|here| {
        let mut queue = here.queue.borrow_mut();
        let key = queue.ready.pop_front()?;
        queue.queued[key as usize] = false;
        Some(key)
    })
}

/// Whether some task can go on.
pub(super) fn any_ready() -> bool {
    HERE.with(|here| !here.queue.borrow().ready.is_empty())
}

/// How many tasks can go on.
pub(super) fn ready_count() -> usize {
    HERE.with(|here| here.queue.borrow().ready.len())
}

/// Whoever may abort a task: told apart by where it lies, never looked at.
pub(super) type Owner = NonNull<()>;

/// Owns what nobody aborts. At this address and the next nothing else can lie.
pub(super) const NOT_OWNED: Owner = NonNull::<u64>::dangling().cast();

/// Owns what was aborted.
const GONE: Owner = NonNull::dangling();

struct Slot {
    owner: Owner,
    /// Not there during its turn.
    future: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

/// The tasks of a thread. A number may be used again at once: a wake-up that was meant for its
/// former task is then one that had no reason, which every future allows for.
#[derive(Default)]
pub(super) struct Tasks {
    /// Task n is in slot n - 1.
    slots: RefCell<Slab<Slot>>,
}

impl Tasks {
    /// Adds a task and queues it. The bound on their number is the scope's.
    pub(super) fn spawn(&self, future: Pin<Box<dyn Future<Output = ()>>>, owner: Owner) {
        let future = Some(future);
        let index = self.slots.borrow_mut().insert(Slot { owner, future });
        let key = u32::try_from(index + 1).expect("fewer than four billion tasks fit in memory");
        HERE.with(|here| {
            let mut queue = here.queue.borrow_mut();
            queue.admit(key);
            queue.push(key);
        });
    }

    /// Has all tasks of that owner dropped at their next turn.
    pub(super) fn abort(&self, owner: Owner) {
        for (index, slot) in self.slots.borrow_mut().iter_mut() {
            if slot.owner == owner {
                slot.owner = GONE;
                let key = u32::try_from(index + 1).expect("it had that number before");
                HERE.with(|here| here.queue.borrow_mut().push(key));
            }
        }
    }

    /// One turn of a task: polled, or dropped when it was aborted.
    pub(super) fn run(&self, key: u32) {
        let index = key as usize - 1;
        let (mut future, aborted) = {
            let mut slots = self.slots.borrow_mut();
            let Some(slot) = slots.get_mut(index) else {
                return;
            };
            let Some(future) = slot.future.take() else {
                return;
            };
            (future, slot.owner == GONE)
        };
        // A panic was reported by the hook, and its scope counts it. The future is not polled
        // again, so nobody sees a state that the panic has broken.
        let pending = !aborted
            && catch_unwind(AssertUnwindSafe(|| {
                let waker = waker(key);
                future.as_mut().poll(&mut Context::from_waker(&waker))
            }))
            .is_ok_and(|poll| poll == Poll::Pending);
        if pending {
            if let Some(slot) = self.slots.borrow_mut().get_mut(index) {
                slot.future = Some(future);
            }
        } else {
            let _ = catch_unwind(AssertUnwindSafe(move || drop(future)));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_takes_three_words_beside_its_future() {
        assert_eq!(size_of::<Slot>(), 24);
        // A place of the table is no larger.
        assert_eq!(size_of::<Option<Slot>>(), 24);
    }
}
