//! Tells of changes of a namespace's addresses.
//!
//! There is one watch a captured pod, for as long as it is captured, so it keeps a socket and
//! nothing else: a connection of rtnetlink has buffers of 72 KiB. What has changed is not said, a
//! look at the addresses shows it. Knows no pods.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netio::netns::Netns;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR (linux/rtnetlink.h).
const GROUPS: u32 = 0x10 | 0x100;
/// RTM_NEWADDR and RTM_DELADDR (linux/rtnetlink.h).
const CHANGES: [u16; 2] = [20, 21];
/// Size of `struct nlmsghdr` (linux/netlink.h). Of a longer message the rest is thrown away.
const HEADER_BYTES: usize = 16;
/// Most messages that are taken at once. A pod that changes its addresses without end shall not
/// keep the agent here; what is left is told by the next call.
const TAKEN: usize = 256;

/// Tells of changes of the namespace's addresses, from the moment it is made.
#[derive(Debug)]
pub struct AddressWatch {
    socket: AsyncFd<OwnedFd>,
}

impl AddressWatch {
    /// Starts to listen.
    ///
    /// # Errors
    /// When there is no socket to be had.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new(netns: &Netns) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkRoute;
        let make = || socket(AddressFamily::Netlink, SockType::Raw, flags, protocol);
        let socket = netns.enter(make)??;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self {
            socket: netio::register(socket, Interest::READABLE)?,
        })
    }

    /// Ends when addresses have changed since the last call, or since the beginning; however often
    /// they did, mostly once. May be dropped while it waits.
    ///
    /// # Errors
    /// When the socket is lost.
    pub async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.socket.readable().await?;
            let mut has_changed = false;
            for _ in 0..TAKEN {
                match take(ready.get_inner()) {
                    Ok(is_change) => has_changed |= is_change,
                    Err(Errno::EAGAIN) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if has_changed {
                return Ok(());
            }
        }
    }
}

/// Takes one message; whether it is of a change. Those that the kernel had no room for may have
/// been.
fn take(socket: &OwnedFd) -> Result<bool, Errno> {
    let mut header = [0; HEADER_BYTES];
    match recv(socket.as_raw_fd(), &mut header, MsgFlags::empty()) {
        Ok(_) => Ok(CHANGES.contains(&u16::from_ne_bytes([header[4], header[5]]))),
        Err(Errno::ENOBUFS) => Ok(true),
        Err(error) => Err(error),
    }
}
