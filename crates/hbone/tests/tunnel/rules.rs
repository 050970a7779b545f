//! The rules of RFC 9113 that a peer may break, and what it may do that we never do.

use std::time::Duration;

use hbone::h2::frame::{flag, kind};
use hbone::h2::settings::id;
use hbone::{
    CloseReason, Config, ConnectRequest, ConnectResponse, ErrorCode, Event, OpenError,
    RespondError, StreamId,
};

use crate::wire::{Raw, block, raw_frame};

const PROTOCOL: ErrorCode = ErrorCode::PROTOCOL_ERROR;

fn raw() -> Raw {
    Raw::client(&Config::default())
}

/// A raw client with stream 1 answered.
fn tunnel() -> (Raw, StreamId) {
    let mut raw = raw();
    raw.connect(1);
    let Some(Event::Request { stream, .. }) = raw.events.pop() else {
        panic!()
    };
    raw.codec
        .respond(stream, &ConnectResponse::of(200))
        .unwrap();
    raw.receive();
    (raw, stream)
}

/// Our client with stream 1 opened.
fn opened() -> (Raw, StreamId) {
    let mut raw = Raw::server(&Config::default());
    let request = ConnectRequest {
        authority: "a:1".into(),
        ..ConnectRequest::default()
    };
    let stream = raw.codec.open_stream(&request).unwrap();
    raw.receive();
    (raw, stream)
}

#[test]
fn connection_faults_end_the_connection_with_their_code() {
    use ErrorCode as E;
    let connect = block(&[(":method", "CONNECT"), (":authority", "a:1")]);
    let setting = |id: u16, value: u32| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    let h = flag::END_HEADERS;
    let cases: Vec<(&str, E, Vec<u8>)> = vec![
        ("DATA on 0", PROTOCOL, raw_frame(kind::DATA, 0, 0, b"x")),
        (
            "DATA on an idle stream",
            PROTOCOL,
            raw_frame(kind::DATA, 0, 9, b"x"),
        ),
        (
            "HEADERS on 0",
            PROTOCOL,
            raw_frame(kind::HEADERS, h, 0, &connect),
        ),
        (
            "HEADERS on an even stream",
            PROTOCOL,
            raw_frame(kind::HEADERS, h, 2, &connect),
        ),
        (
            "PRIORITY on 0",
            PROTOCOL,
            raw_frame(kind::PRIORITY, 0, 0, &[0; 5]),
        ),
        (
            "PRIORITY of 4 bytes",
            E::FRAME_SIZE_ERROR,
            raw_frame(kind::PRIORITY, 0, 1, &[0; 4]),
        ),
        (
            "RST_STREAM on 0",
            PROTOCOL,
            raw_frame(kind::RST_STREAM, 0, 0, &[0; 4]),
        ),
        (
            "RST_STREAM of an idle stream",
            PROTOCOL,
            raw_frame(kind::RST_STREAM, 0, 9, &[0; 4]),
        ),
        (
            "RST_STREAM of 5 bytes",
            E::FRAME_SIZE_ERROR,
            raw_frame(kind::RST_STREAM, 0, 1, &[0; 5]),
        ),
        (
            "SETTINGS on 1",
            PROTOCOL,
            raw_frame(kind::SETTINGS, 0, 1, &[]),
        ),
        (
            "half a setting",
            E::FRAME_SIZE_ERROR,
            raw_frame(kind::SETTINGS, 0, 0, &[0; 7]),
        ),
        (
            "an ACK with content",
            E::FRAME_SIZE_ERROR,
            raw_frame(kind::SETTINGS, 1, 0, &[0; 6]),
        ),
        (
            "push 2",
            PROTOCOL,
            raw_frame(kind::SETTINGS, 0, 0, &setting(id::ENABLE_PUSH, 2)),
        ),
        (
            "a window of 2^31",
            E::FLOW_CONTROL_ERROR,
            raw_frame(
                kind::SETTINGS,
                0,
                0,
                &setting(id::INITIAL_WINDOW_SIZE, 1 << 31),
            ),
        ),
        (
            "frames of 1 byte",
            PROTOCOL,
            raw_frame(kind::SETTINGS, 0, 0, &setting(id::MAX_FRAME_SIZE, 1)),
        ),
        (
            "PUSH_PROMISE",
            PROTOCOL,
            raw_frame(kind::PUSH_PROMISE, h, 1, &[0, 0, 0, 2]),
        ),
        ("PING on 1", PROTOCOL, raw_frame(kind::PING, 0, 1, &[0; 8])),
        (
            "PING of 7 bytes",
            E::FRAME_SIZE_ERROR,
            raw_frame(kind::PING, 0, 0, &[0; 7]),
        ),
        (
            "GOAWAY on 1",
            PROTOCOL,
            raw_frame(kind::GOAWAY, 0, 1, &[0; 8]),
        ),
        (
            "GOAWAY of 7 bytes",
            E::FRAME_SIZE_ERROR,
            raw_frame(kind::GOAWAY, 0, 0, &[0; 7]),
        ),
        (
            "WINDOW_UPDATE of 0",
            PROTOCOL,
            raw_frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]),
        ),
        (
            "WINDOW_UPDATE of idle",
            PROTOCOL,
            raw_frame(kind::WINDOW_UPDATE, 0, 9, &[0, 0, 0, 1]),
        ),
        (
            "WINDOW_UPDATE short",
            E::FRAME_SIZE_ERROR,
            raw_frame(kind::WINDOW_UPDATE, 0, 0, &[1]),
        ),
        (
            "CONTINUATION alone",
            PROTOCOL,
            raw_frame(kind::CONTINUATION, h, 1, &connect),
        ),
        (
            "padding too long",
            PROTOCOL,
            raw_frame(kind::DATA, flag::PADDED, 1, &[5, 0, 0]),
        ),
        (
            "padding missing",
            E::FRAME_SIZE_ERROR,
            raw_frame(kind::DATA, flag::PADDED, 1, &[]),
        ),
        (
            "HEADERS padding",
            PROTOCOL,
            raw_frame(kind::HEADERS, h | flag::PADDED, 3, &[9, 0, 0]),
        ),
        (
            "HEADERS short",
            E::FRAME_SIZE_ERROR,
            raw_frame(kind::HEADERS, h | 0x20, 3, &[0; 4]),
        ),
        (
            "bad HPACK",
            E::COMPRESSION_ERROR,
            raw_frame(kind::HEADERS, h, 3, &[0x80]),
        ),
        (
            "a block interrupted",
            PROTOCOL,
            [
                raw_frame(kind::HEADERS, 0, 3, &connect),
                raw_frame(kind::PING, 0, 0, &[0; 8]),
            ]
            .concat(),
        ),
        (
            "a block continued elsewhere",
            PROTOCOL,
            [
                raw_frame(kind::HEADERS, 0, 3, &[]),
                raw_frame(kind::CONTINUATION, h, 1, &[]),
            ]
            .concat(),
        ),
        (
            "a frame too large",
            E::FRAME_SIZE_ERROR,
            vec![0x10, 0, 1, 0, 0, 0, 0, 0, 1],
        ),
    ];
    for (what, code, bytes) in cases {
        for piece in [1, 7, usize::MAX] {
            let mut raw = raw();
            raw.connect(1);
            for chunk in bytes.chunks(piece) {
                raw.send(chunk);
            }
            let closed = raw.events.last();
            let right = matches!(
                closed,
                Some(Event::Closed(CloseReason::Peer { code: c, .. })) if *c == code
            );
            assert!(right, "{what}: {closed:?}");
            raw.assert_fault(code);
        }
    }
}

#[test]
fn the_beginning_must_be_a_preface_and_settings() {
    let server = || {
        Raw::bare(hbone::codec::Codec::server(
            &Config::default(),
            Default::default(),
        ))
    };
    let mut http1 = server();
    http1.send(b"GET / HTTP/1.1\r\n");
    http1.assert_fault(PROTOCOL);
    let mut early = server();
    early.send(hbone::h2::frame::PREFACE);
    early.send(&crate::wire::ping());
    early.assert_fault(PROTOCOL);
    let mut silent = server();
    silent.send(&hbone::h2::frame::PREFACE[..10]);
    // The first one may be about memory.
    for _ in 0..2 {
        let deadline = silent.codec.poll_timeout().unwrap();
        silent.codec.handle_timeout(deadline);
    }
    assert!(silent.codec.is_closed());
}

#[test]
fn stream_faults_end_only_the_stream() {
    let (mut raw, stream) = tunnel();
    raw.frame(kind::WINDOW_UPDATE, 0, 1, &[0; 4]);
    assert_eq!(
        raw.take_events(),
        [Event::Reset {
            stream,
            code: PROTOCOL
        }]
    );
    assert_eq!(raw.resets(1), [PROTOCOL]);
    raw.assert_open();

    let (mut raw, stream) = tunnel();
    raw.frame(kind::DATA, flag::END_STREAM, 1, b"x");
    raw.frame(kind::DATA, 0, 1, b"y");
    assert_eq!(raw.resets(1), [ErrorCode::STREAM_CLOSED]);
    let reset = Event::Reset {
        stream,
        code: ErrorCode::STREAM_CLOSED,
    };
    assert_eq!(raw.events.last(), Some(&reset));
    raw.assert_open();

    let (mut raw, stream) = tunnel();
    raw.frame(kind::HEADERS, flag::END_HEADERS, 1, &block(&[("x", "y")]));
    let reset = Event::Reset {
        stream,
        code: PROTOCOL,
    };
    assert_eq!(
        raw.events.last(),
        Some(&reset),
        "trailers without END_STREAM"
    );

    for response in [
        &[(":status", "99")][..],
        &[("x", "y")],
        &[(":status", "101")],
    ] {
        let (mut raw, stream) = opened();
        raw.frame(kind::HEADERS, flag::END_HEADERS, 1, &block(response));
        assert_eq!(
            raw.events.last(),
            Some(&Event::Reset {
                stream,
                code: PROTOCOL
            })
        );
    }
    let (mut raw, stream) = opened();
    raw.frame(kind::DATA, 0, 1, b"early");
    assert_eq!(
        raw.events.last(),
        Some(&Event::Reset {
            stream,
            code: PROTOCOL
        })
    );
    raw.assert_open();
}

#[test]
fn requests_that_are_no_plain_connect_are_answered_by_the_codec() {
    let cases: [(&[(&str, &str)], bool); 4] = [
        (
            &[
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "a"),
            ],
            true,
        ),
        (&[(":method", "CONNECT")], true),
        (
            &[
                (":method", "CONNECT"),
                (":authority", "a:1"),
                ("Upper", "x"),
            ],
            false,
        ),
        (&[(":authority", "a:1")], false),
    ];
    for (index, (fields, answered)) in cases.into_iter().enumerate() {
        let stream = index as u32 * 2 + 1;
        let mut raw = raw();
        raw.frame(kind::HEADERS, flag::END_HEADERS, stream, &block(fields));
        assert_eq!(raw.take_events(), []);
        let frames = raw.receive();
        let headers = frames.iter().find(|(h, _)| h.kind == kind::HEADERS);
        assert_eq!(headers.is_some(), answered);
        if let Some((header, payload)) = headers {
            assert_eq!(*payload, block(&[(":status", "400")]));
            assert!(header.has(flag::END_STREAM));
        }
        let code = if answered {
            ErrorCode::NO_ERROR
        } else {
            PROTOCOL
        };
        assert_eq!(raw.resets(stream), [code]);
        assert_eq!(raw.codec.open_streams(), 0);
        raw.assert_open();
    }
}

#[test]
fn what_we_never_do_is_tolerated() {
    let (mut raw, stream) = tunnel();
    raw.frame(kind::PRIORITY, 0, 77, &[0; 5]);
    raw.frame(0xfe, 0xff, 5, &[9; 100]);
    raw.frame(kind::DATA, flag::PADDED, 1, &[3, b'a', b'b', 0, 0, 0]);
    raw.frame(kind::GOAWAY, 0, 0, &[0; 50]);
    raw.frame(kind::PING, flag::ACK, 0, &[9; 8]);
    raw.frame(kind::SETTINGS, flag::ACK, 0, &[]);
    // Trailers end a stream.
    let trailers = block(&[("grpc-status", "0")]);
    raw.frame(
        kind::HEADERS,
        flag::END_HEADERS | flag::END_STREAM,
        1,
        &trailers,
    );
    assert_eq!(raw.codec.read(stream).unwrap(), b"ab");
    raw.send(&[]);
    assert_eq!(raw.events.last(), Some(&Event::Finished(stream)));
    // HEADERS with padding and priority, in pieces.
    let connect = block(&[(":method", "CONNECT"), (":authority", "a:1")]);
    let first = [&[2, 0, 0, 0, 0, 9][..], &connect[..3], &[0; 2]].concat();
    raw.frame(kind::HEADERS, flag::PADDED | flag::PRIORITY, 3, &first);
    raw.frame(kind::CONTINUATION, 0, 3, &connect[3..5]);
    raw.frame(kind::CONTINUATION, flag::END_HEADERS, 3, &connect[5..]);
    assert!(matches!(raw.events.last(), Some(Event::Request { .. })));
    raw.assert_open();
}

#[test]
fn interim_responses_are_skipped_and_the_final_one_is_told() {
    let (mut raw, stream) = opened();
    for status in ["100", "103", "200"] {
        raw.frame(
            kind::HEADERS,
            flag::END_HEADERS,
            1,
            &block(&[(":status", status)]),
        );
    }
    let response = ConnectResponse::of(200);
    assert_eq!(raw.take_events(), [Event::Response { stream, response }]);
    assert!(raw.codec.writable_bytes(stream) > 0);
}

#[test]
fn a_refusal_ends_the_stream_for_both_ends() {
    let mut raw = raw();
    raw.connect(1);
    let Some(Event::Request { stream, .. }) = raw.events.pop() else {
        panic!()
    };
    assert_eq!(
        raw.codec.respond(stream, &ConnectResponse::of(100)),
        Err(RespondError::InvalidStatus)
    );
    raw.codec
        .respond(stream, &ConnectResponse::of(401))
        .unwrap();
    assert_eq!(
        raw.codec.respond(stream, &ConnectResponse::of(200)),
        Err(RespondError::StreamGone)
    );
    let frames = raw.receive();
    let kinds: Vec<_> = frames.iter().map(|(h, _)| h.kind).collect();
    assert_eq!(kinds[kinds.len() - 2..], [kind::HEADERS, kind::RST_STREAM]);
    assert_eq!(raw.codec.open_streams(), 0);
    // What was on its way passes by, and its credit comes back.
    for _ in 0..2000 {
        raw.frame(kind::DATA, 0, 1, &[0; 16_000]);
        raw.receive();
    }
    raw.assert_open();

    let (mut raw, stream) = opened();
    assert_eq!(raw.codec.writable_bytes(stream), 0);
    let headers = flag::END_HEADERS | flag::END_STREAM;
    raw.frame(kind::HEADERS, headers, 1, &block(&[(":status", "503")]));
    raw.frame(kind::RST_STREAM, 0, 1, &[0; 4]);
    let response = ConnectResponse::of(503);
    let events = raw.take_events();
    assert_eq!(events[0], Event::Response { stream, response });
    assert!(
        events.contains(&Event::Writable(stream)),
        "who waits for room learns: {events:?}"
    );
    assert!(events.contains(&Event::Finished(stream)));
    assert!(raw.codec.write(stream, b"x").is_err());
    assert_eq!(raw.codec.open_streams(), 0);
}

#[test]
fn a_server_that_has_answered_whole_may_stop_the_client() {
    let (mut raw, stream) = opened();
    raw.frame(
        kind::HEADERS,
        flag::END_HEADERS,
        1,
        &block(&[(":status", "200")]),
    );
    raw.codec.write(stream, &[7; 100]).unwrap();
    raw.frame(kind::DATA, flag::END_STREAM, 1, b"last words");
    raw.frame(kind::RST_STREAM, 0, 1, &[0; 4]);
    assert_eq!(raw.codec.read(stream).unwrap(), b"last words");
    assert!(raw.codec.write(stream, b"x").is_err());
    assert_eq!(raw.codec.backlog_bytes(), 0);
    raw.codec.consumed(stream, 10);
    raw.send(&[]);
    assert_eq!(raw.events.last(), Some(&Event::Finished(stream)));
    assert_eq!(raw.codec.open_streams(), 0);
}

#[test]
fn a_stream_that_is_let_go_gives_back_its_credit_and_still_ends_properly() {
    let (mut raw, stream) = tunnel();
    raw.frame(kind::DATA, 0, 1, &[1; 16_000]);
    raw.frame(kind::DATA, flag::END_STREAM, 1, &[1; 16_000]);
    assert_eq!(raw.codec.read(stream).unwrap().len(), 32_000);
    raw.codec.write(stream, b"last words").unwrap();
    raw.codec.finish(stream);
    // The application's socket broke: nothing of what was read is ever consumed.
    raw.codec.release(stream);
    assert_eq!(raw.codec.open_streams(), 1);
    let frames = raw.receive();
    let last = frames.last().unwrap();
    assert_eq!(last.1, b"last words");
    assert!(last.0.has(flag::END_STREAM));
    assert_eq!(raw.codec.open_streams(), 0);
    assert_eq!(raw.resets(1), []);

    let (mut raw, stream) = tunnel();
    raw.codec.release(stream);
    assert_eq!(raw.resets(1), [ErrorCode::CANCEL]);
    assert_eq!(raw.codec.open_streams(), 0);
}

#[test]
fn settings_change_windows_and_limits_of_open_streams() {
    let (mut raw, stream) = tunnel();
    assert_eq!(raw.codec.writable_bytes(stream), 65_535);
    let window = |bytes: u32| {
        [
            &id::INITIAL_WINDOW_SIZE.to_be_bytes()[..],
            &bytes.to_be_bytes(),
        ]
        .concat()
    };
    assert_eq!(raw.codec.write(stream, &[0; 60_000]), Ok(60_000));
    raw.frame(kind::SETTINGS, 0, 0, &window(10_000));
    let data: usize = raw
        .receive()
        .iter()
        .filter(|(h, _)| h.kind == 0)
        .map(|(_, p)| p.len())
        .sum();
    assert_eq!(data, 10_000);
    assert_eq!(raw.codec.writable_bytes(stream), 0);
    raw.frame(kind::SETTINGS, 0, 0, &window(0));
    raw.frame(kind::WINDOW_UPDATE, 0, 1, &5000_u32.to_be_bytes());
    assert!(
        raw.receive().iter().all(|(h, _)| h.kind != 0),
        "the window is below zero"
    );
    raw.frame(kind::SETTINGS, 0, 0, &window(65_535));
    let data: usize = raw
        .receive()
        .iter()
        .filter(|(h, _)| h.kind == 0)
        .map(|(_, p)| p.len())
        .sum();
    assert_eq!(data, 50_000);
    assert!(raw.take_events().contains(&Event::Writable(stream)));

    let (mut raw, _) = opened();
    let limit = [
        &id::MAX_CONCURRENT_STREAMS.to_be_bytes()[..],
        &1_u32.to_be_bytes(),
    ]
    .concat();
    raw.frame(kind::SETTINGS, 0, 0, &limit);
    let request = ConnectRequest {
        authority: "a:1".into(),
        ..ConnectRequest::default()
    };
    assert_eq!(raw.codec.available_streams(), 0);
    assert_eq!(
        raw.codec.open_stream(&request),
        Err(OpenError::TooManyStreams)
    );
}

#[test]
fn our_frames_are_never_larger_than_the_peer_takes() {
    let (mut raw, stream) = tunnel();
    raw.codec.write(stream, &[1; 60_000]).unwrap();
    let lengths: Vec<_> = raw.receive().iter().map(|(h, _)| h.length).collect();
    assert_eq!(lengths, [16_384, 16_384, 16_384, 10_848]);
    let mut request = ConnectRequest {
        authority: "a:1".into(),
        ..ConnectRequest::default()
    };
    request.headers.push("x", "\u{7f}".repeat(20_000));
    let mut raw = Raw::server(&Config::default());
    raw.receive();
    raw.codec.open_stream(&request).unwrap();
    let frames = raw.receive();
    assert_eq!(
        frames.iter().map(|(h, _)| h.kind).collect::<Vec<_>>(),
        [1, 9]
    );
    assert!(frames.iter().all(|(h, _)| h.length <= 16_384));
    request.headers.push("y", "z".repeat(70_000));
    let limit = [
        &id::MAX_HEADER_LIST_SIZE.to_be_bytes()[..],
        &65_536_u32.to_be_bytes(),
    ]
    .concat();
    raw.frame(kind::SETTINGS, 0, 0, &limit);
    assert_eq!(
        raw.codec.open_stream(&request),
        Err(OpenError::HeadersTooLarge)
    );
}

#[test]
fn streams_share_the_link_in_turns() {
    let mut raw = raw();
    raw.frame(kind::WINDOW_UPDATE, 0, 0, &(64_u32 << 20).to_be_bytes());
    let more = [
        &id::INITIAL_WINDOW_SIZE.to_be_bytes()[..],
        &(8_u32 << 20).to_be_bytes(),
    ]
    .concat();
    raw.frame(kind::SETTINGS, 0, 0, &more);
    let mut streams = Vec::new();
    for number in [1, 3, 5, 7] {
        raw.connect(number);
        let Some(Event::Request { stream, .. }) = raw.events.pop() else {
            panic!()
        };
        raw.codec
            .respond(stream, &ConnectResponse::of(200))
            .unwrap();
        assert_eq!(raw.codec.write(stream, &vec![0; 256 << 10]), Ok(256 << 10));
        streams.push(stream);
    }
    let frames = raw.receive();
    let data: Vec<_> = frames
        .iter()
        .filter(|(h, _)| h.kind == kind::DATA)
        .collect();
    let mut sent = [0_u32; 4];
    for (header, _) in data {
        sent[(header.stream / 2) as usize] += header.length;
        let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
        assert!(most - least <= 64 << 10, "{sent:?}");
    }
    assert_eq!(sent, [256 << 10; 4]);
}

#[test]
fn an_end_is_sent_although_the_window_of_the_connection_is_used_up() {
    let mut raw = raw();
    raw.connect(1);
    raw.connect(3);
    let streams: Vec<_> = raw
        .take_events()
        .into_iter()
        .map(|e| match e {
            Event::Request { stream, .. } => stream,
            other => panic!("{other:?}"),
        })
        .collect();
    for stream in &streams {
        raw.codec
            .respond(*stream, &ConnectResponse::of(200))
            .unwrap();
    }
    assert_eq!(raw.codec.write(streams[0], &[0; 70_000]), Ok(65_535));
    raw.receive();
    assert_eq!(raw.codec.writable_bytes(streams[1]), 0);
    raw.codec.finish(streams[1]);
    assert!(raw.codec.wants_transmit());
    let frames = raw.receive();
    assert!(
        frames
            .iter()
            .any(|(h, _)| h.stream == 3 && h.has(flag::END_STREAM))
    );
    assert!(!raw.codec.wants_transmit());
}

#[test]
fn a_round_trip_is_measured_and_the_answer_to_a_ping_is_its_echo() {
    let mut raw = Raw::bare(hbone::codec::Codec::server(
        &Config::default(),
        Default::default(),
    ));
    raw.send(hbone::h2::frame::PREFACE);
    raw.frame(kind::SETTINGS, 0, 0, &[]);
    let frames = raw.receive();
    let (_, payload) = frames.iter().find(|(h, _)| h.kind == kind::PING).unwrap();
    raw.wait(Duration::from_millis(3));
    raw.frame(kind::PING, flag::ACK, 0, payload);
    assert_eq!(raw.codec.rtt(), Some(Duration::from_millis(3)));
    raw.frame(kind::PING, 0, 0, b"whatever");
    let frames = raw.receive();
    assert_eq!(frames.last().unwrap().1, b"whatever");
}
