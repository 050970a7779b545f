//! What is allowed and rare, and what is near to what is allowed: targets, hosts, cookies in
//! pieces, lengths of answers that have no body, codings, heads before broken bodies.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use mesh::service::AppProtocol;
use tokio::io::AsyncWriteExt;

use crate::world::{World, read_answer, read_head, run};

#[test]
fn a_target_has_one_of_the_four_forms_and_the_one_of_its_method() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        for line in [
            "GET other HTTP/1.1",
            "GET other:80 HTTP/1.1",
            "GET * HTTP/1.1",
            "GET ?a HTTP/1.1",
            "POST ftp://shop/ HTTP/1.1",
            "GET mailto:a HTTP/1.1",
            "CONNECT /a HTTP/1.1",
            "CONNECT http://shop/a HTTP/1.1",
            "CONNECT shop HTTP/1.1",
            "CONNECT * HTTP/1.1",
        ] {
            let answer = world.ask(format!("{line}\r\nHost: shop\r\n\r\n")).await;
            assert_eq!(answer.status, 400, "{line}: {}", answer.text());
        }
        assert!(world.seen.borrow().is_empty(), "none goes on");
        for (line, path) in [
            ("GET /a?b HTTP/1.1", "/a?b"),
            ("GET //a HTTP/1.1", "//a"),
            ("GET http://shop HTTP/1.1", "/"),
            ("GET https://shop/a HTTP/1.1", "/a"),
            ("OPTIONS * HTTP/1.1", "*"),
        ] {
            let answer = world.ask(format!("{line}\r\nHost: shop\r\n\r\n")).await;
            assert_eq!(answer.text(), format!("v1 {path}"), "{line}");
        }
    });
}

#[test]
fn the_authority_of_an_absolute_target_stands_before_host() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let answer = world
            .ask("GET http://shop/a HTTP/1.1\r\nHost: other\r\n\r\n")
            .await;
        assert_eq!(answer.status, 200);
        assert_eq!(world.seen.borrow()[0].header("host"), "shop");
        assert_eq!(world.record().await.authority, "shop");
    });
}

/// Raw HEADERS of HTTP/2 by the h2 library, which lets more through than hyper.
async fn ask_http2(world: &World, fields: &[(&'static str, &[u8])]) -> u16 {
    let (sender, connection) = h2::client::handshake(world.connect()).await.unwrap();
    world.spawn(async move {
        let _ = connection.await;
    });
    // Without an authority: the version must not say that it is HTTP/2.
    let mut request = http::Request::get("/").body(()).unwrap();
    for (name, value) in fields {
        let value = http::HeaderValue::from_bytes(value).unwrap();
        request.headers_mut().append(*name, value);
    }
    let mut sender = sender.ready().await.unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    answer.await.unwrap().status().as_u16()
}

#[test]
fn a_host_that_is_no_authority_is_refused_in_http2_too() {
    run(async |world| {
        world.endpoint_speaking("", "v1", AppProtocol::Http11, world.echo("v1"));
        for host in [
            &b"user@shop"[..],
            b"shop/a",
            b"shop other",
            b"a,b",
            b"sh\xf6p",
            b"",
        ] {
            assert_eq!(ask_http2(&world, &[("host", host)]).await, 400, "{host:?}");
        }
        assert!(world.seen.borrow().is_empty());
        assert_eq!(ask_http2(&world, &[("host", b"shop:80")]).await, 200);
        assert_eq!(world.seen.borrow()[0].header("host"), "shop:80");
    });
}

#[test]
fn cookies_that_came_in_pieces_are_one_field_to_an_endpoint_of_http1() {
    run(async |world| {
        world.endpoint_speaking("", "v1", AppProtocol::Http11, world.echo("v1"));
        let pieces: [(&str, &[u8]); 4] = [
            ("host", b"shop"),
            ("cookie", b"a=1"),
            ("cookie", b"b=2"),
            ("cookie", b"c=3; d=4"),
        ];
        assert_eq!(ask_http2(&world, &pieces).await, 200);
        let seen = world.seen.borrow();
        let cookies = seen[0].headers.get_all("cookie").iter();
        assert_eq!(cookies.collect::<Vec<_>>(), ["a=1; b=2; c=3; d=4"]);
    });
}

/// Asked in both versions, on a connection of its own each.
async fn heads(world: &World, method: &str, answer: &'static [u8]) -> [String; 2] {
    world.endpoint_speaking("", "v1", AppProtocol::Http11, world.raw(answer));
    let mut client = world.connect();
    let request = format!("{method} / HTTP/1.1\r\nHost: shop\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let first = read_head(&mut client).await.to_lowercase();
    // The connection to the endpoint is kept no longer.
    tokio::time::sleep(std::time::Duration::from_secs(60)).await;
    let mut sender = world.connect_http2::<Empty<Bytes>>().await;
    let request = http::Request::builder().method(method).uri("http://shop/");
    let answer = sender.send_request(request.body(Empty::new()).unwrap());
    let (head, body) = answer.await.unwrap().into_parts();
    assert!(body.collect().await.unwrap().to_bytes().is_empty());
    [first, format!("{} {:?}", head.status, head.headers)]
}

#[test]
fn an_answer_that_has_no_body_tells_no_length_of_one() {
    for head in [
        &b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"[..],
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        run(async |world| {
            for head in heads(&world, "GET", head).await {
                assert!(head.contains("204"), "{head}");
                assert!(!head.contains("content-length"), "{head}");
                assert!(!head.contains("transfer-encoding"), "{head}");
            }
        });
    }
}

#[test]
fn the_length_that_head_tells_is_kept() {
    run(async |world| {
        let told = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        for head in heads(&world, "HEAD", told).await {
            let tells = ["content-length: 5\r\n", "\"content-length\": \"5\""];
            assert!(tells.iter().any(|one| head.contains(one)), "{head}");
        }
    });
}

#[test]
fn an_answer_in_a_coding_that_nobody_asked_for_is_none() {
    for coding in ["gzip, chunked", "gzip", "chunked, chunked", "x"] {
        run(async |world| {
            let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n");
            world.endpoint("", "v1", world.raw(head.leak().as_bytes()));
            assert_eq!(world.get("/").await.status, 502, "{coding}");
        });
    }
}

#[test]
fn a_client_sees_the_head_of_an_answer_whose_body_breaks_at_once() {
    let cut = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Seen: 1\r\n\r\nZZ\r\n";
    run(async |world| {
        world.endpoint_speaking("", "v1", AppProtocol::Http11, world.raw(cut));
        let mut sender = world.connect_http2::<Empty<Bytes>>().await;
        for _ in 0..3 {
            let get = http::Request::get("http://shop/")
                .body(Empty::new())
                .unwrap();
            let answer = sender.send_request(get).await.unwrap();
            assert_eq!(answer.headers()["x-seen"], "1");
            assert!(answer.into_body().collect().await.is_err());
        }
        let mut client = world.connect();
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
            .await
            .unwrap();
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    });
}

#[test]
fn a_body_whose_task_is_refused_fails_its_request_at_once() {
    run(async |world| {
        let http2 = AppProtocol::Http2;
        world.endpoint_speaking("", "v1", http2, world.echo_http2("v1"));
        assert_eq!(world.get("/").await.status, 200);
        let mut client = world.connect();
        let head = b"POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n";
        world.site.tasks_left.set(0);
        client.write_all(head).await.unwrap();
        assert_eq!(read_answer(&mut client).await.status, 503);
        let records = world.site.records.borrow();
        assert!(records[1].duration.as_secs() < 60, "{records:?}");
    });
}
