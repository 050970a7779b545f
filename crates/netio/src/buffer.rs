//! Buffers that belong to an operation until it is done, and a worker's stock of them.
//!
//! It must not know what is in them.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;

pub(crate) use sealed::AnyBuf;

/// Bytes that can be handed to the kernel: owned, and at the same place in memory wherever the
/// value moves.
///
/// Sealed: the address of the bytes must survive a move of the buffer, which the compiler cannot
/// check.
pub trait SendBuf: sealed::Stable + Unpin + 'static {
    /// The bytes to send.
    fn bytes(&self) -> &[u8];
}

mod sealed {
    use bytes::Bytes;

    /// Goes into an operation without an allocation and comes back as what it was.
    pub trait Stable: Sized {
        fn hand_over(self) -> AnyBuf;
        /// `None` for what was another type before.
        fn take_back(buffer: AnyBuf) -> Option<Self>;
    }

    impl Stable for Vec<u8> {
        fn hand_over(self) -> AnyBuf {
            AnyBuf::Vec(self)
        }
        fn take_back(buffer: AnyBuf) -> Option<Self> {
            match buffer {
                AnyBuf::Vec(buffer) => Some(buffer),
                _ => None,
            }
        }
    }

    impl Stable for bytes::Bytes {
        fn hand_over(self) -> AnyBuf {
            AnyBuf::Bytes(self)
        }
        fn take_back(buffer: AnyBuf) -> Option<Self> {
            match buffer {
                AnyBuf::Bytes(buffer) => Some(buffer),
                _ => None,
            }
        }
    }

    impl Stable for &'static [u8] {
        fn hand_over(self) -> AnyBuf {
            AnyBuf::Static(self)
        }
        fn take_back(buffer: AnyBuf) -> Option<Self> {
            match buffer {
                AnyBuf::Static(buffer) => Some(buffer),
                _ => None,
            }
        }
    }

    /// One of the types that [`SendBuf`] allows.
    #[derive(Debug)]
    pub enum AnyBuf {
        /// A vector.
        Vec(Vec<u8>),
        /// A shared buffer.
        Bytes(Bytes),
        /// A constant.
        Static(&'static [u8]),
    }

    impl AnyBuf {
        pub(crate) fn bytes(&self) -> &[u8] {
            match self {
                Self::Vec(buffer) => buffer,
                Self::Bytes(buffer) => buffer,
                Self::Static(buffer) => buffer,
            }
        }
    }
}

impl SendBuf for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl SendBuf for Bytes {
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl SendBuf for &'static [u8] {
    fn bytes(&self) -> &[u8] {
        self
    }
}

/// A worker's stock of equal buffers. A clone is another handle to the same stock.
///
/// It never waits: an empty stock allocates, a full one frees. So it bounds what an idle worker
/// keeps, not what a busy one uses; that is bounded by the number of connections.
#[derive(Debug, Clone)]
pub struct Pool {
    inner: Rc<Stock>,
}

#[derive(Debug)]
struct Stock {
    buffer_bytes: usize,
    kept_max: usize,
    kept: RefCell<Vec<Vec<u8>>>,
}

impl Pool {
    /// A stock of buffers with `buffer_bytes` capacity each, of which at most `kept_max` are kept
    /// unused.
    #[must_use]
    pub fn new(buffer_bytes: usize, kept_max: usize) -> Self {
        let kept = RefCell::new(Vec::new());
        Self {
            inner: Rc::new(Stock {
                buffer_bytes,
                kept_max,
                kept,
            }),
        }
    }

    /// Capacity of each buffer, in bytes.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.inner.buffer_bytes
    }

    /// How many lie unused.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.inner.kept.borrow().len()
    }

    /// An empty buffer with at least [`Pool::buffer_bytes`] capacity.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        let kept = self.inner.kept.borrow_mut().pop();
        kept.unwrap_or_else(|| Vec::with_capacity(self.inner.buffer_bytes))
    }

    /// Gives a buffer back; its contents are forgotten. One that is too small, or more than twice
    /// too large, is freed.
    pub fn put(&self, mut buffer: Vec<u8>) {
        let size = self.inner.buffer_bytes;
        let mut kept = self.inner.kept.borrow_mut();
        if kept.len() < self.inner.kept_max && (size..=2 * size).contains(&buffer.capacity()) {
            buffer.clear();
            kept.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_was_given_back_is_taken_again_empty() {
        let pool = Pool::new(64, 2);
        let mut buffer = pool.take();
        buffer.extend_from_slice(b"secret");
        let place = buffer.as_ptr();
        pool.put(buffer);
        let again = pool.take();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
    }

    #[test]
    fn no_more_than_the_bound_and_no_odd_sizes_are_kept() {
        let pool = Pool::new(64, 2);
        for capacity in [64, 8, 1000, 100, 64] {
            pool.put(Vec::with_capacity(capacity));
        }
        assert_eq!(pool.kept(), 2);
    }
}
