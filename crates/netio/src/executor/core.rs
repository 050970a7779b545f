//! The loop of a worker thread: ready tasks, timers, then the driver. It must not know what a
//! task or an operation is for.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::spin::{self, Looks};
use super::task::{self, NOT_OWNED, OwnQueue, Owner, ROOT, Shared, Tasks};
use super::timer::Timers;
use crate::Backend;
use crate::driver::{Driver, Wait};

/// Turns of tasks between two looks at the driver while tasks are ready.
const TURNS_PER_LOOK: usize = 64;
/// Time between two looks at the driver while tasks are ready, give or take one round of tasks. A
/// look is a system call of 0.3 to 1 µs with epoll, and a moved quarter of a megabyte takes 60 to
/// 100 µs: small messages beside bulk wait for one such turn, not for 64.
const TIME_PER_LOOK: Duration = Duration::from_micros(25);

/// Looks at the driver between two looks at the clock while spinning; each lets others run.
const LOOKS_PER_CLOCK: usize = 8;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
}

/// The executor of a thread.
pub(crate) struct Core {
    backend: Backend,
    tasks: Tasks,
    timers: Timers,
    looks: Cell<Looks>,
    /// Turns of tasks since the last wait.
    turns: Cell<u16>,
    /// Tasks made since then.
    spawned: Cell<u16>,
    shared: Arc<Shared>,
    driver: Driver,
}

/// The executor of this thread.
///
/// # Panics
/// When there is none.
pub(crate) fn here() -> Rc<Core> {
    try_here().expect("sockets, timers and tasks of netio need netio::executor::run on this thread")
}

pub(crate) fn try_here() -> Option<Rc<Core>> {
    CURRENT
        .try_with(|current| current.borrow().clone())
        .ok()
        .flatten()
}

/// A thread that has its executor; it is taken apart when this is dropped.
pub(super) struct Entered {
    core: Rc<Core>,
    _queue: OwnQueue,
}

impl Core {
    pub(super) fn enter(backend: Backend) -> io::Result<Entered> {
        assert!(
            try_here().is_none(),
            "an executor runs on this thread already"
        );
        let shared = Shared::new(bell()?);
        let core = Rc::new(Core {
            backend,
            tasks: Tasks::default(),
            timers: Timers::default(),
            looks: Cell::default(),
            turns: Cell::default(),
            spawned: Cell::default(),
            driver: Driver::new(backend, &shared)?,
            shared,
        });
        CURRENT.set(Some(Rc::clone(&core)));
        let queue = OwnQueue::take(&core.shared);
        Ok(Entered {
            core,
            _queue: queue,
        })
    }

    pub(crate) fn backend(&self) -> Backend {
        self.backend
    }

    pub(crate) fn driver(&self) -> &Driver {
        &self.driver
    }

    pub(crate) fn timers(&self) -> &Timers {
        &self.timers
    }

    fn took(&self, turns: usize) {
        let turns = u16::try_from(turns).unwrap_or(u16::MAX);
        self.turns.set(self.turns.get().saturating_add(turns));
    }

    /// Starts a task that ends by itself, or with the executor.
    pub(crate) fn spawn(&self, future: Pin<Box<dyn Future<Output = ()>>>) {
        self.spawn_for(NOT_OWNED, future);
    }

    /// Starts a task that its owner may abort.
    pub(super) fn spawn_for(&self, owner: Owner, future: Pin<Box<dyn Future<Output = ()>>>) {
        self.spawned.set(self.spawned.get().saturating_add(1));
        self.tasks.spawn(future, owner);
    }

    pub(super) fn abort(&self, owner: Owner) {
        self.tasks.abort(owner);
    }

    /// Looks at the driver, and waits there when nothing else is to do.
    fn turn(&self) -> io::Result<()> {
        self.shared.collect();
        self.timers.fire();
        if task::any_ready() {
            return self.driver.turn(Wait::No);
        }
        let spin = spin::spin();
        if spin.is_zero() {
            return self.sleep();
        }
        let mut looks = self.looks.get();
        let look = looks.pay(self.turns.take(), self.spawned.take());
        let began = Instant::now();
        if !(look && self.look_for(began + spin)?) {
            self.sleep()?;
        }
        looks.note(look, began.elapsed() <= spin);
        self.looks.set(looks);
        Ok(())
    }

    /// Waits in the driver.
    fn sleep(&self) -> io::Result<()> {
        if !self.shared.may_sleep() {
            return Ok(());
        }
        let wait = self.timers.next().map_or(Wait::Forever, |at| {
            Wait::AtMost(at.saturating_duration_since(Instant::now()))
        });
        let result = self.driver.turn(wait);
        self.shared.awake();
        result
    }

    /// Looks for something to do until then; whether there is something. Others that could run on
    /// this core, as the one that is waited for, run in between.
    fn look_for(&self, until: Instant) -> io::Result<bool> {
        let until = self.timers.next().map_or(until, |at| at.min(until));
        self.driver.turn(Wait::No)?;
        loop {
            for _ in 0..LOOKS_PER_CLOCK {
                if self.driver.has_come() {
                    self.driver.turn(Wait::No)?;
                }
                if task::any_ready() || self.shared.has_arrived() {
                    return Ok(true);
                }
                std::thread::yield_now();
            }
            if Instant::now() >= until {
                return Ok(false);
            }
        }
    }
}

impl Entered {
    pub(super) fn block_on<F: Future>(&self, future: F) -> io::Result<F::Output> {
        let mut future = pin!(future);
        let waker = task::waker(ROOT);
        waker.wake_by_ref();
        loop {
            let looked = Instant::now();
            let mut turns = 0;
            while task::any_ready() && turns < TURNS_PER_LOOK {
                // Those that are ready now; whom they wake comes in the next round.
                for _ in 0..task::ready_count().min(TURNS_PER_LOOK) {
                    turns += 1;
                    match task::next_ready() {
                        Some(ROOT) => {
                            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
                            if let Poll::Ready(output) = polled {
                                return Ok(output);
                            }
                        }
                        Some(key) => self.core.tasks.run(key),
                        None => break,
                    }
                }
                if looked.elapsed() >= TIME_PER_LOOK {
                    break;
                }
            }
            self.core.took(turns);
            self.core.turn()?;
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.core.tasks.clear();
        crate::socket::stock::clear();
        self.core.driver.shut_down();
        CURRENT.set(None);
    }
}

fn bell() -> io::Result<OwnedFd> {
    // Blocking: a ring answers EAGAIN for a non-blocking descriptor instead of waiting.
    // SAFETY: eventfd takes two integers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made it, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
