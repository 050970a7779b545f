//! Every bound on what a peer can make us hold or do, and the code that it ends with.

use std::time::Duration;

use hbone::h2::frame::{flag, kind};
use hbone::{CloseReason, Config, ConnectRequest, ConnectResponse, ErrorCode, Event, StreamId};

use crate::wire::{Raw, block, ping, raw_frame};

const CALM: ErrorCode = ErrorCode::ENHANCE_YOUR_CALM;

fn raw() -> Raw {
    Raw::client(&Config::default())
}

/// Sends the same until the connection ends; gives how often.
fn flood(raw: &mut Raw, most: usize, mut one: impl FnMut(&mut Raw, u32)) -> usize {
    for count in 0..most {
        if raw.codec.is_closed() {
            return count;
        }
        one(raw, count as u32);
        // A peer that reads everything is no excuse.
        if !raw.codec.is_closed() {
            raw.receive();
            raw.got.clear();
        }
    }
    panic!("{most} times and still open");
}

#[test]
fn pings() {
    let mut raw = raw();
    let count = flood(&mut raw, 1000, |raw, _| raw.send(&ping()));
    assert!(count <= 201, "{count}");
    raw.assert_fault(CALM);
}

#[test]
fn an_honest_rate_of_pings_goes_on_for_ever() {
    let mut raw = raw();
    for _ in 0..2000 {
        raw.send(&ping());
        raw.wait(Duration::from_millis(100));
        assert_eq!(raw.receive().last().unwrap().0.flags, flag::ACK);
    }
    raw.assert_open();
}

#[test]
fn settings() {
    let mut raw = raw();
    let count = flood(&mut raw, 1000, |raw, _| {
        raw.frame(kind::SETTINGS, 0, 0, &[])
    });
    assert!(count <= 21, "{count}");
    raw.assert_fault(CALM);
}

#[test]
fn settings_with_many_entries() {
    let mut raw = raw();
    raw.frame(kind::SETTINGS, 0, 0, &[0; 6 * 64]);
    raw.assert_open();
    raw.frame(kind::SETTINGS, 0, 0, &[0; 6 * 65]);
    raw.assert_fault(CALM);
}

#[test]
fn answers_that_are_never_read() {
    let mut raw = raw();
    let mut sent = 0;
    while !raw.codec.is_closed() {
        // Slow enough for every rate, but nothing of ours is ever taken.
        raw.send(&ping());
        raw.wait(Duration::from_millis(60));
        sent += 1;
        assert!(sent < 100_000);
    }
    assert!(sent * 17 <= (256 << 10) + 1000, "{sent}");
    let Some(Event::Closed(CloseReason::Peer { code, .. })) = raw.events.last() else {
        panic!()
    };
    assert_eq!(*code, CALM);
}

#[test]
fn empty_data() {
    let mut raw = raw();
    raw.connect(1);
    let count = flood(&mut raw, 1000, |raw, _| raw.frame(kind::DATA, 0, 1, &[]));
    assert!(count <= 101, "{count}");
    raw.assert_fault(CALM);
}

#[test]
fn data_of_nothing_but_padding() {
    let mut raw = raw();
    raw.connect(1);
    let mut padded = vec![0; 201];
    padded[0] = 200;
    let count = flood(&mut raw, 1000, |raw, _| {
        raw.frame(kind::DATA, flag::PADDED, 1, &padded)
    });
    assert!(count <= 101, "{count}");
    raw.assert_fault(CALM);
}

#[test]
fn window_updates() {
    let mut raw = raw();
    raw.connect(1);
    let count = flood(&mut raw, 10_000, |raw, _| {
        raw.frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]);
    });
    assert!(count <= 2001, "{count}");
    raw.assert_fault(CALM);
}

#[test]
fn window_updates_beyond_the_largest_window() {
    let mut raw = raw();
    raw.connect(1);
    raw.frame(kind::WINDOW_UPDATE, 0, 1, &0x7fff_ffff_u32.to_be_bytes());
    raw.assert_open();
    assert_eq!(raw.resets(1), [ErrorCode::FLOW_CONTROL_ERROR]);
    raw.frame(kind::WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes());
    raw.assert_fault(ErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn rapid_reset() {
    let mut raw = raw();
    let count = flood(&mut raw, 10_000, |raw, count| {
        raw.connect(count * 2 + 1);
        raw.frame(kind::RST_STREAM, 0, count * 2 + 1, &8_u32.to_be_bytes());
    });
    assert!(count <= 251, "{count}");
    raw.assert_fault(CALM);
    assert_eq!(raw.codec.open_streams(), 0);
}

#[test]
fn rapid_reset_in_one_piece_never_holds_more_streams_than_allowed() {
    let mut raw = raw();
    let connect = block(&[(":method", "CONNECT"), (":authority", "10.0.0.1:80")]);
    let mut bytes = Vec::new();
    for stream in (1..2000).step_by(2) {
        bytes.extend(raw_frame(
            kind::HEADERS,
            flag::END_HEADERS,
            stream,
            &connect,
        ));
        bytes.extend(raw_frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    // No event is taken in between.
    raw.codec.receive(raw.now, &bytes, 0);
    assert!(raw.codec.open_streams() <= 200);
    let mut requests = 0;
    while let Some(event) = raw.codec.poll_event() {
        requests += usize::from(matches!(event, Event::Request { .. }));
        raw.events.push(event);
    }
    assert_eq!(requests, 0, "what was taken back is never told");
    raw.assert_fault(CALM);
}

#[test]
fn a_driver_that_takes_no_more_requests_hears_of_what_stands_before_them() {
    let mut raw = raw();
    raw.connect(1);
    let connect = block(&[(":method", "CONNECT"), (":authority", "a:1")]);
    let mut bytes = raw_frame(kind::DATA, 0, 1, b"word");
    for stream in [3, 5] {
        bytes.extend(raw_frame(
            kind::HEADERS,
            flag::END_HEADERS,
            stream,
            &connect,
        ));
    }
    bytes.extend(raw_frame(kind::RST_STREAM, 0, 3, &8_u32.to_be_bytes()));
    raw.codec.receive(raw.now, &bytes, 0);
    let before = raw.codec.poll_event_before_request();
    assert!(matches!(before, Some(Event::Readable(_))), "{before:?}");
    assert_eq!(raw.codec.poll_event_before_request(), None);
    assert!(raw.codec.request_waits(), "that of stream 5");
    let request = raw.codec.poll_event();
    assert!(matches!(&request, Some(Event::Request { stream, .. }) if stream.number() == 5));
    assert_eq!(
        (raw.codec.poll_event(), raw.codec.request_waits()),
        (None, false)
    );
}

#[test]
fn streams_that_are_answered_and_then_reset_are_an_honest_load() {
    let mut raw = raw();
    for stream in (1..10_000).step_by(2) {
        raw.connect(stream);
        let Some(Event::Request { stream: id, .. }) = raw.events.pop() else {
            panic!()
        };
        raw.codec.respond(id, &ConnectResponse::of(200)).unwrap();
        raw.frame(kind::RST_STREAM, 0, stream, &8_u32.to_be_bytes());
        raw.receive();
        raw.got.clear();
    }
    raw.assert_open();
    assert_eq!(raw.codec.open_streams(), 0);
}

#[test]
fn answers_to_streams_that_we_reset_are_no_offence() {
    let mut raw = Raw::server(&Config::default());
    let request = ConnectRequest {
        authority: "a:1".into(),
        ..ConnectRequest::default()
    };
    let answer = block(&[(":status", "200")]);
    for number in (1..20_000).step_by(2) {
        let stream = raw.codec.open_stream(&request).unwrap();
        raw.codec.reset(stream, ErrorCode::CANCEL);
        raw.receive();
        raw.got.clear();
        raw.frame(kind::HEADERS, flag::END_HEADERS, number, &answer);
        raw.frame(kind::DATA, 0, number, b"hello");
        raw.frame(kind::WINDOW_UPDATE, 0, number, &[0, 0, 0, 9]);
        raw.frame(kind::DATA, flag::END_STREAM, number, &[]);
    }
    raw.assert_open();
    assert_eq!(raw.take_events(), []);
}

#[test]
fn more_streams_than_allowed_are_refused_and_then_the_connection_ends() {
    let mut raw = raw();
    for stream in (1..=399).step_by(2) {
        raw.connect(stream);
    }
    assert_eq!(raw.codec.open_streams(), 200);
    raw.connect(401);
    assert_eq!(raw.resets(401), [ErrorCode::REFUSED_STREAM]);
    assert_eq!(raw.codec.open_streams(), 200);
    let count = flood(&mut raw, 10_000, |raw, count| raw.connect(403 + count * 2));
    assert!(count <= 251, "{count}");
    raw.assert_fault(CALM);
}

#[test]
fn requests_that_are_refused() {
    let get = block(&[(":method", "GET"), (":path", "/"), (":scheme", "http")]);
    let mut raw = raw();
    let count = flood(&mut raw, 10_000, |raw, count| {
        raw.frame(
            kind::HEADERS,
            flag::END_HEADERS | flag::END_STREAM,
            count * 2 + 1,
            &get,
        );
    });
    assert!(count <= 251, "{count}");
    raw.assert_fault(CALM);
}

#[test]
fn continuations() {
    let mut raw = raw();
    raw.frame(kind::HEADERS, 0, 1, &[]);
    let count = flood(&mut raw, 1000, |raw, _| {
        raw.frame(kind::CONTINUATION, 0, 1, &[])
    });
    assert!(count <= 17, "{count}");
    raw.assert_fault(CALM);
}

#[test]
fn a_header_block_without_end() {
    let mut raw = raw();
    raw.frame(kind::HEADERS, 0, 1, &[0; 16_384]);
    let count = flood(&mut raw, 1000, |raw, _| {
        raw.frame(kind::CONTINUATION, 0, 1, &[0; 16_384])
    });
    assert!(count <= 5, "{count}");
    raw.assert_fault(CALM);
}

#[test]
fn a_header_list_larger_than_allowed() {
    let mut raw = raw();
    // Four bytes on the wire each, and 33 in the list.
    let small = |count| std::iter::repeat_n(("x", ""), count);
    let connect = [(":method", "CONNECT"), (":authority", "a:1")];
    let large = block(&connect.into_iter().chain(small(2_000)).collect::<Vec<_>>());
    assert!(large.len() < 16 << 10, "the block alone is no reason");
    raw.frame(kind::HEADERS, flag::END_HEADERS, 1, &large);
    raw.assert_fault(CALM);
    let mut server = Raw::server(&Config::default());
    let request = ConnectRequest {
        authority: "a:1".into(),
        ..ConnectRequest::default()
    };
    server.codec.open_stream(&request).unwrap();
    let status = [(":status", "200")];
    let large = block(&status.into_iter().chain(small(500)).collect::<Vec<_>>());
    server.frame(kind::HEADERS, flag::END_HEADERS, 1, &large);
    server.assert_fault(CALM);
}

#[test]
fn a_bomb_in_the_header_table() {
    let mut raw = Raw::bare(hbone::codec::Codec::server(
        &Config::default(),
        Default::default(),
    ));
    raw.send(hbone::h2::frame::PREFACE);
    raw.frame(kind::SETTINGS, 0, 0, &[]);
    // One field of almost the whole table (we may not forbid it before our SETTINGS were seen), a
    // thousand times.
    let mut bomb = vec![0x40, 1, b'x', 0x7f, 0xa1, 0x1e];
    bomb.extend_from_slice(&[b'y'; 4000]);
    bomb.extend(std::iter::repeat_n(0xbe, 1000));
    raw.frame(kind::HEADERS, flag::END_HEADERS, 1, &bomb);
    raw.assert_fault(CALM);
}

#[test]
fn frames_that_mean_nothing() {
    for (kind, stream, payload) in [
        (kind::PRIORITY, 1, &[0; 5][..]),
        (0x77, 0, &[1; 40]),
        (kind::WINDOW_UPDATE, 1, &[0, 0, 0, 1]),
    ] {
        let mut raw = raw();
        raw.connect(1);
        let gone = request_stream(&mut raw);
        raw.codec.reset(gone, ErrorCode::CANCEL);
        let count = flood(&mut raw, 10_000, |raw, _| {
            raw.frame(kind, 0, stream, payload)
        });
        assert!(count <= 2001, "{count}");
        raw.assert_fault(CALM);
    }
}

fn request_stream(raw: &mut Raw) -> StreamId {
    match raw.events.pop() {
        Some(Event::Request { stream, .. }) => stream,
        other => panic!("{other:?}"),
    }
}

#[test]
fn interim_responses() {
    let mut raw = Raw::server(&Config::default());
    let request = ConnectRequest {
        authority: "a:1".into(),
        ..ConnectRequest::default()
    };
    raw.codec.open_stream(&request).unwrap();
    let interim = block(&[(":status", "103")]);
    let count = flood(&mut raw, 1000, |raw, _| {
        raw.frame(kind::HEADERS, flag::END_HEADERS, 1, &interim);
    });
    assert!(count <= 101, "{count}");
    raw.assert_fault(CALM);
}

#[test]
fn data_beyond_the_window_of_a_stream() {
    let mut raw = raw();
    raw.connect(1);
    for _ in 0..32 {
        raw.frame(kind::DATA, 0, 1, &[0; 16_384]);
    }
    raw.assert_open();
    raw.frame(kind::DATA, 0, 1, &[0]);
    raw.assert_fault(ErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn data_beyond_the_window_of_the_connection() {
    let mut raw = raw();
    for stream in (1..=65).step_by(2) {
        raw.connect(stream);
        for _ in 0..32 {
            raw.frame(kind::DATA, 0, stream, &[0; 16_384]);
        }
        let full = stream > 63;
        assert_eq!(raw.codec.is_closed(), full, "stream {stream}");
    }
    raw.assert_fault(ErrorCode::FLOW_CONTROL_ERROR);
}

#[test]
fn streams_of_an_application_that_does_not_take_its_data_stay_counted() {
    let mut raw = raw();
    // Each stream sends a little, ends, and is read, but its bytes never reach the application.
    for stream in (1..=399).step_by(2) {
        raw.connect(stream);
        let id = request_stream(&mut raw);
        raw.codec.respond(id, &ConnectResponse::of(200)).unwrap();
        raw.codec.finish(id);
        raw.frame(kind::DATA, flag::END_STREAM, stream, &[1; 100]);
        assert_eq!(raw.codec.read(id).unwrap().len(), 100);
        raw.send(&[]);
        raw.receive();
        raw.take_events();
    }
    raw.connect(401);
    assert_eq!(raw.resets(401), [ErrorCode::REFUSED_STREAM]);
}
