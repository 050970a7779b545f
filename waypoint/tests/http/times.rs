//! Timeouts, on a clock that only moves when all wait for it.

use std::rc::Rc;
use std::time::Duration;

use mesh::route::{Backend, Retry, Rule, Timeouts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::world::{Handler, read_head, run, target};

fn timed(request: Option<u64>, backend_request: Option<u64>) -> Rule {
    Rule {
        backends: vec![Backend {
            target: target("v1"),
            weight: 1,
            filters: Default::default(),
        }],
        timeouts: Timeouts {
            request: request.map(Duration::from_secs),
            backend_request: backend_request.map(Duration::from_secs),
        },
        ..Rule::default()
    }
}

/// Answers after so many seconds.
fn slow(seconds: u64) -> Option<Handler> {
    Some(Rc::new(move |mut stream| {
        Box::pin(async move {
            read_head(&mut stream).await;
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        })
    }))
}

#[test]
fn a_request_that_takes_too_long_is_answered_with_504() {
    for (rule, seconds) in [(timed(Some(5), None), 5), (timed(None, Some(3)), 3)] {
        run(async |world| {
            world.endpoint("v1", "v1", slow(10));
            world.route(vec![rule.clone()]);
            assert_eq!(world.get("/").await.status, 504);
            let record = world.record().await;
            assert_eq!(record.duration.as_secs(), seconds);
            assert_eq!(record.reason.unwrap().as_str(), "timed_out");
        });
    }
    run(async |world| {
        world.endpoint("v1", "v1", slow(4));
        world.route(vec![timed(Some(5), Some(5))]);
        assert_eq!(world.get("/").await.status, 200);
    });
}

#[test]
fn a_try_that_times_out_is_tried_again_within_the_requests_time() {
    run(async |world| {
        world.endpoint("v1", "v1", slow(10));
        let mut rule = timed(Some(8), Some(3));
        rule.retry = Some(Retry {
            codes: vec![504],
            attempts: 5,
            ..Retry::default()
        });
        world.route(vec![rule]);
        assert_eq!(world.get("/").await.status, 504);
        let record = world.record().await;
        assert_eq!(record.tries, 3, "at 0, 3 and 6 seconds");
        assert_eq!(record.duration.as_secs(), 8);
    });
}

#[test]
fn an_answer_that_takes_too_long_breaks_off() {
    run(async |world| {
        world.endpoint(
            "v1",
            "v1",
            world.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart"),
        );
        world.route(vec![timed(Some(5), None)]);
        let mut client = world.connect();
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
            .await
            .unwrap();
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let mut body = Vec::new();
        let _ = client.read_to_end(&mut body).await;
        assert_eq!(body, b"part");
        let record = world.record().await;
        assert_eq!(record.reason.unwrap().as_str(), "timed_out");
        assert_eq!(record.duration.as_secs(), 5);
    });
}
