//! A stream as bytes both ways, behind CONNECT (RFC 9113 8.5).

use std::any::Any;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use hyper::rt::{Read, ReadBufCursor, Write};

/// Bytes that one frame carries: what every peer takes (RFC 9113 4.2).
const FRAME_BYTES_MAX: usize = 16_384;

/// Both directions of one stream.
pub(in crate::http) struct Duplex {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// What came and was not read yet.
    held: Bytes,
    is_ended: bool,
    /// Lives as long as it.
    _place: Option<Rc<dyn Any>>,
}

impl Duplex {
    /// Of these halves.
    pub(in crate::http) fn new(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self {
            send,
            receive,
            held: Bytes::new(),
            is_ended: false,
            _place: None,
        }
    }

    /// The same, which keeps that as long as it lives.
    pub(in crate::http) fn holding(mut self, place: Rc<dyn Any>) -> Self {
        self._place = Some(place);
        self
    }
}

fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl Read for Duplex {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.held.is_empty() {
            match ready!(this.receive.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(data)) => this.held = data,
                // A peer that wants no more and has no more ends both ways.
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
        let count = this.held.len().min(buffer.remaining());
        buffer.put_slice(&this.held[..count]);
        this.held.advance(count);
        // It fails for a stream that is over, which needs no window.
        let _ = this.receive.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl Write for Duplex {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wanted = bytes.len().min(FRAME_BYTES_MAX);
        if wanted == 0 {
            return Poll::Ready(Ok(0));
        }
        this.send.reserve_capacity(wanted);
        while this.send.capacity() == 0 {
            match ready!(this.send.poll_capacity(cx)) {
                Some(capacity) => capacity.map_err(broken)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let count = wanted.min(this.send.capacity());
        let data = Bytes::copy_from_slice(&bytes[..count]);
        this.send.send_data(data, false).map_err(broken)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task sends what there is.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.is_ended, true) {
            self.send.send_data(Bytes::new(), true).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }
}
