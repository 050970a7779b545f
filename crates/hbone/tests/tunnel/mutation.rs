//! Sound exchanges, damaged anyhow: nothing panics, nothing is held beyond the bounds, and the end
//! is one that a log can print. The same code runs for longer in `fuzz/`.

use hbone::codec::Codec;
use hbone::h2::frame::{FrameHeader, PREFACE, flag, kind};
use hbone::h2::hpack::{Decoder, encode};
use hbone::{Config, ConnectRequest, ConnectResponse, Event, Mono};

use crate::dice::Dice;
use crate::wire::raw_frame;

/// What a client might say: sound frames in any order.
fn conversation(dice: &mut Dice) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(raw_frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]));
    let mut next = 1;
    for _ in 0..dice.within(1, 40) {
        let stream = dice.within(0, 10) as u32 * 2 + 1;
        let size = dice.size(3000);
        let payload = dice.bytes(size);
        bytes.extend(match dice.within(0, 9) {
            0..=2 => {
                next += 2;
                let mut block = Vec::new();
                let fields = [
                    (":method", "CONNECT"),
                    (":authority", "10.0.0.1:80"),
                    ("a", "b"),
                ];
                encode(fields, &mut block);
                raw_frame(kind::HEADERS, flag::END_HEADERS, next, &block)
            }
            3..=5 => raw_frame(kind::DATA, (dice.next() & 1) as u8, stream, &payload),
            6 => raw_frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]),
            7 => raw_frame(kind::WINDOW_UPDATE, 0, stream, &[0, 0, 9, 9]),
            8 => raw_frame(kind::PING, 0, 0, &[1; 8]),
            _ => raw_frame(dice.next() as u8, dice.next() as u8, stream, &payload),
        });
    }
    bytes
}

fn damage(bytes: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..dice.within(0, 6) {
        if bytes.is_empty() {
            return;
        }
        let at = dice.within(0, bytes.len() - 1);
        match dice.within(0, 4) {
            0 => bytes[at] ^= 1 << dice.within(0, 7),
            1 => bytes[at] = dice.next() as u8,
            2 => bytes.truncate(at),
            3 => {
                let end = (at + dice.size(200)).min(bytes.len());
                bytes.drain(at..end);
            }
            _ => {
                let end = (at + dice.size(200)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
}

/// Runs bytes through a codec with a driver that does something of everything; gives the frames
/// that came out, which must be whole.
fn run(codec: &mut Codec, bytes: &[u8], dice: &mut Dice) {
    let mut rest = bytes;
    let mut now = Mono::default();
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(dice.size(rest.len()).min(rest.len()));
        rest = behind;
        codec.receive(now, piece, 0);
        now = now.plus(std::time::Duration::from_millis(dice.within(0, 100) as u64));
        let mut ended = false;
        while let Some(event) = codec.poll_event() {
            assert!(!ended, "{event:?} after the end");
            match event {
                Event::Request { stream, .. } if dice.chance(4) => {
                    let _ = codec.respond(stream, &ConnectResponse::of(503));
                }
                Event::Request { stream, .. } => {
                    let _ = codec.respond(stream, &ConnectResponse::of(200));
                    let _ = codec.write(stream, &[1; 100]);
                }
                Event::Readable(stream) => {
                    if let Some(data) = codec.read(stream) {
                        codec.consumed(stream, data.len());
                    }
                }
                Event::Finished(stream) => codec.finish(stream),
                Event::Closed(_) => ended = true,
                _ => {}
            }
        }
        assert!(codec.open_streams() <= 200);
        let mut out = Vec::new();
        codec.transmit(now, &mut out, 1 << 20);
        check_frames(&out);
        codec.handle_timeout(now);
    }
}

fn check_frames(out: &[u8]) {
    let mut rest = out.strip_prefix(PREFACE).unwrap_or(out);
    while !rest.is_empty() {
        let header = FrameHeader::decode(rest[..9].try_into().unwrap());
        assert!(header.kind <= 9);
        rest = &rest[9 + header.length as usize..];
    }
}

#[test]
fn a_server_survives_damaged_conversations() {
    let mut closed = 0;
    for seed in 0..1500 {
        let mut dice = Dice::new(seed);
        let mut bytes = conversation(&mut dice);
        damage(&mut bytes, &mut dice);
        let mut codec = Codec::server(&Config::default(), Mono::default());
        run(&mut codec, &bytes, &mut dice);
        closed += usize::from(codec.is_closed());
    }
    assert!(
        closed > 300 && closed < 1500,
        "{closed}: the damage is too great or too small"
    );
}

#[test]
fn a_client_survives_damaged_conversations() {
    let mut closed = 0;
    for seed in 0..1000 {
        let mut dice = Dice::new(seed);
        let mut codec = Codec::client(&Config::default(), Mono::default());
        for _ in 0..dice.within(0, 10) {
            let request = ConnectRequest {
                authority: "a:1".into(),
                ..Default::default()
            };
            codec.open_stream(&request).unwrap();
        }
        let mut bytes = raw_frame(kind::SETTINGS, 0, 0, &[]);
        for _ in 0..dice.within(1, 20) {
            let stream = dice.within(0, 10) as u32 * 2 + 1;
            let mut block = Vec::new();
            encode([(":status", "200")], &mut block);
            let size = dice.size(2000);
            let payload = dice.bytes(size);
            bytes.extend(match dice.within(0, 3) {
                0 => raw_frame(kind::HEADERS, flag::END_HEADERS, stream, &block),
                1 => raw_frame(kind::DATA, (dice.next() & 1) as u8, stream, &payload),
                2 => raw_frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 9, 0, 0, 0, 0]),
                _ => raw_frame(kind::RST_STREAM, 0, stream, &[0; 4]),
            });
        }
        damage(&mut bytes, &mut dice);
        run(&mut codec, &bytes, &mut dice);
        closed += usize::from(codec.is_closed());
    }
    assert!(
        closed > 100 && closed < 1000,
        "{closed}: the damage is too great or too small"
    );
}

#[test]
fn header_blocks_of_anything_are_read_or_refused_within_the_bound() {
    let mut refused = 0;
    for seed in 0..20_000 {
        let mut dice = Dice::new(seed);
        let mut decoder = Decoder::default();
        for _ in 0..3 {
            let mut block = Vec::new();
            let value = "v".repeat(dice.within(0, 60));
            encode(
                [(":status", "200"), ("baggage", &value), ("x", "y")],
                &mut block,
            );
            damage(&mut block, &mut dice);
            match decoder.decode(&block, 500) {
                Ok(fields) => {
                    let size: usize = fields.iter().map(|f| f.size()).sum();
                    assert!(size <= 500, "{size}");
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 5000, "{refused}");
}

#[test]
fn what_is_encoded_is_read_back_whatever_it_is() {
    for seed in 0..2000 {
        let mut dice = Dice::new(seed);
        let mut fields = Vec::new();
        for _ in 0..dice.within(0, 20) {
            let name: String = (0..dice.within(1, 20))
                .map(|_| char::from(b'a' + (dice.next() % 26) as u8))
                .collect();
            let value: String = (0..dice.within(0, 50))
                .map(|_| char::from((dice.next() % 256) as u8))
                .collect();
            fields.push((name, value));
        }
        let mut block = Vec::new();
        encode(
            fields.iter().map(|(n, v)| (n.as_str(), v.as_str())),
            &mut block,
        );
        let decoded = Decoder::default().decode(&block, 1 << 20).unwrap();
        let decoded: Vec<_> = decoded
            .iter()
            .map(|f| {
                (
                    str::from_utf8(&f.name).unwrap().to_owned(),
                    str::from_utf8(&f.value).unwrap().to_owned(),
                )
            })
            .collect();
        assert_eq!(decoded, fields);
    }
}
