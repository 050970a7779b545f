//! The epoll back end: wait for readiness, then call. Nothing here knows of rings.

use std::future::Future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::io::unix::AsyncFd;

use crate::buffer::SendBuf;

use super::direct;

pub(super) async fn read(
    fd: &AsyncFd<OwnedFd>,
    mut buffer: Vec<u8>,
) -> (io::Result<usize>, Vec<u8>) {
    loop {
        let mut guard = match fd.readable().await {
            Ok(guard) => guard,
            Err(error) => return (Err(error), buffer),
        };
        let room = buffer.capacity() - buffer.len();
        match direct::receive(fd.as_fd(), &mut buffer) {
            Ok(count) => {
                // epoll(7): a stream that did not fill the buffer is drained, the next edge will
                // come.
                if 0 < count && count < room {
                    guard.clear_ready();
                }
                return (Ok(count), buffer);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            Err(error) => return (Err(error), buffer),
        }
    }
}

/// One call without waiting. The readiness is looked at before the call, so that clearing it
/// afterwards cannot forget an edge that came in between.
pub(super) fn receive_now(fd: &AsyncFd<OwnedFd>, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut cx = Context::from_waker(Waker::noop());
    let ready = match pin!(fd.readable()).poll(&mut cx) {
        Poll::Ready(guard) => Some(guard?),
        Poll::Pending => None,
    };
    let room = buffer.capacity() - buffer.len();
    let result = direct::receive(fd.as_fd(), buffer);
    let drained = match &result {
        Ok(count) => 0 < *count && *count < room,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    };
    if let Some(mut guard) = ready
        && drained
    {
        guard.clear_ready();
    }
    result
}

pub(super) async fn write_all<B: SendBuf>(
    fd: &AsyncFd<OwnedFd>,
    buffer: B,
    mut sent: usize,
) -> (io::Result<()>, B) {
    while sent < buffer.bytes().len() {
        let mut guard = match fd.writable().await {
            Ok(guard) => guard,
            Err(error) => return (Err(error), buffer),
        };
        match direct::send(fd.as_fd(), &buffer.bytes()[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            Err(error) => return (Err(error), buffer),
        }
    }
    (Ok(()), buffer)
}
