//! Clients that shut their sending side behind a request and read on, and clients that are gone.

use std::io::{Error, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::world::{Handler, World, read_answer, read_head, run};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n";

/// Answers after a while, with more than any stream holds.
fn slow_and_large() -> Option<Handler> {
    Some(std::rc::Rc::new(|mut stream| {
        Box::pin(async move {
            while !read_head(&mut stream).await.is_empty() {
                tokio::time::sleep(Duration::from_secs(60)).await;
                let head = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n";
                if stream.write_all(head).await.is_err()
                    || stream.write_all(&[b'x'; 300_000]).await.is_err()
                {
                    return;
                }
            }
        })
    }))
}

async fn reason(world: &World) -> (u64, &'static str) {
    while world.site.records.borrow().is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let record = world.record().await;
    let reason = record.reason.map_or("", |reason| reason.as_str());
    (record.duration.as_secs(), reason)
}

#[test]
fn a_client_that_has_nothing_more_to_say_is_answered_whole() {
    run(async |world| {
        world.endpoint("", "v1", slow_and_large());
        let mut client = world.connect();
        client.write_all(GET).await.unwrap();
        client.shutdown().await.unwrap();
        let answer = read_answer(&mut client).await;
        assert_eq!((answer.status, answer.body.len()), (200, 300_000));
        assert_eq!(read_head(&mut client).await, "", "and the connection ends");
        assert_eq!(reason(&world).await, (60, ""));
    });
}

#[test]
fn all_requests_before_the_end_are_answered() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        for whole in ["", "GET /cut HTTP/1.1\r\nHo"] {
            let post = "POST /b HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\nhi";
            let upgrade =
                "GET /c HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
            let get = std::str::from_utf8(GET).unwrap();
            let mut client = world.connect();
            let all = format!("{get}{post}{upgrade}{get}{whole}");
            client.write_all(all.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            for path in ["/a", "/b", "/c", "/a"] {
                let answer = read_answer(&mut client).await;
                assert_eq!(answer.text(), format!("v1 {path}"));
            }
            assert_eq!(read_head(&mut client).await, "");
        }
    });
}

#[test]
fn a_body_that_the_end_cuts_short_is_not_passed_on_as_whole() {
    for body in [
        "Content-Length: 9\r\n\r\npart",
        "Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
        "Transfer-Encoding: chunked\r\n\r\n4\r\npart\r\n0\r\n",
    ] {
        run(async |world| {
            world.endpoint("", "v1", world.echo("v1"));
            let mut client = world.connect();
            let request = format!("POST / HTTP/1.1\r\nHost: shop\r\n{body}");
            client.write_all(request.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            let mut rest = Vec::new();
            let _ = client.read_to_end(&mut rest).await;
            assert!(!rest.starts_with(b"HTTP/1.1 200"), "{body}");
            while world.seen.borrow().is_empty() {
                tokio::task::yield_now().await;
            }
            assert_eq!(world.seen.borrow()[0].body, "broken off", "{body}");
        });
    }
}

#[test]
fn a_client_that_ends_and_does_not_read_is_gone_when_it_is_written_to() {
    run(async |world| {
        let upstream = world.endpoint("", "v1", slow_and_large());
        let mut client = world.connect();
        client.write_all(GET).await.unwrap();
        drop(client);
        assert_eq!(reason(&world).await, (60, "client_gone"));
        assert_eq!(upstream.load(), 0);
    });
}

#[test]
fn who_has_ended_waits_for_a_silent_endpoint_no_longer_than_for_a_stalled_one() {
    run(async |world| {
        world.endpoint("", "v1", world.raw(b""));
        let mut client = world.connect();
        client.write_all(GET).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_answer(&mut client).await.status, 504);
        let (seconds, reason) = reason(&world).await;
        assert_eq!(reason, "endpoint_stalled");
        assert!((300..=600).contains(&seconds), "{seconds}");
    });
}

/// A connection whose end is a reset.
pub struct Torn(pub TokioIo<DuplexStream>);

impl Read for Torn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<Result<(), Error>> {
        let mut memory = [0; 512];
        let room = buffer.remaining().min(512);
        let mut read = ReadBuf::new(&mut memory[..room]);
        ready!(Pin::new(&mut self.0).poll_read(cx, read.unfilled()))?;
        if read.filled().is_empty() {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        buffer.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl Write for Torn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, Error>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize, Error>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, pieces)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[test]
fn a_client_that_is_reset_is_gone_at_once_though_nothing_else_moves() {
    run(async |world| {
        // Answers the first request, and none on the same connection after it.
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let upstream = world.endpoint("", "v1", world.raw(answer));
        let (mut client, theirs) = tokio::io::duplex(1024);
        let proxy = world.proxy.clone();
        world.spawn(proxy.serve(Torn(TokioIo::new(theirs)), world.asked.clone()));
        client.write_all(GET).await.unwrap();
        assert_eq!(read_answer(&mut client).await.status, 200);
        while upstream.load() > 0 {
            tokio::task::yield_now().await;
        }
        client.write_all(GET).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(upstream.load(), 1);
        drop(client);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(upstream.load(), 0);
        let last = world.site.records.borrow().last().cloned().unwrap();
        assert_eq!(last.reason.unwrap().as_str(), "client_gone");
        assert_eq!(world.site.opened.get(), 1);
    });
}
