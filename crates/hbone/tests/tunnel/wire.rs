//! A peer made of raw frames, without TLS, against our codec: it may break every rule.

use std::time::Duration;

use hbone::codec::Codec;
use hbone::h2::frame::{self, FrameHeader, HEADER_BYTES, PREFACE, flag, kind};
use hbone::{CloseReason, Config, ErrorCode, Event, Mono};

/// Our codec and the bytes that a raw peer exchanges with it.
pub struct Raw {
    pub codec: Codec,
    pub now: Mono,
    /// Frames that the codec has sent.
    pub got: Vec<(FrameHeader, Vec<u8>)>,
    pub events: Vec<Event>,
}

impl Raw {
    /// Our server, with a raw client that has said what is proper so far.
    pub fn client(config: &Config) -> Self {
        let mut raw = Self::bare(Codec::server(config, Mono::default()));
        raw.send(PREFACE);
        raw.frame(kind::SETTINGS, 0, 0, &[]);
        raw.frame(kind::SETTINGS, flag::ACK, 0, &[]);
        raw
    }

    /// Our client, with a raw server that has said what is proper so far.
    pub fn server(config: &Config) -> Self {
        let mut raw = Self::bare(Codec::client(config, Mono::default()));
        raw.frame(kind::SETTINGS, 0, 0, &[]);
        raw.frame(kind::SETTINGS, flag::ACK, 0, &[]);
        raw
    }

    pub fn bare(codec: Codec) -> Self {
        Self {
            codec,
            now: Mono::default(),
            got: Vec::new(),
            events: Vec::new(),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.codec.receive(self.now, bytes, 0);
        while let Some(event) = self.codec.poll_event() {
            self.events.push(event);
        }
    }

    pub fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.send(&raw_frame(kind, flags, stream, payload));
    }

    pub fn wait(&mut self, time: Duration) {
        self.now = self.now.plus(time);
    }

    /// What the codec sends now.
    pub fn receive(&mut self) -> Vec<(FrameHeader, Vec<u8>)> {
        let mut out = Vec::new();
        self.codec.transmit(self.now, &mut out, 2 << 20);
        while let Some(event) = self.codec.poll_event() {
            self.events.push(event);
        }
        let mut rest = &out[..];
        if rest.starts_with(PREFACE) {
            rest = &rest[PREFACE.len()..];
        }
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let header = FrameHeader::decode(rest[..HEADER_BYTES].try_into().unwrap());
            let end = HEADER_BYTES + header.length as usize;
            frames.push((header, rest[HEADER_BYTES..end].to_vec()));
            rest = &rest[end..];
        }
        self.got.extend(frames.clone());
        frames
    }

    /// CONNECT on a stream.
    pub fn connect(&mut self, stream: u32) {
        let block = block(&[(":method", "CONNECT"), (":authority", "10.0.0.1:80")]);
        self.frame(kind::HEADERS, flag::END_HEADERS, stream, &block);
    }

    /// Takes the events so far.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The codes of RST_STREAM frames that were sent for a stream.
    pub fn resets(&mut self, stream: u32) -> Vec<ErrorCode> {
        self.receive();
        let of =
            |(h, _): &&(FrameHeader, Vec<u8>)| h.kind == kind::RST_STREAM && h.stream == stream;
        let code = |(_, p): &(FrameHeader, Vec<u8>)| {
            ErrorCode(u32::from_be_bytes(p[..4].try_into().unwrap()))
        };
        self.got.iter().filter(of).map(code).collect()
    }

    /// Checks that the connection ended for the peer's fault, and that the peer was told.
    #[track_caller]
    pub fn assert_fault(&mut self, wanted: ErrorCode) {
        let Some(Event::Closed(CloseReason::Peer { code, why })) = self.events.last() else {
            panic!("not closed for {wanted}: {:?}", self.events.last());
        };
        assert_eq!(*code, wanted, "{why}");
        let frames = self.receive();
        let (header, payload) = frames.last().unwrap();
        assert_eq!(header.kind, kind::GOAWAY);
        assert_eq!(payload[4..8], wanted.0.to_be_bytes());
        assert!(self.codec.is_closed());
    }

    #[track_caller]
    pub fn assert_open(&self) {
        assert!(!self.codec.is_closed(), "{:?}", self.events.last());
    }
}

pub fn raw_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    let header = FrameHeader {
        length,
        kind,
        flags,
        stream,
    }
    .encode();
    [&header[..], payload].concat()
}

pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    hbone::h2::hpack::encode(fields.iter().copied(), &mut out);
    out
}

pub fn ping() -> Vec<u8> {
    let mut out = Vec::new();
    frame::ping(&mut out, false, [7; 8]);
    out
}
