//! A body on its way into a stream. It must not know whose body it is.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use hyper::body::Body;

/// Sends a body as the peer has window for it; at most one piece is held.
pub(in crate::http) struct Pump<B> {
    body: B,
    stream: SendStream<Bytes>,
    /// A piece that waits for window, and whether it is the last.
    held: Option<(Bytes, bool)>,
}

/// The stream is broken, or was reset since the body broke off.
pub(in crate::http) struct Broken;

impl From<h2::Error> for Broken {
    fn from(_: h2::Error) -> Self {
        Self
    }
}

impl<B: Body<Data = Bytes> + Unpin> Pump<B> {
    /// Nothing is sent yet.
    pub(in crate::http) fn new(body: B, stream: SendStream<Bytes>) -> Self {
        Self {
            body,
            stream,
            held: None,
        }
    }

    /// Breaks the stream off.
    pub(in crate::http) fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }

    /// Ready when the whole body is with h2. A body that breaks off resets the stream with
    /// `on_error`.
    pub(in crate::http) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        on_error: Reason,
    ) -> Poll<Result<(), Broken>> {
        loop {
            if self.held.is_some() {
                ready!(self.poll_window(cx))?;
                if let Some((data, is_last)) = self.held.take() {
                    self.stream.send_data(data, is_last)?;
                    if is_last {
                        return Poll::Ready(Ok(()));
                    }
                }
                continue;
            }
            let frame = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    // A peer that resets the stream wants no more of it.
                    ready!(self.stream.poll_reset(cx))?;
                    return Poll::Ready(Err(Broken));
                }
            };
            let frame = match frame {
                None => {
                    self.stream.send_data(Bytes::new(), true)?;
                    return Poll::Ready(Ok(()));
                }
                Some(Err(_)) => {
                    self.stream.send_reset(on_error);
                    return Poll::Ready(Err(Broken));
                }
                Some(Ok(frame)) => frame,
            };
            match frame.into_data() {
                Ok(data) => {
                    // Window is claimed when there is something to send, and no sooner: what one
                    // stream claims the others of its connection lack.
                    self.stream.reserve_capacity(data.len().min(1));
                    self.held = Some((data, self.body.is_end_stream()));
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.stream.send_trailers(trailers)?;
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }

    /// Ready when there is window for the piece that is held: a byte of it, since h2 holds the
    /// rest.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let needs = self.held.as_ref().is_some_and(|(data, _)| !data.is_empty());
        while needs && self.stream.capacity() == 0 {
            if self.stream.poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Broken));
            }
            match ready!(self.stream.poll_capacity(cx)) {
                Some(capacity) => capacity?,
                None => return Poll::Ready(Err(Broken)),
            };
        }
        Poll::Ready(Ok(()))
    }
}
