//! Socket options that socket2 does not offer.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use socket2::{SockRef, Socket};

use super::Family;

/// Which network namespace a socket belongs to (SO_NETNS_COOKIE, Linux 5.14); the same number that
/// `bpf_get_netns_cookie` gives to a BPF program.
///
/// # Errors
/// ENOTSOCK, or ENOPROTOOPT before Linux 5.14.
pub fn netns_cookie(fd: BorrowedFd<'_>) -> io::Result<u64> {
    get(fd, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE)
}

/// The socket's own cookie (SO_COOKIE): unique while the machine runs; what a sockmap slot shows.
///
/// # Errors
/// ENOTSOCK.
pub fn cookie(fd: BorrowedFd<'_>) -> io::Result<u64> {
    get(fd, libc::SOL_SOCKET, libc::SO_COOKIE)
}

/// The socket's mark (SO_MARK).
///
/// # Errors
/// ENOTSOCK.
pub fn mark(fd: BorrowedFd<'_>) -> io::Result<u32> {
    get(fd, libc::SOL_SOCKET, libc::SO_MARK)
}

/// Whether IP_TRANSPARENT or IPV6_TRANSPARENT is set.
///
/// # Errors
/// ENOTSOCK, or a socket of another family.
pub fn has_transparent(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let socket = SockRef::from(&fd);
    let value: libc::c_int = if socket.domain()? == socket2::Domain::IPV6 {
        get(fd, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT)?
    } else {
        get(fd, libc::IPPROTO_IP, libc::IP_TRANSPARENT)?
    };
    Ok(value != 0)
}

pub(super) fn set_transparent(socket: &Socket, family: Family) -> io::Result<()> {
    let (level, name) = match family {
        Family::V4 => (libc::IPPROTO_IP, libc::IP_TRANSPARENT),
        Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT),
    };
    set(socket.as_fd(), level, name, 1)
}

/// The name of a congestion control that needs no timers to pace what it sends, and that every
/// kernel has.
const UNPACED: &[u8] = b"reno";

/// From now on the socket, and what it accepts, sends without pacing: for a leg over loopback,
/// which has no queue to be kind to. Where the host's default is `bbr`, each 64 KiB of such a leg
/// waits for a timer otherwise (docs/decisions/0005).
///
/// # Errors
/// ENOPROTOOPT, ENOTSOCK: it is no TCP socket.
pub fn set_unpaced(fd: BorrowedFd<'_>) -> io::Result<()> {
    let length = libc::socklen_t::try_from(UNPACED.len()).expect("a short name");
    // SAFETY: pointer and length describe a static, which the kernel only reads.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            UNPACED.as_ptr().cast(),
            length,
        )
    };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// TCP_INFO as far as the running kernel fills it; the rest is zero.
pub(crate) fn tcp_info(fd: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    // SAFETY: tcp_info holds integers only, for which every bit pattern is a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = socklen::<libc::tcp_info>();
    // SAFETY: the pointer and the length describe `info`, which lives through the call.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(info)
    }
}

/// Integers that a socket option may be read into.
trait Number: Copy + Default {}
impl Number for u64 {}
impl Number for u32 {}
impl Number for i32 {}

fn get<T: Number>(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<T> {
    let mut value = T::default();
    let mut length = socklen::<T>();
    // SAFETY: the pointer and the length describe `value`, an integer that any bytes may fill; it
    // lives through the call, and the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value)
    }
}

fn set(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which lives through the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            socklen::<i32>(),
        )
    };
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(mem::size_of::<T>()).expect("socket options are small")
}
