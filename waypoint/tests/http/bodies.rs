//! Bodies: lengths, chunks, trailers, interim answers, early answers, clients that go away.

use bytes::Bytes;
use http_body_util::BodyExt;
use mesh::service::AppProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Handler, World, read_answer, read_head, run};

#[test]
fn a_body_goes_through_by_its_length() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let body = "x".repeat(300_000);
        let length = body.len();
        let mut client = world.connect();
        let head = format!("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: {length}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(body.as_bytes()).await.unwrap();
        assert_eq!(read_answer(&mut client).await.status, 200);
        let seen = world.seen.borrow()[0].clone();
        assert_eq!(seen.body, body);
        assert_eq!(seen.header("content-length"), length.to_string());
        assert_eq!(world.record().await.bytes.0, length as u64);
    });
}

#[test]
fn chunks_and_trailers_go_through() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let request = "POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\
                       TE: trailers\r\nTrailer: x-sum\r\n\r\n\
                       5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n";
        assert_eq!(world.ask(request).await.status, 200);
        let seen = world.seen.borrow()[0].clone();
        assert_eq!(seen.body, "hello world");
        assert_eq!(seen.header("transfer-encoding"), "chunked");
        assert_eq!(seen.trailers.unwrap().get("x-sum").unwrap(), "11");
    });
    run(async |world| {
        world.endpoint(
            "",
            "v1",
            world.raw(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
              5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n",
            ),
        );
        let mut client = world.connect();
        let request = b"GET / HTTP/1.1\r\nHost: shop\r\nTE: trailers\r\n\r\n";
        client.write_all(request).await.unwrap();
        let head = read_head(&mut client).await;
        assert!(head.contains("transfer-encoding: chunked"), "{head}");
        let mut rest = vec![0; b"5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n".len()];
        client.read_exact(&mut rest).await.unwrap();
        let rest = String::from_utf8(rest).unwrap().to_lowercase();
        assert_eq!(rest, "5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n");
    });
}

#[test]
fn a_get_with_a_body_keeps_it() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let request = "GET / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n\
                       5\r\nhello\r\n0\r\n\r\n";
        assert_eq!(world.ask(request).await.status, 200);
        assert_eq!(world.seen.borrow()[0].body, "hello");
    });
}

#[test]
fn an_answer_streams_while_the_endpoint_still_writes() {
    run(async |world| {
        let handler: Handler = std::rc::Rc::new(|mut stream| {
            Box::pin(async move {
                read_head(&mut stream).await;
                let start = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
                stream.write_all(start).await.unwrap();
                // The rest follows only when the client says that it has this.
                let mut go = [0; 1];
                let _ = stream.read(&mut go).await;
            })
        });
        world.endpoint("", "v1", Some(handler));
        let mut client = world.connect();
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
            .await
            .unwrap();
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let mut piece = [0; 8];
        client.read_exact(&mut piece).await.unwrap();
        assert_eq!(&piece, b"3\r\none\r\n");
    });
}

#[test]
fn a_request_streams_while_the_client_still_writes() {
    run(async |world| {
        let handler: Handler = std::rc::Rc::new(|mut stream| {
            Box::pin(async move {
                read_head(&mut stream).await;
                let mut first = [0; 8];
                stream.read_exact(&mut first).await.unwrap();
                assert_eq!(&first, b"3\r\none\r\n");
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await
                    .unwrap();
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
            })
        });
        world.endpoint("", "v1", Some(handler));
        let mut client = world.connect();
        let start =
            b"POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
        client.write_all(start).await.unwrap();
        // The request has no end, and is answered.
        assert_eq!(read_answer(&mut client).await.text(), "ok");
    });
}

fn continuing(answer: &'static [u8]) -> Handler {
    std::rc::Rc::new(move |mut stream| {
        Box::pin(async move {
            let head = read_head(&mut stream).await.to_lowercase();
            assert!(head.contains("expect: 100-continue"), "{head}");
            stream.write_all(answer).await.unwrap();
            let mut rest = [0; 5];
            if stream.read_exact(&mut rest).await.is_ok() && answer.starts_with(b"HTTP/1.1 100") {
                assert_eq!(&rest, b"hello");
                stream
                    .write_all(b"HTTP/1.1 201 Made\r\nContent-Length: 0\r\n\r\n")
                    .await
                    .unwrap();
                let _ = stream.read(&mut rest).await;
            }
        })
    })
}

const EXPECTING: &[u8] =
    b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";

#[test]
fn a_body_is_asked_for_when_the_endpoint_asks_for_it() {
    run(async |world| {
        let answer = b"HTTP/1.1 100 Continue\r\n\r\n";
        world.endpoint("", "v1", Some(continuing(answer)));
        let mut client = world.connect();
        client.write_all(EXPECTING).await.unwrap();
        assert_eq!(
            read_head(&mut client).await,
            "HTTP/1.1 100 Continue\r\n\r\n"
        );
        client.write_all(b"hello").await.unwrap();
        assert_eq!(read_answer(&mut client).await.status, 201);
    });
}

#[test]
fn a_body_that_the_endpoint_does_not_want_is_never_asked_for() {
    run(async |world| {
        let answer = b"HTTP/1.1 417 No\r\nContent-Length: 0\r\n\r\n";
        world.endpoint("", "v1", Some(continuing(answer)));
        let mut client = world.connect();
        client.write_all(EXPECTING).await.unwrap();
        assert_eq!(
            read_answer(&mut client).await.status,
            417,
            "and no 100 before it"
        );
    });
}

#[test]
fn an_endpoint_that_knows_no_100_gets_the_body_after_a_while() {
    run(async |world| {
        let handler: Handler = std::rc::Rc::new(|mut stream| {
            Box::pin(async move {
                read_head(&mut stream).await;
                let mut body = [0; 5];
                stream.read_exact(&mut body).await.unwrap();
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    .await
                    .unwrap();
                let _ = stream.read(&mut body).await;
            })
        });
        world.endpoint("", "v1", Some(handler));
        let mut client = world.connect();
        client.write_all(EXPECTING).await.unwrap();
        assert_eq!(
            read_head(&mut client).await,
            "HTTP/1.1 100 Continue\r\n\r\n"
        );
        client.write_all(b"hello").await.unwrap();
        assert_eq!(read_answer(&mut client).await.status, 200);
    });
}

#[test]
fn early_hints_reach_the_client_before_the_answer() {
    run(async |world| {
        world.endpoint(
            "",
            "v1",
            world.raw(
                b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x\r\n\r\n\
              HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            ),
        );
        let mut client = world.connect();
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
            .await
            .unwrap();
        let hints = read_head(&mut client).await;
        assert_eq!(hints, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n");
        assert_eq!(read_answer(&mut client).await.text(), "ok");
    });
    run(async |world| {
        world.endpoint(
            "",
            "v1",
            world.raw(
                b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            ),
        );
        let answer = world.ask("GET / HTTP/1.0\r\n\r\n").await;
        assert_eq!(answer.status, 200, "HTTP/1.0 knows no interim answers");
    });
}

#[test]
fn an_answer_that_breaks_off_breaks_off_for_the_client_too() {
    run(async |world| {
        let handler: Handler = std::rc::Rc::new(|mut stream| {
            Box::pin(async move {
                read_head(&mut stream).await;
                let part = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
                stream.write_all(part).await.unwrap();
            })
        });
        world.endpoint("", "v1", Some(handler));
        let mut client = world.connect();
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
            .await
            .unwrap();
        read_head(&mut client).await;
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
        assert!(rest.len() < 100);
        assert_eq!(world.record().await.reason.unwrap().as_str(), "broken");
    });
}

/// Nothing could be sent on with them over HTTP/2: the whole answer would be broken off.
#[test]
fn trailers_lose_what_belongs_to_the_connection() {
    run(async |world| {
        let answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n\
              5\r\nhello\r\n0\r\nX-Sum: 5\r\nKeep-Alive: timeout=5\r\nConnection: x-mine\r\n\
              X-Mine: 1\r\nContent-Length: 7\r\n\r\n";
        world.endpoint_speaking("", "v1", AppProtocol::Http11, world.raw(answer));
        let mut sender = world.connect_http2().await;
        let body = http_body_util::Empty::<Bytes>::new();
        let request = http::Request::get("http://shop/").body(body).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let whole = answer.into_body().collect().await.unwrap();
        let trailers = whole.trailers().unwrap();
        assert_eq!(trailers.len(), 1, "{trailers:?}");
        assert_eq!(trailers["x-sum"], "5");
        assert_eq!(whole.to_bytes(), "hello");
    });
}

#[test]
fn trailers_of_http2_go_both_ways() {
    run(async |world| {
        streams_both_ways(&world).await;
    });
}

async fn streams_both_ways(world: &World) {
    world.endpoint("", "v1", world.echo_http2("v1"));
    let mut sender = world.connect_http2().await;
    let trailers = http::HeaderMap::from_iter([(
        http::HeaderName::from_static("x-sum"),
        http::HeaderValue::from_static("5"),
    )]);
    let body = http_body_util::Full::new(Bytes::from("hello"));
    let body = body.with_trailers(std::future::ready(Some(Ok(trailers))));
    let request = http::Request::post("http://shop/").body(body).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
    let seen = world.seen.borrow()[0].clone();
    assert_eq!(seen.body, "hello");
    assert_eq!(seen.trailers.unwrap().get("x-sum").unwrap(), "5");
}
