//! A ring's provided buffers: the kernel takes one when data is there, so what waits holds none.
//!
//! One stock a worker, of few and small buffers. They are for messages; bulk is read straight into
//! its reader's buffer. When none is left the kernel says so (ENOBUFS), and the reader does the
//! same. Nothing here knows whose the data is.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// Bytes of a buffer: a handshake's flight, an HTTP request or a small answer fits.
pub(crate) const BUFFER_BYTES: usize = 4096;
/// Buffers of a worker, 512 KiB of address space, of which only what was used is memory.
/// Completions are taken at least every 64 turns, and what waits longer than a turn is copied out
/// when half of the buffers are gone.
pub(crate) const BUFFERS: u16 = 128;
/// The only group.
pub(crate) const GROUP: u16 = 0;

/// The ring of entries comes first, on a page of its own.
const ENTRIES_BYTES: usize = 4096;
const MAP_BYTES: usize = ENTRIES_BYTES + BUFFERS as usize * BUFFER_BYTES;
const _: () = assert!(BUFFERS.is_power_of_two());
const _: () = assert!(BUFFERS as usize * size_of::<BufRingEntry>() <= ENTRIES_BYTES);

/// The buffers, and which of them are with the kernel.
pub(crate) struct Buffers {
    map: NonNull<u8>,
    tail: u16,
    /// Buffers that are not with the kernel.
    out: u16,
    /// One was used since their memory was last given back.
    used: bool,
    given_up: bool,
}

impl Buffers {
    /// Maps the memory and hands all buffers to the kernel.
    ///
    /// # Errors
    /// EINVAL before Linux 5.19; ENOMEM.
    pub(crate) fn register(uring: &IoUring) -> io::Result<Self> {
        let mut buffers = Self {
            map: map()?,
            tail: 0,
            out: BUFFERS,
            used: false,
            given_up: false,
        };
        let address = buffers.map.as_ptr() as u64;
        // SAFETY: the address is a page that belongs to `buffers`, which the ring's owner keeps
        // until the ring is closed.
        unsafe {
            uring
                .submitter()
                .register_buf_ring_with_flags(address, BUFFERS, GROUP, 0)?;
        }
        for number in 0..BUFFERS {
            buffers.give(number);
        }
        Ok(buffers)
    }

    /// The kernel has taken a buffer and put data into it.
    pub(crate) fn taken(&mut self) {
        self.out += 1;
        self.used = true;
    }

    /// Gives the memory of the buffers back, unless one holds data or none was used; whether it
    /// did. The kernel must not have put data into one of which it is not known yet.
    pub(super) fn release(&mut self) -> bool {
        if !self.used || self.out > 0 {
            return false;
        }
        self.used = false;
        let length = MAP_BYTES - ENTRIES_BYTES;
        // SAFETY: the range is the map's without its first page, private and anonymous. All buffers
        // are with the kernel and empty, so nothing borrows from them; it writes into the fresh
        // pages next.
        unsafe { libc::madvise(self.address(0).cast(), length, libc::MADV_DONTNEED) == 0 }
    }

    /// So many are away that what is not read at once should be copied.
    pub(crate) fn are_scarce(&self) -> bool {
        self.out > BUFFERS / 2
    }

    /// The data of a buffer that is not with the kernel.
    pub(crate) fn bytes(&self, number: u16, length: usize) -> &[u8] {
        assert!(number < BUFFERS && length <= BUFFER_BYTES);
        // SAFETY: the range lies in the map, the kernel has written it and hands it out to nobody
        // else before it is given back, for which this borrow has to end.
        unsafe { std::slice::from_raw_parts(self.address(number), length) }
    }

    /// Hands a buffer to the kernel, again.
    pub(crate) fn give(&mut self, number: u16) {
        let slot = usize::from(self.tail % BUFFERS);
        let address = self.address(number) as u64;
        // SAFETY: the slot is one of the ring's entries, which lie on the map's first page. The
        // kernel reads only entries before the tail, and this one is behind it; the tail itself
        // lies in a field of entry 0 that these three calls leave alone.
        unsafe {
            let entry = &mut *self.map.as_ptr().cast::<BufRingEntry>().add(slot);
            entry.set_addr(address);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(number);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail is a 16-bit integer on the map's first page, aligned, and only this
        // thread writes it.
        unsafe {
            let tail = BufRingEntry::tail(self.map.as_ptr().cast::<BufRingEntry>());
            AtomicU16::from_ptr(tail.cast_mut()).store(self.tail, Ordering::Release);
        }
        self.out -= 1;
    }

    /// The memory stays mapped for ever.
    pub(super) fn give_up(&mut self) {
        self.given_up = true;
    }

    fn address(&self, number: u16) -> *mut u8 {
        let offset = ENTRIES_BYTES + usize::from(number) * BUFFER_BYTES;
        // SAFETY: every number below BUFFERS is inside of the map.
        unsafe { self.map.as_ptr().add(offset) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        if !self.given_up {
            // SAFETY: the map was made by `map`, nothing borrows from it, and the ring, which is
            // declared before this and so dropped before it, is closed.
            unsafe { libc::munmap(self.map.as_ptr().cast(), MAP_BYTES) };
        }
    }
}

/// Memory that is there page by page when it is first used, and not in a forked child.
fn map() -> io::Result<NonNull<u8>> {
    // SAFETY: a new private mapping at an address of the kernel's choice touches nothing of ours.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            MAP_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the range is the mapping that was just made.
    unsafe { libc::madvise(address, MAP_BYTES, libc::MADV_DONTFORK) };
    NonNull::new(address.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}
