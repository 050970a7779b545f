//! GOAWAY: no stream is cut off, and new ones go elsewhere.

use std::time::Duration;

use hbone::{CloseReason, ConnectRequest, ErrorCode, OpenError};

use crate::driver::Plan;
use crate::pair::{Cut, Pair};

fn request() -> ConnectRequest {
    ConnectRequest {
        authority: "10.0.0.1:99".into(),
        ..ConnectRequest::default()
    }
}

#[test]
fn a_server_drains_when_its_last_stream_has_ended() {
    let mut pair = Pair::new(1, Cut::UpTo(10_000)).established();
    pair.server
        .plans
        .insert("10.0.0.1:1".into(), Plan::of(1, 3 << 20));
    let stream = pair.client.open("10.0.0.1:1", Plan::of(2, 2 << 20));
    pair.run_until(|p| p.client.flow(stream).got.bytes > 100_000);
    let now = pair.now;
    pair.server.conn.drain(now);
    pair.run_until(|p| p.client.goaway);
    assert_eq!(
        pair.client.conn.open_stream(&request()),
        Err(OpenError::Draining)
    );
    assert_eq!(pair.client.conn.available_streams(), 0);
    assert!(pair.client.conn.is_draining() && pair.server.conn.is_draining());
    pair.run_until(|p| p.client.closed.is_some() && p.server.closed.is_some());
    assert_eq!(pair.client.closed, Some(CloseReason::Drained));
    assert_eq!(pair.server.closed, Some(CloseReason::Drained));
    assert_eq!(pair.client.flow(stream).reset, None);
    assert_eq!(pair.client.flow(stream).got.bytes, 3 << 20);
    assert_eq!(pair.server.flow(stream).got.bytes, 2 << 20);
}

#[test]
fn a_stream_that_was_on_its_way_when_the_drain_began_is_served() {
    let mut pair = Pair::new(2, Cut::Whole)
        .established()
        .latency(Duration::from_millis(50));
    pair.server
        .plans
        .insert("10.0.0.1:1".into(), Plan::of(1, 5000));
    let stream = pair.client.open("10.0.0.1:1", Plan::of(2, 5000));
    pair.run_for(Duration::from_millis(10));
    let now = pair.now;
    pair.server.conn.drain(now);
    pair.run_until(|p| p.client.closed.is_some() && p.server.closed.is_some());
    assert_eq!(pair.client.flow(stream).reset, None);
    assert_eq!(pair.client.flow(stream).got.bytes, 5000);
    assert_eq!(pair.server.closed, Some(CloseReason::Drained));
}

#[test]
fn an_idle_server_drains_within_a_round_trip() {
    let mut pair = Pair::new(3, Cut::Whole).established();
    let now = pair.now;
    pair.server.conn.drain(now);
    pair.run_until(|p| p.client.closed.is_some() && p.server.closed.is_some());
    assert_eq!(pair.client.closed, Some(CloseReason::Drained));
    assert_eq!(pair.server.closed, Some(CloseReason::Drained));
    assert!(pair.now.since(now) < Duration::from_millis(100));
}

#[test]
fn a_server_whose_client_answers_no_ping_drains_all_the_same() {
    let mut pair = Pair::new(4, Cut::Whole).established();
    pair.severed = true;
    let now = pair.now;
    pair.server.conn.drain(now);
    pair.run_for(Duration::from_secs(3));
    assert_eq!(pair.server.closed, Some(CloseReason::Drained));
}

#[test]
fn a_client_drains_when_its_last_stream_has_ended() {
    let mut pair = Pair::new(5, Cut::UpTo(10_000)).established();
    pair.server
        .plans
        .insert("10.0.0.1:1".into(), Plan::of(1, 100_000));
    let stream = pair.client.open("10.0.0.1:1", Plan::of(2, 100_000));
    let now = pair.now;
    pair.client.conn.drain(now);
    assert_eq!(
        pair.client.conn.open_stream(&request()),
        Err(OpenError::Draining)
    );
    pair.run_until(|p| p.client.closed.is_some() && p.server.closed.is_some());
    assert_eq!(pair.client.closed, Some(CloseReason::Drained));
    assert_eq!(pair.client.flow(stream).got.bytes, 100_000);
    assert_eq!(pair.server.flow(stream).got.bytes, 100_000);
    assert_eq!(pair.server.flow(stream).reset, None);
}

#[test]
fn a_refused_stream_of_a_closing_server_can_be_tried_elsewhere() {
    let mut pair = Pair::new(6, Cut::Whole)
        .established()
        .latency(Duration::from_millis(50));
    let now = pair.now;
    pair.server.conn.close(ErrorCode::NO_ERROR);
    pair.server.pump(now);
    let stream = pair.client.open("10.0.0.1:1", Plan::of(2, 5000));
    pair.run_until(|p| p.client.closed.is_some());
    assert_eq!(
        pair.client.flow(stream).reset,
        Some(ErrorCode::REFUSED_STREAM)
    );
}
