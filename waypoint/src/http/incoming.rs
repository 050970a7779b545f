//! A body as it comes, by either version of HTTP. It must not know whose it is.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use hyper::body::{Body, Frame, SizeHint};

use super::headers;
use super::sent::BoxError;

/// A request's body, or an answer's.
pub enum Incoming {
    /// None: bytes of another protocol follow.
    Empty,
    /// Read by hyper.
    Http1(hyper::body::Incoming),
    /// Read off a stream.
    Http2(Received),
}

/// The body of a stream. Window is given back as its pieces are taken.
pub struct Received {
    stream: RecvStream,
    /// What the head says; h2 has the stream reset when it is not so.
    length: Option<u64>,
    is_data_over: bool,
}

impl Received {
    /// Of a stream with this head.
    pub fn new(stream: RecvStream, head: &HeaderMap) -> Self {
        let told = head.get(CONTENT_LENGTH);
        let told = told.and_then(|value| value.to_str().ok()?.parse().ok());
        Self {
            length: told.or(stream.is_end_stream().then_some(0)),
            stream,
            is_data_over: false,
        }
    }

    /// The stream itself.
    pub fn into_stream(self) -> RecvStream {
        self.stream
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.is_data_over {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    let count = data.len();
                    // It fails for a stream that is over, which needs no window.
                    let _ = self.stream.flow_control().release_capacity(count);
                    if let Some(length) = &mut self.length {
                        *length = length.saturating_sub(count as u64);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(early_end(error)),
                None => self.is_data_over = true,
            }
        }
        Poll::Ready(match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => early_end(error),
        })
    }
}

/// A reset without an error ends a body that nobody needs any more (RFC 9113 8.1).
fn early_end<T>(error: h2::Error) -> Option<Result<T, h2::Error>> {
    (error.reason() != Some(Reason::NO_ERROR)).then_some(Err(error))
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut polled = match self.get_mut() {
            Self::Empty => return Poll::Ready(None),
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Http2(body) => body.poll(cx).map_err(Into::into),
        };
        if let Poll::Ready(Some(Ok(frame))) = &mut polled
            && let Some(trailers) = frame.trailers_mut()
        {
            headers::end_trailers(trailers);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.length.map_or_else(SizeHint::new, SizeHint::with_exact),
        }
    }
}
