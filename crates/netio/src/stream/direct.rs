//! The system calls on a socket that never wait. Nothing here knows of an executor.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Receives into the spare capacity of `buffer`, behind what it holds; at most `most` bytes.
pub(super) fn receive(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    let spare = buffer.spare_capacity_mut();
    let room = spare.len().min(most);
    let spare = &mut spare[..room];
    // SAFETY: pointer and length describe the spare capacity, which `buffer` owns through the call;
    // the kernel only writes there.
    let count = unsafe {
        libc::recv(
            fd.as_raw_fd(),
            spare.as_mut_ptr().cast(),
            spare.len(),
            libc::MSG_DONTWAIT,
        )
    };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    let length = buffer.len() + count;
    // SAFETY: the kernel has written `count` bytes, at most the spare length, behind the old end.
    unsafe { buffer.set_len(length) };
    Ok(count)
}

/// Sends what fits into the socket's send buffer.
pub(super) fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: pointer and length describe `bytes`, which lives through the call; the kernel only
    // reads there.
    let count = unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// Moves at most `most` bytes between a pipe and a socket, whichever way, without waiting for the
/// pipe; whether it waits for the socket is for the socket's O_NONBLOCK to say (splice(2)).
pub(super) fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    let (no_offset, from, to) = (ptr::null_mut(), from.as_raw_fd(), to.as_raw_fd());
    // SAFETY: both descriptors are open through the call; without offsets it touches no memory of
    // this process.
    let count = unsafe { libc::splice(from, no_offset, to, no_offset, most, flags) };
    usize::try_from(count).map_err(|_| io::Error::last_os_error())
}

/// connect(2) to AF_UNSPEC: an established TCP socket sends RST and wakes whoever waits on it.
pub(super) fn disconnect(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: sockaddr holds integers only; all zero is AF_UNSPEC.
    let address: libc::sockaddr = unsafe { mem::zeroed() };
    let length = libc::socklen_t::try_from(mem::size_of_val(&address)).expect("16 bytes");
    // SAFETY: pointer and length describe `address`, which lives through the call.
    let result = unsafe { libc::connect(fd.as_raw_fd(), &raw const address, length) };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
