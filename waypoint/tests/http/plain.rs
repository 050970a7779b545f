//! Requests that simply go through, and what a proxy does to their fields.

use tokio::io::AsyncWriteExt;

use crate::world::{read_answer, read_head, run};

#[test]
fn a_request_reaches_the_addressed_service_and_its_answer_comes_back() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let answer = world.get("/a?b=c").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "v1 /a?b=c"));
        let seen = world.seen.borrow()[0].clone();
        assert_eq!(seen.header("host"), "shop");
        assert_eq!(seen.header("x-forwarded-for"), "10.0.0.7");
        assert_eq!(seen.header("x-forwarded-proto"), "http");
        assert_eq!(seen.header("x-forwarded-host"), "shop");
        assert_eq!(seen.header("x-request-id").len(), 36);
        assert_eq!(seen.header("traceparent").len(), 55);
        assert_eq!(seen.header("via"), "");
        assert_eq!(answer.header("server"), None);
        let record = world.record().await;
        assert_eq!(record.status.unwrap(), 200);
        assert_eq!((record.reason, record.tries), (None, 1));
        assert_eq!(record.endpoint.as_deref(), Some("v1"));
        assert_eq!(record.authority, "shop");
        assert_eq!(record.bytes, (0, 9));
    });
}

#[test]
fn connections_are_kept_on_both_sides() {
    run(async |world| {
        let upstream = world.endpoint("", "v1", world.echo("v1"));
        let mut client = world.connect();
        for path in ["/1", "/2", "/3"] {
            let request = format!("GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            assert_eq!(read_answer(&mut client).await.text(), format!("v1 {path}"));
        }
        assert_eq!(world.site.opened.get(), 1);
        assert_eq!((upstream.load(), upstream.kept()), (0, 1));
    });
}

#[test]
fn an_idle_connection_to_an_endpoint_is_closed_after_a_while() {
    run(async |world| {
        let upstream = world.endpoint("", "v1", world.echo("v1"));
        world.get("/").await;
        tokio::time::sleep(world.site.limits.upstream_idle_timeout * 3).await;
        assert_eq!(upstream.kept(), 0);
        world.get("/").await;
        assert_eq!(world.site.opened.get(), 2);
    });
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let mut client = world.connect();
        let requests: String = (0..20)
            .map(|n| format!("GET /{n} HTTP/1.1\r\nHost: shop\r\n\r\n"))
            .collect();
        client.write_all(requests.as_bytes()).await.unwrap();
        for n in 0..20 {
            assert_eq!(read_answer(&mut client).await.text(), format!("v1 /{n}"));
        }
    });
}

#[test]
fn fields_of_the_connection_end_here() {
    run(async |world| {
        world.endpoint(
            "",
            "v1",
            world.raw(
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-inner\r\nX-Inner: 1\r\n\
              Keep-Alive: timeout=3\r\nX-Outer: 2\r\n\r\nok",
            ),
        );
        let answer = world.get("/").await;
        assert_eq!(answer.header("x-inner"), None);
        assert_eq!(answer.header("keep-alive"), None);
        assert_eq!(answer.header("x-outer"), Some("2"));

        world.endpoint("", "v2", None);
    });
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        world
            .ask(
                "GET / HTTP/1.1\r\nHost: shop\r\nConnection: x-mine, keep-alive\r\nX-Mine: 1\r\n\
                 Keep-Alive: 5\r\nProxy-Connection: x\r\nTE: gzip, trailers\r\nX-Other: 2\r\n\r\n",
            )
            .await;
        let seen = world.seen.borrow()[0].clone();
        for gone in ["x-mine", "keep-alive", "proxy-connection"] {
            assert_eq!(seen.header(gone), "", "{gone}");
        }
        assert_eq!(seen.header("te"), "trailers");
        assert_eq!(seen.header("x-other"), "2");
    });
}

#[test]
fn an_absolute_target_counts_instead_of_host() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let request = "GET http://other:80/x HTTP/1.1\r\nHost: shop\r\n\r\n";
        assert_eq!(world.ask(request).await.text(), "v1 /x");
        assert_eq!(world.seen.borrow()[0].header("host"), "other:80");
    });
}

#[test]
fn head_has_the_length_of_get_and_no_body() {
    run(async |world| {
        world.endpoint(
            "",
            "v1",
            world.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
        );
        let mut client = world.connect();
        let request = b"HEAD / HTTP/1.1\r\nHost: shop\r\n\r\n";
        client.write_all(request).await.unwrap();
        let head = read_head(&mut client).await;
        assert!(
            head.to_lowercase().contains("content-length: 500\r\n"),
            "{head}"
        );
        assert_eq!(world.record().await.bytes, (0, 0));
    });
}

#[test]
fn a_client_of_http_1_0_gets_an_answer_that_ends_with_the_connection() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let answer = world.ask("GET /old HTTP/1.0\r\n\r\n").await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "v1 /old"));
    });
}

#[test]
fn http2_downstream_follows_to_http2_upstream_and_shares_a_connection() {
    run(async |world| {
        world.endpoint("", "v1", world.echo_http2("v1"));
        let mut sender = world.connect_http2().await;
        for path in ["/1", "/2"] {
            let request = http::Request::get(format!("http://shop{path}"));
            let request = request
                .body(http_body_util::Empty::<bytes::Bytes>::new())
                .unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert_eq!(answer.status(), 200);
        }
        assert_eq!(world.site.opened.get(), 1);
        let seen = world.seen.borrow();
        assert!(seen[1].is_http2);
        assert_eq!(seen[1].uri.authority().unwrap(), "shop");
        assert_eq!(seen[1].header("host"), "");
        assert_eq!(seen[1].header("x-forwarded-host"), "shop");
    });
}

#[test]
fn what_a_service_says_that_it_speaks_is_spoken() {
    use mesh::service::AppProtocol::{Http2, Http11};
    run(async |world| {
        world.endpoint_speaking("", "v2", Http2, world.echo_http2("v2"));
        assert_eq!(world.get("/").await.text(), "v2 /");
        assert!(world.seen.borrow()[0].is_http2);
    });
    run(async |world| {
        world.endpoint_speaking("", "v1", Http11, world.echo("v1"));
        let mut sender = world.connect_http2().await;
        let request = http::Request::get("http://shop/x");
        let request = request
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 200);
        let seen = world.seen.borrow();
        assert!(!seen[0].is_http2);
        assert_eq!(seen[0].header("host"), "shop");
    });
}

#[test]
fn a_drained_worker_answers_one_more_request_of_each_connection() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let request = b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n";
        let (mut busy, mut idle) = (world.connect(), world.connect());
        for client in [&mut busy, &mut idle] {
            client.write_all(request).await.unwrap();
            assert_eq!(read_answer(client).await.header("connection"), None);
        }
        world.drain();
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        busy.write_all(request).await.unwrap();
        let answer = read_answer(&mut busy).await;
        assert_eq!(
            (answer.status, answer.header("connection")),
            (200, Some("close"))
        );
        assert_eq!(read_head(&mut busy).await, "", "and it is closed");
        assert_eq!(
            read_head(&mut idle).await,
            "",
            "an idle one is closed in the end"
        );
    });
}
