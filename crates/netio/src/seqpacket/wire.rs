//! One message by sendmsg(2) and recvmsg(2), with SCM_RIGHTS. Shared by the async and the blocking
//! connection; waits only when the descriptor is in blocking mode.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use super::MAX_FDS;

/// A received message.
#[derive(Debug)]
pub struct Message {
    /// Its bytes, at least one.
    pub bytes: Vec<u8>,
    /// The descriptors that came with it, in the sender's order, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Why a message was not taken. All but [`RecvError::Io`] are the sender's fault.
#[derive(Debug, thiserror::Error)]
pub enum RecvError {
    /// It was longer than allowed (MSG_TRUNC).
    #[error("the message has more than {limit} bytes")]
    TooLong {
        /// The bound, in bytes.
        limit: usize,
    },
    /// It brought more descriptors than allowed; all of them were closed.
    #[error("the message brought {found} descriptors, at most {limit} are allowed")]
    TooManyFds {
        /// The bound.
        limit: usize,
        /// How many came.
        found: usize,
    },
    /// The kernel dropped descriptors (MSG_CTRUNC), mostly because the process has no room for
    /// more.
    #[error("descriptors of the message were lost: the process is at its limit of open files")]
    FdsLost,
    /// The kernel's answer.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Room for one control message with the most descriptors that the kernel delivers, aligned for its
/// header.
#[repr(C)]
union Control {
    _align: libc::cmsghdr,
    bytes: [u8; CONTROL_BYTES],
}

/// CMSG_SPACE(MAX_FDS * 4).
const CONTROL_BYTES: usize = 16 + (MAX_FDS * 4).next_multiple_of(8);

pub(super) fn send(fd: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if bytes.is_empty() || fds.len() > MAX_FDS {
        let text = "a message needs a byte and takes at most 253 descriptors";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut vector = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let mut control = Control {
        bytes: [0; CONTROL_BYTES],
    };
    let mut header = header(&mut vector);
    if !fds.is_empty() {
        put_rights(&mut header, &mut control, fds);
    }
    // SAFETY: the header names `vector`, `bytes` and `control`, which all live through the call;
    // the kernel only reads them.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
    // SOCK_SEQPACKET sends a message whole or not at all.
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

pub(super) fn receive(
    fd: BorrowedFd<'_>,
    max_bytes: usize,
    max_fds: usize,
) -> Result<Option<Message>, RecvError> {
    let mut bytes: Vec<u8> = Vec::with_capacity(max_bytes);
    let mut vector = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: max_bytes,
    };
    let mut control = Control {
        bytes: [0; CONTROL_BYTES],
    };
    let mut header = header(&mut vector);
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = CONTROL_BYTES;
    // SAFETY: the header names `vector`, the capacity of `bytes` and `control`, which all live
    // through the call.
    let count = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    // Own them first: whatever is refused below, they are closed by dropping.
    let fds = take_rights(&header);
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(RecvError::FdsLost);
    }
    if header.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(RecvError::TooLong { limit: max_bytes });
    }
    if fds.len() > max_fds {
        return Err(RecvError::TooManyFds {
            limit: max_fds,
            found: fds.len(),
        });
    }
    if count == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has written `count` bytes, at most `max_bytes`, which is within the
    // capacity.
    unsafe { bytes.set_len(count) };
    bytes.shrink_to_fit();
    Ok(Some(Message { bytes, fds }))
}

fn header(vector: &mut libc::iovec) -> libc::msghdr {
    // SAFETY: msghdr holds integers and pointers, for which all zero is a value: no name, no
    // control data.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = vector;
    header.msg_iovlen = 1;
    header
}

fn put_rights(header: &mut libc::msghdr, control: &mut Control, fds: &[BorrowedFd<'_>]) {
    let length = u32::try_from(mem::size_of_val(fds)).expect("at most 253 descriptors");
    header.msg_control = std::ptr::from_mut(control).cast();
    // SAFETY: CMSG_SPACE only computes.
    header.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as usize;
    // SAFETY: the control buffer is aligned for a cmsghdr and has room for MAX_FDS descriptors, of
    // which there are at most that many; the first header and its data lie within msg_controllen.
    // BorrowedFd is a RawFd in memory, and only its number is copied.
    unsafe {
        let first = libc::CMSG_FIRSTHDR(header);
        (*first).cmsg_level = libc::SOL_SOCKET;
        (*first).cmsg_type = libc::SCM_RIGHTS;
        (*first).cmsg_len = libc::CMSG_LEN(length) as usize;
        let data: *mut RawFd = libc::CMSG_DATA(first).cast();
        for (index, fd) in fds.iter().enumerate() {
            ptr::write_unaligned(data.add(index), fd.as_raw_fd());
        }
    }
}

fn take_rights(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the kernel filled the control buffer that `header` names and set msg_controllen to
    // what it wrote; the CMSG macros stay within that. Each number is a descriptor that the kernel
    // made for this process in this call, so nobody else owns it.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            let is_rights = (*message).cmsg_level == libc::SOL_SOCKET
                && (*message).cmsg_type == libc::SCM_RIGHTS;
            if is_rights {
                let data: *const RawFd = libc::CMSG_DATA(message).cast();
                let bytes = (*message).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                for index in 0..bytes / mem::size_of::<RawFd>() {
                    fds.push(OwnedFd::from_raw_fd(ptr::read_unaligned(data.add(index))));
                }
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    fds
}
