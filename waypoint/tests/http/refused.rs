//! What never reaches an endpoint: requests that two parsers could read in two ways, and those that
//! are too large or too slow.

use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::world::{Handler, World, read_answer, read_head, run};

async fn is_refused(world: &World, request: &str, status: u16) {
    let mut client = world.connect();
    client.write_all(request.as_bytes()).await.unwrap();
    let answer = read_answer(&mut client).await;
    let shown = request.chars().take(80).collect::<String>();
    assert_eq!(answer.status, status, "{shown:?}: {answer:?}");
    assert_eq!(answer.header("connection"), Some("close"), "{shown:?}");
    assert_eq!(
        read_head(&mut client).await,
        "",
        "the connection is closed: {shown:?}"
    );
    assert!(world.seen.borrow().is_empty(), "{shown:?}");
}

#[test]
fn requests_that_can_be_read_in_two_ways_are_answered_with_400() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let smuggled = "GET /admin HTTP/1.1\r\nHost: shop\r\n\r\n";
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 40",
            "Content-Length: 5\r\nContent-Length: 5",
            "Transfer-Encoding : chunked",
            "X: a\r\n folded: b",
            "X: a\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: \x0bchunked",
            "Host: other",
        ] {
            let request =
                format!("POST / HTTP/1.1\r\nHost: shop\r\n{fields}\r\n\r\n0\r\n\r\n{smuggled}");
            is_refused(&world, &request, 400).await;
        }
        is_refused(&world, "GET / HTTP/1.1\r\n\r\n", 400).await;
        is_refused(&world, "GET / HTTP/1.1\nHost: shop\n\n", 400).await;
        is_refused(&world, "GARBAGE\r\n\r\n", 400).await;
        let records = world.site.records.borrow();
        assert!(
            records
                .iter()
                .all(|one| one.reason.unwrap().as_str() == "bad_request")
        );
    });
}

#[test]
fn a_head_that_is_too_large_is_answered_with_414_or_431() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let long = format!(
            "GET /{} HTTP/1.1\r\nHost: shop\r\n\r\n",
            "a".repeat(16 << 10)
        );
        is_refused(&world, &long, 414).await;
        let many = format!(
            "GET / HTTP/1.1\r\nHost: shop\r\n{}\r\n",
            "x: y\r\n".repeat(101)
        );
        is_refused(&world, &many, 431).await;
        let large = format!(
            "GET / HTTP/1.1\r\nHost: shop\r\nx: {}\r\n\r\n",
            "y".repeat(70_000)
        );
        is_refused(&world, &large[..66_000], 431).await;
        // What just fits goes through.
        let fits = format!("GET /{} HTTP/1.1\r\nHost: shop\r\n\r\n", "a".repeat(16_000));
        assert_eq!(world.ask(&fits).await.status, 200);
        let fits = format!(
            "GET / HTTP/1.1\r\nHost: shop\r\nx: {}\r\n\r\n",
            "y".repeat(60_000)
        );
        assert_eq!(world.ask(&fits).await.status, 200);
    });
}

#[test]
fn what_came_before_it_is_answered_first() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let mut client = world.connect();
        let good = "GET /good HTTP/1.1\r\nHost: shop\r\n\r\n";
        let requests = format!("{good}{good}GET /bad HTTP/1.1\r\nHost : shop\r\n\r\n{good}");
        client.write_all(requests.as_bytes()).await.unwrap();
        for status in [200, 200, 400] {
            assert_eq!(read_answer(&mut client).await.status, status);
        }
        assert_eq!(read_head(&mut client).await, "");
        assert_eq!(world.seen.borrow().len(), 2);
    });
}

#[test]
fn a_body_whose_chunks_are_broken_is_broken_off() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let request = "POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n\
                       5\r\nhello\nGET /admin HTTP/1.1\r\nHost: shop\r\n\r\n";
        let mut client = world.connect();
        client.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(read_answer(&mut client).await.status, 400);
        assert_eq!(read_head(&mut client).await, "");
        let seen = world.seen.borrow();
        assert!(
            seen.iter().all(|one| &one.body[..] == b"broken off"),
            "{seen:?}"
        );
    });
}

#[test]
fn a_head_that_trickles_in_is_answered_with_408() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let mut client = world.connect();
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: sh")
            .await
            .unwrap();
        let answer = read_answer(&mut client).await;
        assert_eq!(answer.status, 408);
        assert_eq!(read_head(&mut client).await, "");

        // Also on a connection that had a request before.
        let mut client = world.connect();
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\nG")
            .await
            .unwrap();
        assert_eq!(read_answer(&mut client).await.status, 200);
        assert_eq!(read_answer(&mut client).await.status, 408);
    });
}

/// While a request takes longer than a head may, and hyper holds another and reads nothing.
#[test]
fn a_head_that_is_late_behind_a_slow_request_holds_up_nobody() {
    run(async |world| {
        let slow: Handler = Rc::new(|mut stream| {
            Box::pin(async move {
                read_head(&mut stream).await;
                tokio::time::sleep(Duration::from_secs(40)).await;
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _ = stream.write_all(answer).await;
            })
        });
        world.endpoint("", "v1", Some(slow));
        let mut client = world.connect();
        let good = "GET / HTTP/1.1\r\nHost: shop\r\n\r\n";
        let requests = format!("{good}{good}G");
        client.write_all(requests.as_bytes()).await.unwrap();
        for status in [200, 200, 408] {
            assert_eq!(read_answer(&mut client).await.status, status);
        }
    });
}

#[test]
fn a_connection_without_requests_is_closed_after_a_while() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let mut silent = world.connect();
        assert_eq!(read_head(&mut silent).await, "");
        let mut idle = world.connect();
        idle.write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(read_answer(&mut idle).await.status, 200);
        assert_eq!(read_head(&mut idle).await, "");
    });
}

#[test]
fn http2_has_the_same_bounds() {
    run(async |world| {
        world.endpoint("", "v1", world.echo_http2("v1"));
        let mut sender = world.connect_http2().await;
        let mut ask = async |request: http::request::Builder| {
            let request = request
                .body(http_body_util::Empty::<bytes::Bytes>::new())
                .unwrap();
            sender
                .send_request(request)
                .await
                .map(|answer| answer.status().as_u16())
        };
        let long = format!("http://shop/{}", "a".repeat(16 << 10));
        assert_eq!(ask(http::Request::get(long)).await.unwrap(), 414);
        let mut many = http::Request::get("http://shop/");
        for n in 0..101 {
            many = many.header(format!("x-{n}"), "y");
        }
        assert_eq!(ask(many).await.unwrap(), 431);
        let large = http::Request::get("http://shop/").header("x-large", "y".repeat(66_000));
        assert_eq!(ask(large).await.unwrap(), 431);
        let other = http::Request::get("http://shop/").header("host", "other");
        assert_eq!(ask(other).await.unwrap(), 400);
        let hosts = http::Request::get("http://shop/").header("host", "shop");
        assert_eq!(ask(hosts.header("host", "shop")).await.unwrap(), 400);
        let twice = http::Request::get("http://shop/").header("content-length", "0");
        let twice = twice.header("content-length", "0");
        assert_eq!(ask(twice).await.unwrap(), 400);
        assert!(world.seen.borrow().is_empty());
        assert_eq!(ask(http::Request::get("http://shop/")).await.unwrap(), 200);
    });
}

#[test]
fn a_connection_that_is_closed_here_is_read_to_its_end() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        for request in [
            "GET / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n",
            "BAD\r\n\r\n",
        ] {
            let mut client = world.connect();
            client.write_all(request.as_bytes()).await.unwrap();
            read_answer(&mut client).await;
            assert_eq!(read_head(&mut client).await, "", "it is ended");
            client
                .write_all(b"more")
                .await
                .expect("and not broken off while the client sends");
            tokio::time::sleep(std::time::Duration::from_secs(6)).await;
            client
                .write_all(b"more")
                .await
                .expect_err("but not for ever");
        }
    });
}

#[test]
fn head_has_no_body_also_when_it_is_answered_here() {
    run(async |world| {
        world.route(Vec::new());
        let mut sender = world.connect_http2().await;
        let request = http::Request::head("http://shop/");
        let request = request
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 404);
        assert_eq!(answer.headers().get("content-length").unwrap(), "39");
        let body = http_body_util::BodyExt::collect(answer.into_body())
            .await
            .unwrap();
        assert_eq!(body.to_bytes(), "");

        let mut client = world.connect();
        let request = b"HEAD / HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n";
        client.write_all(request).await.unwrap();
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 404"), "{head}");
        assert_eq!(read_head(&mut client).await, "");
    });
}
