//! The epoll back end: wait for readiness, then call. Nothing here knows of rings.

use std::io;
use std::os::fd::AsFd;

use crate::buffer::SendBuf;
use crate::driver::epoll::Registered;

use super::direct;

/// One call without waiting, for at most `room` bytes, which is no more than the spare capacity;
/// readiness that it used up is forgotten.
pub(super) fn receive_now(
    socket: &Registered,
    buffer: &mut Vec<u8>,
    room: usize,
) -> io::Result<usize> {
    let result = direct::receive(socket.as_fd(), buffer, room);
    let drained = match &result {
        // epoll(7): a stream that did not fill the buffer is drained, the next edge will come.
        Ok(count) => 0 < *count && *count < room,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    };
    if drained {
        socket.clear_readable();
    }
    result
}

pub(super) async fn write_all<B: SendBuf>(
    socket: &Registered,
    buffer: B,
    mut sent: usize,
) -> (io::Result<()>, B) {
    while sent < buffer.bytes().len() {
        match direct::send(socket.as_fd(), &buffer.bytes()[sent..]) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                socket.clear_writable();
                socket.writable().await;
            }
            Err(error) => return (Err(error), buffer),
        }
    }
    (Ok(()), buffer)
}
