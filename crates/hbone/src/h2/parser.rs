//! Bytes to frames, however they are cut. DATA is handed on as it comes and never collected; other
//! frames are collected within bounds, and what means nothing is skipped.

use super::frame::{Fault, FrameHeader, HEADER_BYTES, MAX_31_BIT, PREFACE, flag, kind};
use super::settings::ENTRY_BYTES;
use crate::error::ErrorCode;

/// What a parser may collect.
#[derive(Clone, Copy, Debug)]
pub struct ParserLimits {
    /// Largest frame, bytes: what we advertised.
    pub frame_bytes: u32,
    /// Largest header block over all its frames, bytes.
    pub block_bytes: usize,
    /// CONTINUATION frames of one header block.
    pub continuations: u32,
    /// Entries of one SETTINGS frame.
    pub settings_entries: u32,
}

/// What comes out of the bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// A DATA frame begins.
    Data {
        /// Its stream, not 0.
        stream: u32,
        /// What it costs of the windows: the payload with padding, bytes.
        length: u32,
        /// END_STREAM.
        end: bool,
    },
    /// Content of that frame, and how much of its payload is still to come.
    DataBytes(&'a [u8], usize),
    /// The frame is over; this many bytes of it were padding.
    DataEnd(usize),
    /// A whole header block, of HEADERS and its CONTINUATION frames.
    Headers {
        /// Its stream, not 0.
        stream: u32,
        /// END_STREAM.
        end: bool,
        /// The compressed fields.
        block: &'a [u8],
    },
    /// RST_STREAM of a stream other than 0.
    Reset {
        /// The stream.
        stream: u32,
        /// Why.
        code: ErrorCode,
    },
    /// SETTINGS with its entries.
    Settings(&'a [u8]),
    /// The peer has seen our SETTINGS.
    SettingsAck,
    /// PING.
    Ping([u8; 8]),
    /// The answer to ours.
    Pong([u8; 8]),
    /// GOAWAY.
    GoAway {
        /// The last of our streams that the peer looks at.
        last_stream: u32,
        /// Why.
        code: ErrorCode,
    },
    /// WINDOW_UPDATE; stream 0 is the connection. The increment may be 0, which is a fault.
    WindowUpdate {
        /// The stream.
        stream: u32,
        /// Bytes.
        increment: u32,
    },
    /// A frame that means nothing here: PRIORITY or an unknown type.
    Ignored,
}

#[derive(Debug)]
enum State {
    /// So many bytes of the client's preface have come.
    Preface(usize),
    /// So many bytes of a frame header have come.
    Header(usize),
    /// The pad length of a DATA frame is next.
    PadLength { left: usize },
    /// Content of a DATA frame.
    Content { left: usize, padding: usize },
    /// Padding of a DATA frame.
    Padding { left: usize, padding: usize },
    /// Payload of another frame, collected.
    Collect { left: usize, skip: usize },
    /// Payload that means nothing.
    Skip { left: usize },
}

/// A header block in pieces.
#[derive(Debug)]
struct OpenBlock {
    stream: u32,
    end: bool,
    bytes: Vec<u8>,
    continuations: u32,
}

/// The receiving side of the frame layer.
#[derive(Debug)]
pub struct Parser {
    limits: ParserLimits,
    state: State,
    raw: [u8; HEADER_BYTES],
    header: FrameHeader,
    payload: Vec<u8>,
    block: Option<OpenBlock>,
    /// A whole block that was handed out and whose memory goes with the next call.
    done: Vec<u8>,
}

impl Parser {
    /// A parser; the preface comes first when the peer is a client.
    pub fn new(limits: ParserLimits, peer_is_client: bool) -> Self {
        Self {
            limits,
            state: if peer_is_client {
                State::Preface(0)
            } else {
                State::Header(0)
            },
            raw: [0; HEADER_BYTES],
            header: FrameHeader {
                length: 0,
                kind: 0,
                flags: 0,
                stream: 0,
            },
            payload: Vec::new(),
            block: None,
            done: Vec::new(),
        }
    }

    /// The next token of `input`, which moves behind what was taken; `None` when all is taken.
    ///
    /// # Errors
    /// A frame that breaks RFC 9113 or a bound. Do not call again after one.
    pub fn next<'t, 'i: 't>(
        &'t mut self,
        input: &mut &'i [u8],
    ) -> Result<Option<Token<'t>>, Fault> {
        self.done = Vec::new();
        loop {
            match self.state {
                State::Preface(have) => {
                    let taken = take(input, PREFACE.len() - have);
                    if taken != &PREFACE[have..have + taken.len()] {
                        return Err(Fault::protocol("no HTTP/2 preface"));
                    }
                    match have + taken.len() {
                        24 => self.state = State::Header(0),
                        more => {
                            self.state = State::Preface(more);
                            return Ok(None);
                        }
                    }
                }
                State::Header(have) => {
                    let taken = take(input, HEADER_BYTES - have);
                    let more = have + taken.len();
                    self.raw[have..more].copy_from_slice(taken);
                    self.state = State::Header(more);
                    if more < HEADER_BYTES {
                        return Ok(None);
                    }
                    self.header = FrameHeader::decode(self.raw);
                    if let Some(token) = self.begin()? {
                        return Ok(Some(token));
                    }
                }
                State::Collect { left, skip } => {
                    let taken = take(input, left);
                    let left = left - taken.len();
                    self.payload.extend_from_slice(taken);
                    if left > 0 {
                        self.state = State::Collect { left, skip };
                        return Ok(None);
                    }
                    self.state = if skip > 0 {
                        State::Skip { left: skip }
                    } else {
                        State::Header(0)
                    };
                    return self.finish();
                }
                State::Skip { left } => {
                    let left = left - take(input, left).len();
                    if left > 0 {
                        self.state = State::Skip { left };
                        return Ok(None);
                    }
                    self.state = State::Header(0);
                }
                _ => return self.data(input),
            }
        }
    }

    /// Decides from its header what to do with a frame.
    fn begin(&mut self) -> Result<Option<Token<'static>>, Fault> {
        let FrameHeader {
            length,
            kind,
            stream,
            ..
        } = self.header;
        if length > self.limits.frame_bytes {
            return Err(Fault::size("a frame larger than was allowed"));
        }
        match &self.block {
            Some(block) if kind != kind::CONTINUATION || block.stream != stream => {
                return Err(Fault::protocol("a header block was interrupted"));
            }
            None if kind == kind::CONTINUATION => {
                return Err(Fault::protocol("CONTINUATION without HEADERS"));
            }
            _ => {}
        }
        self.check_stream()?;
        let left = to_usize(length);
        if kind == kind::DATA {
            return self.begin_data(left);
        }
        let (collect, skip) = self.plan(left)?;
        match (collect, skip) {
            (None, 0) => self.state = State::Header(0),
            (None, left) => self.state = State::Skip { left },
            (Some(left), skip) => self.state = State::Collect { left, skip },
        }
        Ok(collect.is_none().then_some(Token::Ignored))
    }

    /// RFC 9113 6: which frames belong to a stream and which to the connection.
    fn check_stream(&self) -> Result<(), Fault> {
        let on_stream = match self.header.kind {
            kind::DATA
            | kind::HEADERS
            | kind::PRIORITY
            | kind::RST_STREAM
            | kind::PUSH_PROMISE
            | kind::CONTINUATION => true,
            kind::SETTINGS | kind::PING | kind::GOAWAY => false,
            _ => return Ok(()),
        };
        if on_stream == (self.header.stream != 0) {
            return Ok(());
        }
        Err(Fault::protocol("a frame on the wrong kind of stream"))
    }

    /// How much of a payload is collected (`None`: the frame means nothing) and how much skipped.
    fn plan(&mut self, left: usize) -> Result<(Option<usize>, usize), Fault> {
        let sized = |size: usize| {
            if left == size {
                Ok((Some(left), 0))
            } else {
                Err(Fault::size("a frame of wrong size"))
            }
        };
        match self.header.kind {
            kind::HEADERS if left > self.limits.block_bytes => {
                Err(Fault::calm("a header block larger than allowed"))
            }
            kind::HEADERS => Ok((Some(left), 0)),
            kind::CONTINUATION => self.plan_continuation(left),
            kind::PRIORITY => sized(5).map(|_| (None, left)),
            kind::RST_STREAM | kind::WINDOW_UPDATE => sized(4),
            kind::SETTINGS if self.header.has(flag::ACK) => sized(0),
            kind::SETTINGS if left > to_usize(self.limits.settings_entries) * ENTRY_BYTES => {
                Err(Fault::calm("SETTINGS with too many entries"))
            }
            kind::SETTINGS => Ok((Some(left), 0)),
            // We never allow push, and clients never push.
            kind::PUSH_PROMISE => Err(Fault::protocol("PUSH_PROMISE")),
            kind::PING => sized(8),
            kind::GOAWAY if left < 8 => Err(Fault::size("GOAWAY of wrong size")),
            kind::GOAWAY => Ok((Some(8), left - 8)),
            _ => Ok((None, left)),
        }
    }

    fn plan_continuation(&mut self, left: usize) -> Result<(Option<usize>, usize), Fault> {
        let Some(block) = &mut self.block else {
            return Err(Fault::protocol("CONTINUATION without HEADERS"));
        };
        block.continuations += 1;
        if block.continuations > self.limits.continuations {
            return Err(Fault::calm("too many CONTINUATION frames"));
        }
        if block.bytes.len() + left > self.limits.block_bytes {
            return Err(Fault::calm("a header block larger than allowed"));
        }
        Ok((Some(left), 0))
    }

    /// A frame is whole.
    fn finish(&mut self) -> Result<Option<Token<'_>>, Fault> {
        let header = self.header;
        match header.kind {
            kind::HEADERS => {
                let payload = std::mem::take(&mut self.payload);
                return self.begin_block(payload);
            }
            kind::CONTINUATION => {
                let payload = std::mem::take(&mut self.payload);
                return self.continue_block(&payload);
            }
            kind::SETTINGS if !header.has(flag::ACK) => {
                self.done = std::mem::take(&mut self.payload);
                return Ok(Some(Token::Settings(&self.done)));
            }
            _ => {}
        }
        // At most eight bytes, whose memory stays for the next one.
        let payload = &self.payload;
        let token = match header.kind {
            kind::SETTINGS => Token::SettingsAck,
            kind::RST_STREAM => Token::Reset {
                stream: header.stream,
                code: ErrorCode(word(payload, 0)),
            },
            kind::WINDOW_UPDATE => Token::WindowUpdate {
                stream: header.stream,
                increment: word(payload, 0) & MAX_31_BIT,
            },
            kind::PING if header.has(flag::ACK) => Token::Pong(eight(payload)),
            kind::PING => Token::Ping(eight(payload)),
            _ => Token::GoAway {
                last_stream: word(payload, 0) & MAX_31_BIT,
                code: ErrorCode(word(payload, 4)),
            },
        };
        self.payload.clear();
        Ok(Some(token))
    }

    /// RFC 9113 6.2: padding and priority around the block.
    fn begin_block(&mut self, mut payload: Vec<u8>) -> Result<Option<Token<'_>>, Fault> {
        let header = self.header;
        let mut front = 0;
        if header.has(flag::PADDED) {
            let padding = usize::from(*payload.first().ok_or(Fault::size("HEADERS too short"))?);
            front = 1;
            let end = payload
                .len()
                .checked_sub(padding)
                .filter(|end| *end >= front);
            payload.truncate(end.ok_or(Fault::protocol("padding longer than its frame"))?);
        }
        if header.has(flag::PRIORITY) {
            front += 5;
        }
        if front > payload.len() {
            return Err(Fault::size("HEADERS too short"));
        }
        payload.drain(..front);
        let end = header.has(flag::END_STREAM);
        if header.has(flag::END_HEADERS) {
            self.done = payload;
            return Ok(Some(Token::Headers {
                stream: header.stream,
                end,
                block: &self.done,
            }));
        }
        let stream = header.stream;
        self.block = Some(OpenBlock {
            stream,
            end,
            bytes: payload,
            continuations: 0,
        });
        Ok(Some(Token::Ignored))
    }

    fn continue_block(&mut self, payload: &[u8]) -> Result<Option<Token<'_>>, Fault> {
        let Some(mut block) = self.block.take() else {
            return Err(Fault::protocol("CONTINUATION without HEADERS"));
        };
        block.bytes.extend_from_slice(payload);
        if !self.header.has(flag::END_HEADERS) {
            self.block = Some(block);
            return Ok(Some(Token::Ignored));
        }
        self.done = block.bytes;
        Ok(Some(Token::Headers {
            stream: block.stream,
            end: block.end,
            block: &self.done,
        }))
    }

    fn begin_data(&mut self, left: usize) -> Result<Option<Token<'static>>, Fault> {
        let header = self.header;
        self.state = if header.has(flag::PADDED) {
            if left == 0 {
                return Err(Fault::size("DATA too short"));
            }
            State::PadLength { left }
        } else {
            State::Content { left, padding: 0 }
        };
        Ok(Some(Token::Data {
            stream: header.stream,
            length: header.length,
            end: header.has(flag::END_STREAM),
        }))
    }

    /// Inside of a DATA frame.
    fn data<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Token<'a>>, Fault> {
        if let State::PadLength { left } = self.state {
            let Some(pad) = take(input, 1).first() else {
                return Ok(None);
            };
            let left = left - 1;
            let pad = usize::from(*pad);
            let content = left.checked_sub(pad);
            let content = content.ok_or(Fault::protocol("padding longer than its frame"))?;
            self.state = State::Content {
                left: content,
                padding: pad + 1,
            };
        }
        if let State::Content { left, padding } = self.state {
            if left > 0 {
                let content = take(input, left);
                let left = left - content.len();
                self.state = State::Content { left, padding };
                let some = !content.is_empty();
                return Ok(some.then_some(Token::DataBytes(content, left)));
            }
            // The byte of the pad length has come already.
            self.state = State::Padding {
                left: padding.saturating_sub(1),
                padding,
            };
        }
        if let State::Padding { left, padding } = self.state {
            let left = left - take(input, left).len();
            self.state = State::Padding { left, padding };
            if left == 0 {
                self.state = State::Header(0);
                return Ok(Some(Token::DataEnd(padding)));
            }
        }
        Ok(None)
    }
}

fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn word(payload: &[u8], at: usize) -> u32 {
    payload
        .get(at..at + 4)
        .and_then(|w| w.try_into().ok())
        .map_or(0, u32::from_be_bytes)
}

fn eight(payload: &[u8]) -> [u8; 8] {
    payload.try_into().unwrap_or_default()
}
