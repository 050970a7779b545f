//! Frames of a peer, in pieces, against both roles of the codec with a driver that answers, writes,
//! reads, ends and resets. Nothing may panic, and nothing may be held beyond the bounds.

use std::time::Duration;

use hbone::codec::Codec;
use hbone::h2::frame::{FrameHeader, HEADER_BYTES, PREFACE};
use hbone::{Config, ConnectRequest, ConnectResponse, ErrorCode, Event, Mono};

/// Input: what happens, how the bytes are cut, then the bytes.
pub fn holds(input: &[u8]) {
    let [choice, pieces, bytes @ ..] = input else {
        return;
    };
    let config = Config::default();
    let mut now = Mono::default();
    let mut codec = match choice & 1 {
        0 => Codec::server(&config, now),
        _ => Codec::client(&config, now),
    };
    if choice & 1 == 0 && choice & 2 == 0 {
        codec.receive(now, PREFACE, 0);
    }
    let request = ConnectRequest {
        authority: "10.0.0.1:80".into(),
        ..ConnectRequest::default()
    };
    for _ in 0..choice >> 4 {
        let _ = codec.open_stream(&request);
    }
    let mut act = *choice;
    for piece in bytes.chunks(usize::from(*pieces).max(1) * 7) {
        codec.receive(now, piece, 0);
        now = now.plus(Duration::from_millis(u64::from(act)));
        let mut events = 0;
        while let Some(event) = codec.poll_event() {
            events += 1;
            act = act.wrapping_mul(5).wrapping_add(3);
            drive(&mut codec, event, act);
        }
        // Each stream has a handful at most: request, readable, writable, finished, reset.
        assert!(events <= 200 * 6 + 1200, "{events} events at once");
        assert!(codec.open_streams() <= 200);
        let mut out = Vec::new();
        codec.transmit(now, &mut out, 100_000);
        assert!(out.len() <= 100_000 + config.floods.control_backlog_bytes + (64 << 10));
        check_frames(&out);
        codec.handle_timeout(now);
    }
    if choice & 8 == 0 {
        codec.drain(now);
        codec.receive_eof(now, true);
        assert!(codec.is_closed());
    }
}

/// What goes out is made of whole frames.
fn check_frames(out: &[u8]) {
    let mut rest = out.strip_prefix(PREFACE).unwrap_or(out);
    while !rest.is_empty() {
        let (head, behind) = rest.split_first_chunk::<HEADER_BYTES>().expect("a header");
        let header = FrameHeader::decode(*head);
        assert!(header.kind <= 9);
        rest = &behind[header.length as usize..];
    }
}

/// Something of everything that a driver does.
fn drive(codec: &mut Codec, event: Event, act: u8) {
    match event {
        Event::Request { stream, .. } => match act % 4 {
            0 => drop(codec.respond(stream, &ConnectResponse::of(503))),
            1 => codec.reset(stream, ErrorCode::CANCEL),
            _ => {
                let _ = codec.respond(stream, &ConnectResponse::of(200));
                let _ = codec.write(stream, &[act; 300]);
            }
        },
        Event::Response { stream, .. } | Event::Writable(stream)
            if codec.writable_bytes(stream) > 0 =>
        {
            let _ = codec.write_buffer(stream, vec![act; 500]);
        }
        Event::Readable(stream) => {
            if let Some(data) = codec.read(stream)
                && !act.is_multiple_of(8)
            {
                codec.consumed(stream, data.len());
            }
        }
        Event::Finished(stream) if act.is_multiple_of(2) => codec.finish(stream),
        Event::Finished(stream) => codec.reset(stream, ErrorCode::NO_ERROR),
        _ => {}
    }
}
