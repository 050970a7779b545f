//! The one relay: bytes between two ends, whichever they are, in both directions.
//!
//! Knows no direction, pod or policy. Half-close and reset pass through both ways; an end that
//! does not take bytes stops the reading at the other end; an idle relay holds no buffer.

pub mod buffer;
pub mod end;

use std::cell::Cell;
use std::io;

use crate::tunnel::stream::StreamError;
use buffer::{Buffers, Size};
pub use end::{End, abort};

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
pub struct Counts<'a> {
    /// Of both directions.
    pub pulse: &'a Pulse,
    /// From the near end to the far end.
    pub up_bytes: &'a Cell<u64>,
    /// From the far end to the near end.
    pub down_bytes: &'a Cell<u64>,
}

/// Relays until both directions have ended. When one breaks, both ends are reset, so that the
/// other direction ends too: no read is ever cancelled.
///
/// # Errors
/// The first thing that broke.
pub async fn relay(
    near: &End,
    far: &End,
    counts: Counts<'_>,
    buffers: &Buffers,
) -> Result<(), RelayError> {
    let pulse = counts.pulse;
    pulse.is_open.set(true);
    let first = Cell::new(None);
    let guarded = |broken: Option<RelayError>| {
        if let Some(error) = broken {
            let earlier = first.take();
            first.set(Some(earlier.unwrap_or(error)));
            near.reset();
            far.reset();
        }
    };
    let up = async {
        let broken = copy((near, far), (counts.up_bytes, pulse), buffers).await;
        guarded(broken.map(|side| side.of(RelayError::Near, RelayError::Far)));
    };
    let down = async {
        let broken = copy((far, near), (counts.down_bytes, pulse), buffers).await;
        guarded(broken.map(|side| side.of(RelayError::Far, RelayError::Near)));
    };
    futures::join!(up, down);
    first.take().map_or(Ok(()), Err)
}

/// Which side of one direction broke.
enum Broken {
    From(EndError),
    To(EndError),
}

impl Broken {
    fn of(self, from: fn(EndError) -> RelayError, to: fn(EndError) -> RelayError) -> RelayError {
        match self {
            Self::From(error) => from(error),
            Self::To(error) => to(error),
        }
    }
}

/// One direction, to its end. None when that was an orderly half-close.
async fn copy(
    (from, to): (&End, &End),
    (count, pulse): (&Cell<u64>, &Pulse),
    buffers: &Buffers,
) -> Option<Broken> {
    let is_socket = matches!(from, End::Tcp(_));
    let mut size = Size::default();
    loop {
        if let Err(error) = from.ready().await {
            return Some(Broken::From(error));
        }
        // What waits in a socket may wait for room; what waits in a stream was not read yet.
        if is_socket {
            pulse.begins();
        }
        // Before the read: what cannot be taken is left with the sender.
        let room = match to.room().await {
            Ok(room) => room,
            Err(error) => return Some(Broken::To(error)),
        };
        let chunk = match from.read(to, size.within(room), buffers).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => return Some(Broken::From(error)),
        };
        if !is_socket {
            pulse.begins();
        }
        let bytes = chunk.bytes();
        size = size.after(bytes);
        match to.write(chunk).await {
            Ok(None) => {}
            Ok(Some(spent)) => from.recycle(spent, buffers),
            Err(error) => return Some(Broken::To(error)),
        }
        pulse.arrived();
        from.taken(bytes);
        count.set(count.get() + bytes as u64);
    }
    pulse.is_open.set(false);
    to.finish().err().map(|error| Broken::To(error.into()))
}
