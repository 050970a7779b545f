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

/// Where the bytes of each direction are counted.
pub struct Counts<'a> {
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
        let broken = copy(near, far, counts.up_bytes, buffers).await;
        guarded(broken.map(|side| side.of(RelayError::Near, RelayError::Far)));
    };
    let down = async {
        let broken = copy(far, near, counts.down_bytes, buffers).await;
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
async fn copy(from: &End, to: &End, count: &Cell<u64>, buffers: &Buffers) -> Option<Broken> {
    let mut size = Size::default();
    loop {
        if let Err(error) = from.ready().await {
            return Some(Broken::From(error));
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
        let bytes = chunk.bytes();
        size = size.after(bytes);
        match to.write(chunk).await {
            Ok(None) => {}
            Ok(Some(spent)) => from.recycle(spent, buffers),
            Err(error) => return Some(Broken::To(error)),
        }
        from.taken(bytes);
        count.set(count.get() + bytes as u64);
    }
    to.finish().err().map(|error| Broken::To(error.into()))
}
