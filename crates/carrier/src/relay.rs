//! The one relay: bytes between two ends, whichever they are, in both directions.
//!
//! Knows no direction, pod or policy. Half-close and reset pass through both ways; an end that
//! does not take bytes stops the reading at the other end; an idle relay holds no buffer, and no
//! future but its own.

pub mod buffer;
pub mod end;
mod way;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::tunnel::stream::StreamError;
use buffer::Buffers;
pub use end::{End, abort};
use way::{Broken, Way};

/// Why a connection did not end whole. Whose fault it is: the named side's.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The near end (the accepted connection) broke.
    #[error("near end: {0}")]
    Near(EndError),
    /// The far end broke.
    #[error("far end: {0}")]
    Far(EndError),
}

/// How an end broke.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// A TCP socket: reset, timed out, and so on.
    #[error("{0}")]
    Tcp(#[from] io::Error),
    /// A stream.
    #[error("{0}")]
    Stream(#[from] StreamError),
}

/// Whether a relay could be ended now without cutting anything off.
#[derive(Debug, Default)]
pub struct Pulse {
    /// Both directions are open.
    is_open: Cell<bool>,
    /// Directions with bytes that have left one end and have not arrived at the other.
    moving: Cell<u8>,
}

impl Pulse {
    /// Both directions are open, and nothing is on its way.
    pub fn is_quiet(&self) -> bool {
        self.is_open.get() && self.moving.get() == 0
    }

    fn begins(&self) {
        self.moving.set(self.moving.get() + 1);
    }

    fn arrived(&self) {
        self.moving.set(self.moving.get() - 1);
    }
}

/// Where the bytes of each direction are counted, and what is seen of them.
#[derive(Clone, Copy)]
pub struct Counts<'a> {
    /// Of both directions.
    pub pulse: &'a Pulse,
    /// From the near end to the far end.
    pub up_bytes: &'a Cell<u64>,
    /// From the far end to the near end.
    pub down_bytes: &'a Cell<u64>,
}

/// What a relay is between, and what it has for it.
pub struct Parts<'a> {
    /// Where the connection came from.
    pub near: &'a End,
    /// Where it goes.
    pub far: &'a End,
    /// What is kept of it.
    pub counts: Counts<'a>,
    /// The worker's.
    pub buffers: &'a Buffers,
}

/// Who has the parts of a relay. A relay that lives as long as its connection keeps its owner, and
/// asks for them each turn: kept beside it, six references would take more than the owner.
pub trait Parted: Unpin {
    /// Gives them to `act`, which ends nothing and waits for nothing.
    fn with_parts<T>(&self, act: impl FnOnce(&Parts<'_>) -> T) -> T;
}

impl Parted for Parts<'_> {
    fn with_parts<T>(&self, act: impl FnOnce(&Parts<'_>) -> T) -> T {
        act(self)
    }
}

/// Relays until both directions have ended. When one breaks, both ends are reset, so that the
/// other direction ends too: no read is ever cancelled. A relay that is dropped, or ends with its
/// process, resets the sockets that were not told the end of their direction.
///
/// Gives the first thing that broke. No async function: it would keep its arguments twice.
pub fn relay<O: Parted>(owner: O) -> Relay<O> {
    owner.with_parts(|parts| {
        parts.counts.pulse.is_open.set(true);
        parts.near.guard();
        parts.far.guard();
    });
    Relay {
        owner,
        ways: Ways::default(),
    }
}

/// A relay under way. See [`relay`].
#[must_use = "it moves nothing unless awaited"]
pub struct Relay<O> {
    owner: O,
    ways: Ways,
}

/// Both directions.
#[derive(Default)]
struct Ways {
    up: Way,
    down: Way,
    /// What broke first; boxed, for most end whole.
    first: Option<Box<RelayError>>,
}

impl<O> Relay<O> {
    /// Who has its parts.
    pub fn owner(&self) -> &O {
        &self.owner
    }
}

impl<O: Parted> Future for Relay<O> {
    type Output = Result<(), RelayError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let ways = &mut this.ways;
        this.owner.with_parts(|parts| ways.turn(cx, parts))
    }
}

impl Ways {
    fn turn(&mut self, cx: &Context<'_>, parts: &Parts<'_>) -> Poll<Result<(), RelayError>> {
        let (near, far, buffers) = (parts.near, parts.far, parts.buffers);
        let Counts {
            pulse,
            up_bytes,
            down_bytes,
        } = parts.counts;
        let before = self.first.is_some();
        if let Poll::Ready(Some(broken)) = self.up.poll(cx, (near, far), (up_bytes, pulse), buffers)
        {
            self.broke(parts, broken.of(RelayError::Near, RelayError::Far));
        }
        if let Poll::Ready(Some(broken)) =
            self.down
                .poll(cx, (far, near), (down_bytes, pulse), buffers)
        {
            self.broke(parts, broken.of(RelayError::Far, RelayError::Near));
        }
        if self.up.is_over() && self.down.is_over() {
            return Poll::Ready(self.first.take().map_or(Ok(()), |error| Err(*error)));
        }
        if !before && self.first.is_some() {
            // Both ends were reset: the way that was looked at first has something to see.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn broke(&mut self, parts: &Parts<'_>, error: RelayError) {
        self.first.get_or_insert_with(|| Box::new(error));
        parts.near.reset();
        parts.far.reset();
    }
}

impl Broken {
    fn of(self, from: fn(EndError) -> RelayError, to: fn(EndError) -> RelayError) -> RelayError {
        match self {
            Self::From(error) => from(error),
            Self::To(error) => to(error),
        }
    }
}
