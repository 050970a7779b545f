//! Silence, lost links, and how both end.

use std::time::Duration;

use hbone::{CloseReason, ErrorCode, Mono};

use crate::driver::Plan;
use crate::pair::{Cut, Pair};

#[test]
fn an_idle_tunnel_stays_up_for_hours_and_says_little() {
    let mut pair = Pair::new(1, Cut::Whole).established();
    pair.run_for(Duration::from_secs(10));
    let before = pair.wire_bytes();
    pair.run_for(Duration::from_secs(3600));
    assert_eq!((&pair.client.closed, &pair.server.closed), (&None, &None));
    let spent = pair.wire_bytes() - before;
    // A PING and its answer in ten seconds, 39 bytes each.
    assert!(spent > 0 && spent <= 366 * 2 * 39 * 2, "{spent}");
}

#[test]
fn a_peer_that_falls_silent_is_given_up_and_its_streams_with_it() {
    let mut pair = Pair::new(2, Cut::Whole).established();
    pair.server.plans.insert(
        "10.0.0.1:1".into(),
        Plan {
            keep_open: true,
            ..Plan::of(1, 10)
        },
    );
    let stream = pair.client.open(
        "10.0.0.1:1",
        Plan {
            keep_open: true,
            ..Plan::of(2, 10)
        },
    );
    pair.run_until(|p| p.client.flow(stream).got.bytes == 10);
    pair.run_for(Duration::from_secs(1));
    pair.severed = true;
    pair.run_for(Duration::from_secs(28));
    assert_eq!(pair.client.closed, None);
    pair.run_for(Duration::from_secs(3));
    assert_eq!(pair.client.closed, Some(CloseReason::KeepAliveTimeout));
    assert_eq!(
        pair.client.flow(stream).reset,
        Some(ErrorCode::CONNECT_ERROR)
    );
}

#[test]
fn a_lost_transport_cuts_open_streams_and_keeps_whole_ones_readable() {
    let mut pair = Pair::new(3, Cut::Whole).established();
    let later = pair.now.plus(Duration::from_secs(50));
    let stalled = Plan {
        stalled_until: later,
        ..Plan::of(2, 1000)
    };
    pair.server
        .plans
        .insert("10.0.0.1:1".into(), Plan::of(1, 5000));
    pair.server.plans.insert(
        "10.0.0.1:2".into(),
        Plan {
            keep_open: true,
            ..Plan::of(3, 10)
        },
    );
    let whole = pair.client.open("10.0.0.1:1", stalled);
    let open = pair.client.open(
        "10.0.0.1:2",
        Plan {
            keep_open: true,
            ..Plan::of(4, 10)
        },
    );
    pair.run_for(Duration::from_secs(1));
    let now = pair.now;
    pair.client.conn.handle_eof(now);
    pair.client.pump(now);
    assert_eq!(pair.client.closed, Some(CloseReason::Eof { clean: false }));
    assert_eq!(pair.client.flow(open).reset, Some(ErrorCode::CONNECT_ERROR));
    assert_eq!(pair.client.flow(whole).reset, None);
    pair.client.pump(later);
    assert_eq!(pair.client.flow(whole).got.bytes, 5000);
    assert!(pair.client.flow(whole).finished);
    assert_eq!(pair.client.conn.open_streams(), 0);
    assert!(pair.client.conn.is_finished());
}

#[test]
fn closing_tells_the_peer_why() {
    let mut pair = Pair::new(4, Cut::Whole).established();
    pair.server.plans.insert(
        "10.0.0.1:1".into(),
        Plan {
            keep_open: true,
            ..Plan::of(1, 10)
        },
    );
    let stream = pair.client.open(
        "10.0.0.1:1",
        Plan {
            keep_open: true,
            ..Plan::of(2, 10)
        },
    );
    pair.run_for(Duration::from_secs(1));
    pair.server.conn.close(ErrorCode::ENHANCE_YOUR_CALM);
    pair.run_for(Duration::from_secs(1));
    let code = ErrorCode::ENHANCE_YOUR_CALM;
    assert_eq!(pair.server.closed, Some(CloseReason::ByUs { code }));
    assert_eq!(pair.client.closed, Some(CloseReason::ByPeer { code }));
    assert_eq!(pair.client.flow(stream).reset, Some(code));
    assert!(pair.client.conn.is_finished() && pair.server.conn.is_finished());
    assert_eq!(pair.client.conn.poll_timeout(), None);
}

#[test]
fn after_the_end_nothing_can_be_asked_of_a_connection() {
    let mut pair = Pair::new(5, Cut::Whole).established();
    pair.client.conn.close(ErrorCode::NO_ERROR);
    let request = hbone::ConnectRequest {
        authority: "10.0.0.1:1".into(),
        ..Default::default()
    };
    assert_eq!(
        pair.client.conn.open_stream(&request),
        Err(hbone::OpenError::Closed)
    );
    assert_eq!(pair.client.conn.available_streams(), 0);
    pair.client.conn.handle_input(pair.now, &mut vec![1, 2, 3]);
    pair.client
        .conn
        .handle_timeout(Mono(Duration::from_secs(100_000)));
    pair.client.conn.drain(pair.now);
    pair.client.conn.handle_eof(pair.now);
    pair.client.pump(pair.now);
    assert_eq!(
        pair.client.closed,
        Some(CloseReason::ByUs {
            code: ErrorCode::NO_ERROR
        })
    );
}
