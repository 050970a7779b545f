//! Slow clients and slow servers, and how much at once: each has a bound and a reason.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::TokioIo;
use mesh::service::AppProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint::http::site::Limits;

use crate::world::{Handler, World, read_answer, read_head, run, run_with};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n";

/// Answers with more than anybody holds.
fn endless() -> Option<Handler> {
    Some(Rc::new(|mut stream| {
        Box::pin(async move {
            read_head(&mut stream).await;
            let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
            let _ = stream.write_all(head).await;
            while stream.write_all(&[b'x'; 16_384]).await.is_ok() {}
        })
    }))
}

/// Takes a head and nothing more.
fn silent() -> Option<Handler> {
    Some(Rc::new(|mut stream| {
        Box::pin(async move {
            read_head(&mut stream).await;
            std::future::pending::<()>().await;
            drop(stream);
        })
    }))
}

async fn recorded(world: &World) -> (u64, &'static str) {
    while world.site.records.borrow().is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let record = world.record().await;
    (record.duration.as_secs(), record.reason.unwrap().as_str())
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    run(async |world| {
        let upstream = world.endpoint("", "v1", endless());
        let mut client = world.connect();
        client.write_all(GET).await.unwrap();
        let (seconds, reason) = recorded(&world).await;
        assert_eq!(reason, "client_stalled");
        assert!((300..=600).contains(&seconds), "{seconds}");
        assert_eq!(upstream.load(), 0);
    });
}

#[test]
fn a_stream_that_is_not_read_is_reset_and_its_connection_lives() {
    run(async |world| {
        world.endpoint_speaking("", "v1", AppProtocol::Http11, endless());
        let mut sender = world.connect_http2::<Empty<Bytes>>().await;
        let get = || {
            http::Request::get("http://shop/")
                .body(Empty::new())
                .unwrap()
        };
        let unread = sender.send_request(get()).await.unwrap();
        assert_eq!(recorded(&world).await.1, "client_stalled");
        assert!(unread.into_body().collect().await.is_err());
        let mut read = sender.send_request(get()).await.unwrap().into_body();
        assert!(read.frame().await.unwrap().is_ok());
    });
}

#[test]
fn the_requests_time_holds_while_the_client_does_not_read() {
    let limits = Limits {
        request_timeout: Some(Duration::from_secs(5)),
        ..Limits::default()
    };
    run_with(limits.clone(), async |world| {
        world.endpoint("", "v1", endless());
        let mut client = world.connect();
        client.write_all(GET).await.unwrap();
        assert_eq!(recorded(&world).await, (5, "timed_out"));
    });
    run_with(limits, async |world| {
        world.endpoint_speaking("", "v1", AppProtocol::Http11, endless());
        let mut sender = world.connect_http2::<Empty<Bytes>>().await;
        let get = http::Request::get("http://shop/")
            .body(Empty::new())
            .unwrap();
        let _unread = sender.send_request(get).await.unwrap();
        assert_eq!(recorded(&world).await, (5, "timed_out"));
    });
}

#[test]
fn a_client_that_owes_its_body_is_answered_with_408() {
    run(async |world| {
        world.endpoint("", "v1", silent());
        let request = "POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 9\r\n\r\npart";
        let answer = world.ask(request).await;
        assert_eq!(answer.status, 408);
        assert_eq!(recorded(&world).await.1, "client_stalled");
    });
}

#[test]
fn an_endpoint_that_takes_no_body_or_gives_no_answer_is_given_up() {
    run(async |world| {
        world.endpoint("", "v1", silent());
        let mut client = world.connect();
        let head = b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 9000000\r\n\r\n";
        client.write_all(head).await.unwrap();
        let (mut read, mut write) = tokio::io::split(client);
        world.spawn(async move {
            let _ = write.write_all(&vec![0; 9_000_000]).await;
        });
        let mut status = [0; 12];
        read.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 504");
        assert_eq!(recorded(&world).await.1, "endpoint_stalled");
    });
    run(async |world| {
        world.endpoint("", "v1", silent());
        assert_eq!(world.get("/").await.status, 504);
        let (seconds, reason) = recorded(&world).await;
        assert_eq!(reason, "endpoint_stalled");
        assert!(seconds >= 3_600, "a stream may be silent: {seconds}");
    });
}

#[test]
fn a_client_may_connect_long_before_it_asks() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let mut client = world.connect();
        tokio::time::sleep(Duration::from_secs(600)).await;
        client.write_all(GET).await.unwrap();
        assert_eq!(read_answer(&mut client).await.status, 200);
    });
}

#[test]
fn requests_past_the_workers_bound_are_refused() {
    let limits = Limits {
        requests_max: 2,
        ..Limits::default()
    };
    run_with(limits, async |world| {
        world.endpoint("", "v1", silent());
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut client = world.connect();
            client.write_all(GET).await.unwrap();
            held.push(client);
        }
        while world.site.opened.get() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(world.get("/").await.status, 503);
        let mut sender = world.connect_http2::<Empty<Bytes>>().await;
        let get = http::Request::get("http://shop/")
            .body(Empty::new())
            .unwrap();
        let answer = sender.send_request(get).await.unwrap();
        assert_eq!(answer.status(), 503);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "too many requests are under way\n");
        let records = world.site.records.borrow();
        let mut reasons = records.iter().map(|one| one.reason.unwrap().as_str());
        assert!(reasons.all(|reason| reason == "overflow"));
        assert_eq!(world.site.opened.get(), 2, "nothing was asked for");
    });
}

/// HTTP/2 of one stream at a time; what it is asked at `/slow` it answers never.
fn one_at_a_time(world: &World) -> Option<Handler> {
    let exec = world.exec();
    Some(Rc::new(move |stream| {
        let exec = exec.clone();
        Box::pin(async move {
            let service = hyper::service::service_fn(
                async |request: http::Request<hyper::body::Incoming>| {
                    if request.uri().path() == "/slow" {
                        std::future::pending::<()>().await;
                    }
                    Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(Bytes::from(
                        "ok",
                    ))))
                },
            );
            let mut builder = hyper::server::conn::http2::Builder::new(exec);
            builder.max_concurrent_streams(1);
            let _ = builder
                .serve_connection(TokioIo::new(stream), service)
                .await;
        })
    }))
}

#[test]
fn an_endpoint_that_takes_one_stream_gets_another_connection() {
    run(async |world| {
        world.endpoint("", "v1", one_at_a_time(&world));
        let mut sender = world.connect_http2::<Empty<Bytes>>().await;
        let get = |path: &str| {
            let uri = format!("http://shop{path}");
            http::Request::get(uri).body(Empty::new()).unwrap()
        };
        let mut slow = Box::pin(sender.clone().send_request(get("/slow")));
        for _ in 0..3 {
            let next = sender.send_request(get("/"));
            let answer = match futures::future::select(&mut slow, Box::pin(next)).await {
                futures::future::Either::Left(_) => panic!("it is never answered"),
                futures::future::Either::Right((answer, _)) => answer,
            };
            assert_eq!(answer.unwrap().status(), 200);
        }
        assert_eq!(world.site.opened.get(), 2);
    });
}

#[test]
fn an_endpoint_that_tells_no_100_costs_its_clients_one_wait() {
    run(async |world| {
        let deaf: Handler = Rc::new(|mut stream| {
            Box::pin(async move {
                let mut body = [0; 5];
                while !read_head(&mut stream).await.is_empty() {
                    stream.read_exact(&mut body).await.unwrap();
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                    let _ = stream.write_all(answer).await;
                }
            })
        });
        world.endpoint("", "v1", Some(deaf));
        let mut waited = 0;
        for _ in 0..3 {
            let before = tokio::time::Instant::now();
            let mut client = world.connect();
            let head = b"POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\
                         Expect: 100-continue\r\n\r\n";
            client.write_all(head).await.unwrap();
            assert!(read_head(&mut client).await.starts_with("HTTP/1.1 100"));
            client.write_all(b"hello").await.unwrap();
            assert_eq!(read_answer(&mut client).await.status, 200);
            waited += before.elapsed().as_secs();
        }
        assert_eq!(waited, 1);
    });
}

#[test]
fn a_client_that_goes_away_before_its_upgrade_is_answered_takes_it_along() {
    run(async |world| {
        let upstream = world.endpoint("", "v1", silent());
        let mut client = world.connect();
        let upgrade = b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
        client.write_all(upgrade).await.unwrap();
        while upstream.load() == 0 {
            tokio::task::yield_now().await;
        }
        drop(client);
        assert_eq!(recorded(&world).await, (0, "client_gone"));
    });
}

#[test]
fn early_hints_reach_a_client_of_http2() {
    run(async |world| {
        let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n\
                      HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let http1 = AppProtocol::Http11;
        world.endpoint_speaking("", "v1", http1, world.raw(hints));
        let (sender, connection) = h2::client::handshake(world.connect()).await.unwrap();
        world.spawn(async move {
            let _ = connection.await;
        });
        let get = http::Request::get("http://shop/").body(()).unwrap();
        let mut sender = sender.ready().await.unwrap();
        let (mut answer, _) = sender.send_request(get, true).unwrap();
        let hint = std::future::poll_fn(|cx| answer.poll_informational(cx)).await;
        let hint = hint.unwrap().unwrap();
        assert_eq!(hint.status(), 103);
        assert_eq!(hint.headers().get("link").unwrap(), "</a.css>");
        assert_eq!(answer.await.unwrap().status(), 200);
    });
}

#[test]
fn what_is_served_no_longer_is_refused_on_connections_that_are_open() {
    run(async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        let mut idle = world.connect();
        idle.write_all(GET).await.unwrap();
        assert_eq!(read_answer(&mut idle).await.status, 200);
        let mut fresh = world.connect();
        world.asked.revoked.cancel();
        assert_eq!(read_head(&mut idle).await, "", "idle ones end");
        fresh.write_all(GET).await.unwrap();
        assert_eq!(read_answer(&mut fresh).await.status, 503);
        assert_eq!(read_head(&mut fresh).await, "", "it was the last");
        let records = world.site.records.borrow();
        assert_eq!(records[1].reason.unwrap().as_str(), "unbound");
    });
}

#[test]
fn past_the_bound_on_tasks_a_request_is_answered_with_503_and_the_next_one_is_served() {
    for protocol in [AppProtocol::Http11, AppProtocol::Http2] {
        run(async |world| {
            let handler = match protocol {
                AppProtocol::Http2 => world.echo_http2("v1"),
                _ => world.echo("v1"),
            };
            let upstream = world.endpoint_speaking("", "v1", protocol, handler);
            world.site.tasks_left.set(0);
            let refused = world.get("/refused").await;
            assert_eq!(refused.status, 503, "{}", refused.text());
            assert_eq!(upstream.load(), 0, "it counts no longer");
            world.site.tasks_left.set(usize::MAX);
            assert_eq!(world.get("/next").await.text(), "v1 /next");
            assert_eq!(world.endpoints_seen(), ["v1"], "the first one went nowhere");
        });
    }
}

#[test]
fn a_stream_whose_task_is_refused_is_reset_and_its_connection_lives() {
    run(async |world| {
        world.endpoint("", "v1", world.echo_http2("v1"));
        let mut sender = world.connect_http2::<Empty<Bytes>>().await;
        let get = || {
            http::Request::get("http://shop/")
                .body(Empty::new())
                .unwrap()
        };
        assert_eq!(sender.send_request(get()).await.unwrap().status(), 200);
        world.site.tasks_left.set(0);
        // Without its task nobody would answer: the client must hear of it.
        assert!(sender.send_request(get()).await.is_err());
        world.site.tasks_left.set(usize::MAX);
        assert_eq!(sender.send_request(get()).await.unwrap().status(), 200);
    });
}
