//! What the peer's frames do, other than header blocks.

use super::flood::Nuisance;
use super::stream::{Answer, Direction};
use super::{Codec, Role};
use crate::error::ErrorCode;
use crate::event::{Event, StreamId};
use crate::h2::frame::{self, Fault, MAX_31_BIT};
use crate::h2::parser::Token;

/// A DATA frame that is coming in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incoming {
    stream: u32,
    end: bool,
    /// Whether any content has come.
    content: bool,
}

impl Codec {
    /// Carries out one token; `behind` more bytes have come already.
    pub(super) fn token(&mut self, token: Token<'_>, behind: usize) -> Result<(), Fault> {
        if !self.peer_spoke && !matches!(token, Token::Settings(_)) {
            return Err(Fault::protocol("the first frame is not SETTINGS"));
        }
        let now = self.now;
        match token {
            Token::Data {
                stream,
                length,
                end,
            } => self.on_data(stream, length, end)?,
            Token::DataBytes(bytes, left) => self.on_data_bytes(bytes, left.min(behind)),
            Token::DataEnd(padding) => self.on_data_end(padding)?,
            Token::Headers { stream, end, block } => self.on_headers(stream, end, block)?,
            Token::Reset { stream, code } => self.on_reset(stream, code)?,
            Token::Settings(payload) => self.on_settings(payload)?,
            Token::SettingsAck if !self.acknowledged => {
                self.acknowledged = true;
                self.decoder.forbid_table();
            }
            Token::Ping(payload) => {
                self.guard.count(Nuisance::Ping, now)?;
                frame::ping(&mut self.control, true, payload);
            }
            Token::Pong(payload) => {
                if self.heart.pong(payload, now) {
                    self.name_last_stream();
                }
                self.guard.count(Nuisance::IdleFrame, now)?;
            }
            Token::GoAway { last_stream, code } => {
                self.guard.count(Nuisance::IdleFrame, now)?;
                self.on_goaway(last_stream, code);
            }
            Token::WindowUpdate { stream, increment } => {
                self.guard.count(Nuisance::WindowUpdate, now)?;
                self.on_window_update(stream, increment)?;
            }
            Token::Ignored | Token::SettingsAck => self.guard.count(Nuisance::IdleFrame, now)?,
        }
        Ok(())
    }

    /// A stream that neither side has opened (RFC 9113 5.1): frames on it are faults.
    pub(super) fn is_idle(&self, number: u32) -> bool {
        match self.role {
            Role::Client => number.is_multiple_of(2) || number >= self.streams.next(),
            Role::Server => number.is_multiple_of(2) || number > self.streams.last(),
        }
    }

    /// Ends a stream for the peer's fault; the driver is told.
    pub(super) fn abort(&mut self, number: u32, code: ErrorCode) -> Result<(), Fault> {
        frame::rst_stream(&mut self.control, number, code);
        self.cut_off(number, code);
        self.guard.count(Nuisance::Refusal, self.now)
    }

    /// Ends a stream in both directions and tells the driver.
    pub(super) fn cut_off(&mut self, number: u32, code: ErrorCode) {
        let held = self.streams.cut_off(number);
        self.window.consume(held);
        self.grant_connection();
        self.tell(
            number,
            Event::Reset {
                stream: StreamId(number),
                code,
            },
        );
        if !self.is_closed() {
            // What it waited to send took room that others may be waiting for.
            self.wake_writers();
        }
    }

    fn on_data(&mut self, number: u32, length: u32, end: bool) -> Result<(), Fault> {
        if self.is_idle(number) {
            return Err(Fault::protocol("DATA on a stream that was never opened"));
        }
        let overrun = Fault::new(ErrorCode::FLOW_CONTROL_ERROR, "DATA beyond the window");
        if length > self.window.available() {
            return Err(overrun);
        }
        let role = self.role;
        self.incoming = Some(Incoming {
            stream: number,
            end,
            content: false,
        });
        let Some(stream) = self.streams.live(number) else {
            // In flight when we reset the stream; its bytes only pass the connection's window.
            return if length == 0 {
                self.guard.count(Nuisance::IdleFrame, self.now)
            } else {
                Ok(())
            };
        };
        if stream.recv != Direction::Open {
            return self.abort(number, ErrorCode::STREAM_CLOSED);
        }
        if role == Role::Client && stream.answer == Answer::Unanswered {
            return self.abort(number, ErrorCode::PROTOCOL_ERROR);
        }
        if length > stream.window.available() {
            return Err(overrun);
        }
        Ok(())
    }

    fn on_data_bytes(&mut self, bytes: &[u8], more: usize) {
        let Some(incoming) = &mut self.incoming else {
            return;
        };
        incoming.content = true;
        let number = incoming.stream;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.window.receive(length);
        let Some(stream) = self
            .streams
            .live(number)
            .filter(|s| s.recv == Direction::Open)
        else {
            self.window.consume(length);
            return self.grant_connection();
        };
        stream.window.receive(length);
        if stream.unread.is_empty() {
            stream.unread = self.spares.take(bytes.len() + more, self.now);
        }
        stream.unread.extend_from_slice(bytes);
        if self.bulk.0 != number {
            self.bulk = (number, self.now);
        }
        if !std::mem::replace(&mut stream.told_readable, true) {
            self.tell(number, Event::Readable(StreamId(number)));
        }
    }

    fn on_data_end(&mut self, padding: usize) -> Result<(), Fault> {
        let Some(incoming) = self.incoming.take() else {
            return Ok(());
        };
        let padding = u32::try_from(padding).unwrap_or(u32::MAX);
        self.window.receive(padding);
        self.window.consume(padding);
        if let Some(stream) = self.streams.live(incoming.stream)
            && padding > 0
        {
            stream.window.receive(padding);
            stream.window.consume(padding);
            self.grant_stream(incoming.stream);
        }
        self.grant_connection();
        if incoming.end {
            self.on_end(incoming.stream);
        } else if !incoming.content {
            self.guard.count(Nuisance::EmptyFrame, self.now)?;
        }
        Ok(())
    }

    /// END_STREAM.
    pub(super) fn on_end(&mut self, number: u32) {
        if let Some(stream) = self.streams.live(number)
            && stream.recv == Direction::Open
        {
            stream.recv = Direction::Ending;
            self.finish_reading(number);
        }
    }

    fn on_reset(&mut self, number: u32, code: ErrorCode) -> Result<(), Fault> {
        if self.is_idle(number) {
            return Err(Fault::protocol(
                "RST_STREAM of a stream that was never opened",
            ));
        }
        let server = self.role == Role::Server;
        let Some(stream) = self.streams.live(number) else {
            return self.guard.count(Nuisance::IdleFrame, self.now);
        };
        let early = server && stream.answer == Answer::Unanswered;
        // RFC 9113 8.1: a server that has answered whole may ask us to stop sending. What it sent
        // stays.
        if code == ErrorCode::NO_ERROR && !server && stream.recv != Direction::Open {
            stream.send = Direction::Ended;
            self.streams.drop_backlog(number);
            self.wake_writer(number);
            self.wake_writers();
            self.sweep(number);
            return Ok(());
        }
        self.cut_off(number, code);
        if early {
            self.guard.count(Nuisance::EarlyReset, self.now)?;
        }
        Ok(())
    }

    fn on_settings(&mut self, payload: &[u8]) -> Result<(), Fault> {
        self.guard.count(Nuisance::Settings, self.now)?;
        let before = self.peer.initial_window;
        self.peer.apply(payload, self.role == Role::Client)?;
        let change = i64::from(self.peer.initial_window) - i64::from(before);
        for (_, stream) in self.streams.iter_mut() {
            stream.send_window += change;
            if stream.send_window > i64::from(MAX_31_BIT) {
                return Err(overflow());
            }
        }
        frame::settings_ack(&mut self.control);
        if !self.peer_spoke {
            self.peer_spoke = true;
            if let Some(payload) = self.heart.probe(self.now) {
                frame::ping(&mut self.control, false, payload);
            }
        }
        if change > 0 {
            self.windows_opened();
        }
        Ok(())
    }

    fn on_window_update(&mut self, number: u32, increment: u32) -> Result<(), Fault> {
        if number == 0 {
            if increment == 0 {
                return Err(Fault::protocol("WINDOW_UPDATE of nothing"));
            }
            self.send_window += i64::from(increment);
            if self.send_window > i64::from(MAX_31_BIT) {
                return Err(overflow());
            }
            self.wake_writers();
            return Ok(());
        }
        if self.is_idle(number) {
            return Err(Fault::protocol(
                "WINDOW_UPDATE of a stream that was never opened",
            ));
        }
        let Some(stream) = self.streams.live(number) else {
            return Ok(());
        };
        if increment == 0 {
            return self.abort(number, ErrorCode::PROTOCOL_ERROR);
        }
        stream.send_window += i64::from(increment);
        if stream.send_window > i64::from(MAX_31_BIT) {
            return self.abort(number, ErrorCode::FLOW_CONTROL_ERROR);
        }
        self.streams.queue(number);
        self.wake_writer(number);
        Ok(())
    }

    /// Stream windows grew: streams may send and writers may write.
    fn windows_opened(&mut self) {
        for number in self.streams.numbers() {
            self.streams.queue(number);
        }
        self.wake_writers();
    }
}

fn overflow() -> Fault {
    Fault::new(ErrorCode::FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
}
