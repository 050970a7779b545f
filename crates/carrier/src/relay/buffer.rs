//! The read buffers of one worker, and the pipes of its bulk between sockets. Knows no socket.
//!
//! An idle connection holds none: a buffer is taken when there is something to read and given
//! back when the bytes have gone on.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use hbone::FRAME_HEADROOM;

use netio::Pipe;

use crate::limits::{
    BUFFER_LARGE_BYTES, BUFFER_SMALL_BYTES, BUFFERS_KEPT, PIPES_MAX, TUNNEL_WRITE_BYTES,
};

/// A middle size: what a connection gets after its first full small buffer.
const BUFFER_MIDDLE_BYTES: usize = 48 * 1_024;

/// For the ciphertext of one full write of a tunnel: a record, and the heads of records and frames,
/// come on top of it.
const BUFFER_SEALED_BYTES: usize = TUNNEL_WRITE_BYTES + 16 * 1_024;

/// What is expected on top of the payload of a smaller write, at least: the heads of a hundred
/// frames.
const SEALED_MORE_BYTES: usize = 1_024;

/// The size of a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Size {
    /// [`BUFFER_SMALL_BYTES`].
    #[default]
    Small,
    /// 48 KiB: below the window of 64 KiB that Envoy gives.
    Middle,
    /// [`BUFFER_LARGE_BYTES`].
    Large,
}

impl Size {
    const ALL: [Self; 3] = [Self::Small, Self::Middle, Self::Large];

    fn next(self) -> Self {
        match self {
            Self::Small => Self::Middle,
            Self::Middle | Self::Large => Self::Large,
        }
    }

    fn previous(self) -> Self {
        match self {
            Self::Small | Self::Middle => Self::Small,
            Self::Large => Self::Middle,
        }
    }

    /// Payload that fits, in bytes.
    pub fn bytes(self) -> usize {
        self.capacity_bytes() - FRAME_HEADROOM
    }

    /// The payload, and the head of the frame that it may become: together whole TLS records, so
    /// that bulk is sealed from where it lies.
    pub fn capacity_bytes(self) -> usize {
        match self {
            Self::Small => BUFFER_SMALL_BYTES,
            Self::Middle => BUFFER_MIDDLE_BYTES,
            Self::Large => BUFFER_LARGE_BYTES,
        }
    }

    /// This size, or the smallest that is enough for `room` bytes.
    pub fn within(self, room: usize) -> Self {
        let enough = |size: &Self| *size >= self || size.bytes() >= room;
        Self::ALL.into_iter().find(enough).unwrap_or(self)
    }
}

/// Reads in a row that fill less than an eighth of their buffer before it shrinks. Bulk comes in
/// uneven pieces: at a smaller number half of its reads were of 4 KiB.
const SPARSE_READS: u8 = 8;

/// How much a direction reads at once, by what its reads have found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Appetite {
    size: Size,
    /// Sparse reads in a row.
    sparse: u8,
}

impl Appetite {
    /// The size for the next read.
    pub fn size(self) -> Size {
        self.size
    }

    /// A read got `read_bytes` and could have got `room`: a full buffer grows, one that is filled
    /// little shrinks after [`SPARSE_READS`] of its kind. A read that got all it was allowed says
    /// nothing.
    pub fn note(&mut self, read_bytes: usize, room: usize) {
        let bytes = self.size.bytes();
        if read_bytes >= bytes {
            self.turn(self.size.next());
        } else if read_bytes >= bytes / 8 {
            self.sparse = 0;
        } else if read_bytes < room {
            self.sparse += 1;
            if self.sparse >= SPARSE_READS {
                self.turn(self.size.previous());
            }
        }
    }

    fn turn(&mut self, size: Size) {
        *self = Self { size, sparse: 0 };
    }
}

/// A pipe of a worker, who knows how many there are.
pub struct WorkerPipe {
    /// The pipe.
    pub pipe: Pipe,
    _counted: Rc<()>,
}

/// Buffers that wait for their next use, at most [`BUFFERS_KEPT`] of each size, and as many pipes.
#[derive(Default)]
pub struct Buffers {
    kept: [RefCell<Vec<Vec<u8>>>; 3],
    /// Of [`BUFFER_SEALED_BYTES`].
    sealed: RefCell<Vec<Vec<u8>>>,
    #[expect(
        clippy::vec_box,
        reason = "a way has room for a pointer, and no memory is asked for when a pipe is taken"
    )]
    pipes: RefCell<Vec<Box<WorkerPipe>>>,
    /// Each pipe has a clone of it.
    counted: Rc<()>,
    used: Cell<bool>,
}

impl Buffers {
    /// An empty buffer of at least that capacity.
    pub fn take(&self, size: Size) -> Vec<u8> {
        self.used.set(true);
        let kept = self.kept[size as usize].borrow_mut().pop();
        kept.unwrap_or_else(|| Vec::with_capacity(size.capacity_bytes()))
    }

    /// An empty buffer for the ciphertext of what a tunnel has to send, `payload` bytes and what
    /// comes on top: it need not grow, and what is sent at once is no larger than it must be.
    pub fn take_for_sealing(&self, payload: usize) -> Vec<u8> {
        let bytes = payload + payload / 64 + SEALED_MORE_BYTES;
        let fits = |size: &Size| size.capacity_bytes() >= bytes;
        if let Some(size) = [Size::Small, Size::Middle].into_iter().find(fits) {
            return self.take(size);
        }
        self.used.set(true);
        let kept = self.sealed.borrow_mut().pop();
        kept.unwrap_or_else(|| Vec::with_capacity(BUFFER_SEALED_BYTES))
    }

    /// Takes a buffer back; one too many, or of a foreign size, is freed.
    pub fn give(&self, mut buffer: Vec<u8>) {
        let bytes = buffer.capacity();
        let size = Size::ALL
            .into_iter()
            .find(|size| size.capacity_bytes() == bytes);
        let kept = match size {
            Some(size) => &self.kept[size as usize],
            None if bytes == BUFFER_SEALED_BYTES => &self.sealed,
            None => return,
        };
        let mut kept = kept.borrow_mut();
        if kept.len() < BUFFERS_KEPT {
            buffer.clear();
            kept.push(buffer);
        }
    }

    /// An empty pipe. None when [`PIPES_MAX`] are in use or the kernel gives none; a buffer does
    /// as well.
    pub fn take_pipe(&self) -> Option<Box<WorkerPipe>> {
        self.used.set(true);
        let kept = self.pipes.borrow_mut().pop();
        kept.or_else(|| {
            let counted = Rc::clone(&self.counted);
            if Rc::strong_count(&counted) > PIPES_MAX + 1 {
                return None;
            }
            Some(Box::new(WorkerPipe {
                pipe: Pipe::new().ok()?,
                _counted: counted,
            }))
        })
    }

    /// Takes a pipe back; one too many, or one that still holds bytes, is closed.
    pub fn give_pipe(&self, pipe: Box<WorkerPipe>) {
        let mut kept = self.pipes.borrow_mut();
        if kept.len() < BUFFERS_KEPT && pipe.pipe.held_bytes() == 0 {
            kept.push(pipe);
        }
    }

    /// Frees what is kept if nothing was taken since the last call, and what the driver of this
    /// thread keeps.
    pub fn trim(&self) {
        if !self.used.replace(false) {
            netio::memory::release_buffers();
            *self.pipes.borrow_mut() = Vec::new();
            for kept in self.kept.iter().chain([&self.sealed]) {
                *kept.borrow_mut() = Vec::new();
            }
        }
    }

    /// Bytes kept now.
    pub fn kept_bytes(&self) -> usize {
        let bytes = |kept: &RefCell<Vec<Vec<u8>>>| -> usize {
            kept.borrow().iter().map(Vec::capacity).sum()
        };
        self.kept.iter().chain([&self.sealed]).map(bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direction_grows_under_load_and_shrinks_after_it() {
        let mut appetite = Appetite::default();
        for size in [Size::Small, Size::Middle, Size::Large] {
            assert_eq!(appetite.size(), size);
            appetite.note(size.bytes(), size.bytes());
        }
        assert_eq!(appetite.size(), Size::Large);
        for _ in 0..2 * SPARSE_READS {
            appetite.note(100, appetite.size().bytes());
        }
        assert_eq!(appetite.size(), Size::Small);
    }

    #[test]
    fn pieces_of_bulk_and_little_room_leave_the_size() {
        let mut appetite = Appetite::default();
        for _ in 0..2 {
            appetite.note(usize::MAX, usize::MAX);
        }
        for _ in 0..100 {
            for _ in 0..SPARSE_READS - 1 {
                appetite.note(100, Size::Large.bytes());
            }
            appetite.note(Size::Large.bytes() / 8, Size::Large.bytes());
            appetite.note(1, 1);
        }
        assert_eq!(appetite.size(), Size::Large);
    }

    #[test]
    fn the_pool_keeps_a_bounded_number_and_lets_go_of_what_nobody_uses() {
        let buffers = Buffers::default();
        let taken: Vec<_> = (0..3 * BUFFERS_KEPT)
            .map(|_| buffers.take(Size::Large))
            .collect();
        taken.into_iter().for_each(|buffer| buffers.give(buffer));
        assert_eq!(
            buffers.kept_bytes(),
            BUFFERS_KEPT * Size::Large.capacity_bytes()
        );
        buffers.trim();
        assert!(buffers.kept_bytes() > 0, "used since the last trim");
        buffers.trim();
        assert_eq!(buffers.kept_bytes(), 0);
    }

    #[test]
    fn ciphertext_gets_the_memory_that_it_needs_and_the_same_again() {
        let buffers = Buffers::default();
        let all = TUNNEL_WRITE_BYTES;
        for (payload, at_most) in [(0, 4 << 10), (20_000, 48 << 10), (all, all + (16 << 10))] {
            let mut buffer = buffers.take_for_sealing(payload);
            assert!((payload..=at_most).contains(&buffer.capacity()));
            buffer.push(7);
            let memory = buffer.as_ptr();
            buffers.give(buffer);
            let again = buffers.take_for_sealing(payload);
            assert!(again.is_empty() && again.as_ptr() == memory, "{payload}");
        }
    }

    #[test]
    fn pipes_in_use_are_bounded_and_unused_ones_are_closed() {
        let buffers = Buffers::default();
        let taken: Vec<_> = std::iter::from_fn(|| buffers.take_pipe()).collect();
        assert_eq!(taken.len(), PIPES_MAX);
        taken.into_iter().for_each(|pipe| buffers.give_pipe(pipe));
        assert_eq!(Rc::strong_count(&buffers.counted), BUFFERS_KEPT + 1);
        buffers.trim();
        buffers.trim();
        assert_eq!(Rc::strong_count(&buffers.counted), 1);
        assert!(buffers.take_pipe().is_some());
    }

    #[test]
    fn a_buffer_is_no_larger_than_the_room_needs() {
        assert_eq!(Size::Large.within(usize::MAX), Size::Large);
        assert_eq!(Size::Large.within(65_535), Size::Large);
        assert_eq!(Size::Large.within(40_000), Size::Middle);
        assert_eq!(Size::Middle.within(usize::MAX), Size::Middle);
        assert_eq!(Size::Large.within(1), Size::Small);
        assert_eq!(Size::Small.within(usize::MAX), Size::Small);
    }

    #[test]
    fn a_buffer_comes_back_empty() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(Size::Small);
        buffer.extend_from_slice(b"secret of another connection");
        buffers.give(buffer);
        assert!(buffers.take(Size::Small).is_empty());
    }
}
