//! Another try: when, how often, with which body, within which budget.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::{Response, StatusCode};
use http_body_util::Full;
use mesh::route::{Backend, Retry, Rule};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Handler, World, read_answer, read_head, run, run_with, target};

fn retrying(attempts: u32, codes: &[u16]) -> Rule {
    Rule {
        backends: vec![Backend {
            target: target("v1"),
            weight: 1,
            filters: Default::default(),
        }],
        retry: Some(Retry {
            codes: codes.to_vec(),
            attempts,
            ..Retry::default()
        }),
        ..Rule::default()
    }
}

/// Fails so many times with 503, then answers 200.
fn failing(world: &World, name: &'static str, times: usize) -> Option<Handler> {
    let left = Cell::new(times);
    world.http1(name, move |seen| {
        let fails = left.get() > 0;
        left.set(left.get().saturating_sub(1));
        let answer = Response::builder().status(match fails {
            true => StatusCode::SERVICE_UNAVAILABLE,
            false => StatusCode::OK,
        });
        answer.body(Full::new(seen.body.clone())).unwrap()
    })
}

#[test]
fn a_status_that_the_route_names_is_tried_again_so_often() {
    for (failures, attempts, status, tries) in [(2, 2, 200, 3), (3, 2, 503, 3), (1, 0, 503, 1)] {
        run(async |world| {
            world.endpoint("v1", "v1", failing(&world, "v1", failures));
            world.route(vec![retrying(attempts, &[503])]);
            assert_eq!(world.get("/").await.status, status);
            assert_eq!(world.seen.borrow().len(), tries);
            assert_eq!(world.record().await.tries as usize, tries);
        });
    }
}

#[test]
fn other_statuses_are_not() {
    run(async |world| {
        world.endpoint("v1", "v1", failing(&world, "v1", 1));
        world.route(vec![retrying(2, &[500])]);
        assert_eq!(world.get("/").await.status, 503);
        assert_eq!(world.seen.borrow().len(), 1);
    });
}

#[test]
fn a_body_is_sent_again_while_it_is_small() {
    for (length, tries) in [(60_000, 2), (70_000, 1)] {
        run(async |world| {
            world.endpoint("v1", "v1", failing(&world, "v1", 1));
            world.route(vec![retrying(2, &[503])]);
            let body = "x".repeat(length);
            let mut client = world.connect();
            let head = format!("POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: {length}\r\n\r\n");
            client.write_all(head.as_bytes()).await.unwrap();
            client.write_all(body.as_bytes()).await.unwrap();
            let answer = read_answer(&mut client).await;
            assert_eq!(answer.status, if tries == 2 { 200 } else { 503 });
            let seen = world.seen.borrow();
            assert_eq!(seen.len(), tries);
            assert!(seen.iter().all(|one| one.body == body));
        });
    }
}

#[test]
fn an_endpoint_that_refuses_connections_is_left_for_another() {
    run(async |world| {
        // No retry is asked for, and a POST moves on as well: no byte was sent.
        world.endpoint("", "dead-1", None);
        world.endpoint("", "dead-2", None);
        world.endpoint("", "v1", world.echo("v1"));
        let request = "POST / HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\nhi";
        let answer = world.ask(request).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "v1 /"));
        assert_eq!(world.seen.borrow()[0].body, "hi");
    });
    run(async |world| {
        world.endpoint("", "dead", None);
        let answer = world.get("/").await;
        assert_eq!(answer.status, 503);
        assert_eq!(answer.text(), "no connection to the endpoint: refused\n");
        let record = world.record().await;
        assert_eq!(record.reason.unwrap().as_str(), "not_connected");
    });
}

#[test]
fn a_connection_that_breaks_before_the_answer_is_tried_again_for_what_may_be_repeated() {
    let breaking = || -> Handler {
        Rc::new(|mut stream| {
            Box::pin(async move {
                read_head(&mut stream).await;
            })
        })
    };
    for (method, tries, status) in [("GET", 3, 502), ("POST", 1, 502)] {
        run(async |world| {
            world.endpoint("v1", "v1", Some(breaking()));
            world.route(vec![retrying(2, &[])]);
            let request = format!("{method} / HTTP/1.1\r\nHost: shop\r\n\r\n");
            assert_eq!(world.ask(request).await.status, status, "{method}");
            assert_eq!(world.site.opened.get(), tries, "{method}");
        });
    }
}

#[test]
fn a_kept_connection_that_closes_is_replaced_once() {
    // Each connection serves one request, says nothing of it, and closes at the second.
    let closing = || -> Handler {
        Rc::new(|mut stream| {
            Box::pin(async move {
                read_head(&mut stream).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    .await;
                read_head(&mut stream).await;
            })
        })
    };
    for (method, status) in [("GET", 200), ("PUT", 200), ("POST", 502)] {
        run(async |world| {
            world.endpoint("", "v1", Some(closing()));
            let mut client = world.connect();
            let get = b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n";
            client.write_all(get).await.unwrap();
            assert_eq!(read_answer(&mut client).await.status, 200);
            let request =
                format!("{method} / HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\nhi");
            client.write_all(request.as_bytes()).await.unwrap();
            assert_eq!(read_answer(&mut client).await.status, status, "{method}");
        });
    }
}

#[test]
fn retries_are_a_share_of_the_requests() {
    run(async |world| {
        world.endpoint("v1", "v1", failing(&world, "v1", usize::MAX));
        world.route(vec![retrying(1, &[503])]);
        let mut client = world.connect();
        for _ in 0..1_000 {
            client
                .write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
                .await
                .unwrap();
            assert_eq!(read_answer(&mut client).await.status, 503);
        }
        let records = world.site.records.borrow();
        let retries: u32 = records.iter().map(|record| record.tries - 1).sum();
        // A fifth, or ten a second: the pauses of the first hundred let time pass.
        assert!((100..=400).contains(&retries), "{retries}");
        let last = &records[900..];
        let late: u32 = last.iter().map(|record| record.tries - 1).sum();
        assert!(late <= 60, "{late} of the last 100");
    });
}

#[test]
fn too_many_requests_that_wait_for_a_connection_are_refused() {
    let limits = waypoint::http::limits::Limits {
        pending_max: 1,
        ..Default::default()
    };
    run_with(limits, async |world| {
        world.endpoint("", "v1", world.echo("v1"));
        world.site.open_takes.set(Duration::from_secs(1));
        let (first, second) = futures::join!(world.get("/1"), world.get("/2"));
        assert_eq!((first.status, second.status), (200, 503));
        assert_eq!(second.text(), "too many requests wait for an endpoint\n");
        assert_eq!(world.get("/3").await.status, 200);
    });
}

#[test]
fn the_pause_between_tries_is_the_routes() {
    run(async |world| {
        world.endpoint("v1", "v1", failing(&world, "v1", 2));
        let mut rule = retrying(2, &[503]);
        rule.retry.as_mut().unwrap().backoff = Duration::from_secs(2);
        world.route(vec![rule]);
        assert_eq!(world.get("/").await.status, 200);
        // Between half of 2 s and 2 s, then between half of 4 s and 4 s.
        let took = world.record().await.duration;
        assert!(
            (Duration::from_secs(3)..=Duration::from_secs(6)).contains(&took),
            "{took:?}"
        );
    });
}

/// The endpoint refuses on the head alone, and the client goes on sending while the next try waits.
#[test]
fn a_body_that_goes_on_during_the_pause_is_sent_from_its_beginning() {
    run(async |world| {
        let tries = Rc::new(Cell::new(0));
        let count = tries.clone();
        let endpoint: Handler = Rc::new(move |mut stream| {
            count.set(count.get() + 1);
            let is_first = count.get() == 1;
            Box::pin(async move {
                read_head(&mut stream).await;
                let mut body = Vec::new();
                if is_first {
                    let answer = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                    let _ = stream.read_to_end(&mut body).await;
                    return;
                }
                while !body.ends_with(b"0\r\n\r\n") && stream.read_buf(&mut body).await.unwrap() > 0
                {
                }
                let xs = body.iter().filter(|byte| **byte == b'x').count();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nx-got: {xs}\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            })
        });
        world.endpoint("v1", "v1", Some(endpoint));
        let mut rule = retrying(2, &[503]);
        if let Some(retry) = &mut rule.retry {
            retry.backoff = Duration::from_millis(300);
        }
        world.route(vec![rule]);
        let mut client = world.connect();
        let chunk = |bytes: usize| format!("{bytes:x}\r\n{}\r\n", "x".repeat(bytes));
        let head = "POST / HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(chunk(32 << 10).as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let rest = format!("{}0\r\n\r\n", chunk(128 << 10));
        client.write_all(rest.as_bytes()).await.unwrap();
        let answer = read_answer(&mut client).await;
        assert_eq!((answer.status, tries.get()), (200, 2));
        assert_eq!(answer.header("x-got"), Some("163840"));
    });
}
