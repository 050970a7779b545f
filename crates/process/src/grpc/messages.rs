//! A call with messages in both directions for as long as it is open: gRPC over HTTP/2.
//!
//! tonic makes such calls too, but reads into one buffer that it keeps: after a push of 50,000
//! workloads those are 15 MB for as long as the stream is open. Here the memory of a large message
//! goes with the message. It must not know what the messages say.

use std::marker::PhantomData;

use futures::{Stream, StreamExt};
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderValue, Method, StatusCode, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// A byte of flags and four of length stand before each message (gRPC over HTTP/2,
/// "Length-Prefixed-Message").
const PREFIX_BYTES: usize = 5;
/// A buffer up to this size is kept for the next message: ordinary changes fit.
const KEPT_BYTES: usize = 64 * 1024;

/// The server's side of a call.
pub(crate) struct Messages<M> {
    body: Body,
    /// The beginning of the next message.
    buffer: Vec<u8>,
    most_bytes: usize,
    message: PhantomData<fn() -> M>,
}

/// Calls `path` with the client's messages. Messages of more than `most_bytes` are refused.
///
/// # Errors
/// No connection, or the server's refusal.
pub(crate) async fn call<C, M>(
    mut channel: Channel,
    path: &'static str,
    request: Request<impl Stream<Item = C> + Send + 'static>,
    most_bytes: usize,
) -> Result<Messages<M>, Status>
where
    C: prost::Message + 'static,
{
    let (metadata, _, messages) = request.into_parts();
    let frames = messages.map(|message| Ok::<_, Status>(Frame::data(prefixed(&message)?)));
    let mut request = http::Request::new(Body::new(StreamBody::new(frames)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(path);
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = metadata.into_headers();
    let headers = request.headers_mut();
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let ready = futures::future::poll_fn(|cx| channel.poll_ready(cx)).await;
    ready.map_err(|error| Status::from_error(error.into()))?;
    let response = channel.call(request).await;
    let response = response.map_err(|error| Status::from_error(error.into()))?;
    let (head, body) = response.into_parts();
    match Status::from_header_map(&head.headers) {
        Some(status) if status.code() != Code::Ok => return Err(status),
        _ if head.status != StatusCode::OK => return Err(foreign(head.status)),
        _ => {}
    }
    Ok(Messages {
        body,
        buffer: Vec::new(),
        most_bytes,
        message: PhantomData,
    })
}

impl<M: prost::Message + Default> Messages<M> {
    /// The next message; None when the server has ended the call well. May be cancelled.
    ///
    /// # Errors
    /// The server's status, or the connection broke, or what came is no message.
    pub(crate) async fn next(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = self.whole()? {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await.transpose()? else {
                return self.ended(None);
            };
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    let trailers = frame.into_trailers().ok();
                    let status = trailers.as_ref().and_then(Status::from_header_map);
                    return self.ended(status);
                }
            }
        }
    }

    fn ended(&self, status: Option<Status>) -> Result<Option<M>, Status> {
        match status {
            Some(status) if status.code() != Code::Ok => Err(status),
            _ if !self.buffer.is_empty() => Err(Status::internal("it ended within a message")),
            _ => Ok(None),
        }
    }

    /// The message at the beginning of the buffer, when all of it is there.
    fn whole(&mut self) -> Result<Option<M>, Status> {
        let Some((&[flags, a, b, c, d], rest)) = self.buffer.split_first_chunk() else {
            return Ok(None);
        };
        if flags != 0 {
            return Err(Status::internal("a compressed message was not asked for"));
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.most_bytes {
            let most = self.most_bytes;
            return Err(Status::out_of_range(format!(
                "a message of {length} bytes came, the limit is {most}"
            )));
        }
        let Some(bytes) = rest.get(..length) else {
            let missing = length - rest.len();
            self.buffer.reserve_exact(missing);
            return Ok(None);
        };
        let message = M::decode(bytes).map_err(|error| Status::internal(error.to_string()))?;
        let end = PREFIX_BYTES + length;
        if self.buffer.capacity() > KEPT_BYTES {
            self.buffer = self.buffer[end..].to_vec();
        } else {
            self.buffer.drain(..end);
        }
        Ok(Some(message))
    }
}

fn prefixed(message: &impl prost::Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length)
        .map_err(|_| Status::out_of_range(format!("a message of {length} bytes")))?;
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + length);
    bytes.push(0);
    bytes.extend_from_slice(&prefix.to_be_bytes());
    message
        .encode(&mut bytes)
        .map_err(|error| Status::internal(error.to_string()))?;
    Ok(bytes.into())
}

/// Who answers in HTTP alone is no gRPC server (gRPC over HTTP/2, "HTTP to gRPC Status Code
/// Mapping").
fn foreign(status: StatusCode) -> Status {
    let code = match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    Status::new(
        code,
        format!("the answer is HTTP {status} without a gRPC status"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use prost_types::Any;

    fn message(size: usize) -> Any {
        Any {
            type_url: "t".to_owned(),
            value: vec![7; size],
        }
    }

    /// What a server sends, in frames of that many bytes, and its trailers.
    fn sent(bytes: &[u8], frame: usize, trailers: Option<&'static str>) -> Messages<Any> {
        let data: Vec<_> = bytes
            .chunks(frame)
            .map(|part| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(part))))
            .collect();
        let trailers = trailers.map(|status| {
            let status = HeaderValue::from_static(status);
            Ok(Frame::trailers(HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                status,
            )])))
        });
        Messages {
            body: Body::new(StreamBody::new(futures::stream::iter(
                data.into_iter().chain(trailers),
            ))),
            buffer: Vec::new(),
            most_bytes: 1 << 20,
            message: PhantomData,
        }
    }

    fn wire(sizes: &[usize]) -> Vec<u8> {
        let all = sizes.iter().map(|size| prefixed(&message(*size)).unwrap());
        all.flat_map(|bytes| bytes.to_vec()).collect()
    }

    #[tokio::test]
    async fn messages_come_whole_however_they_are_cut() {
        let sizes = [0, 1, 3 * KEPT_BYTES, 5, KEPT_BYTES, 0];
        for frame in [1, 4, 5, 6, 1000, 16 << 10, 1 << 20] {
            let mut messages = sent(&wire(&sizes), frame, Some("0"));
            for size in sizes {
                assert_eq!(
                    messages.next().await.unwrap(),
                    Some(message(size)),
                    "{frame}"
                );
            }
            assert_eq!(messages.next().await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn the_memory_of_a_large_message_goes_with_it() {
        let mut messages = sent(&wire(&[1 << 19, 3]), 1000, None);
        assert!(messages.next().await.unwrap().is_some());
        assert!(messages.buffer.capacity() <= KEPT_BYTES);
        assert_eq!(messages.next().await.unwrap(), Some(message(3)));
    }

    #[tokio::test]
    async fn what_is_no_message_ends_the_call_with_the_reason() {
        let cases: [(Vec<u8>, Option<&'static str>, Code); 6] = [
            (Vec::new(), Some("7"), Code::PermissionDenied),
            (wire(&[9])[..8].to_vec(), None, Code::Internal),
            (wire(&[9])[..8].to_vec(), Some("0"), Code::Internal),
            (vec![1, 0, 0, 0, 0], None, Code::Internal),
            (vec![0, 0, 0x20, 0, 0], None, Code::OutOfRange),
            (vec![0, 0, 0, 0, 1, 0xff], None, Code::Internal),
        ];
        for (bytes, trailers, code) in cases {
            let error = sent(&bytes, 3, trailers).next().await.unwrap_err();
            assert_eq!(error.code(), code, "{bytes:?}: {error}");
        }
    }
}
