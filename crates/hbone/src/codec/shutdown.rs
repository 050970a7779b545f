//! How a connection ends: drain, close, fault, silence, loss.

use super::{Codec, Role};
use crate::error::{CloseReason, ErrorCode};
use crate::event::Event;
use crate::h2::frame::{self, Fault, MAX_31_BIT};
use crate::time::Mono;
use crate::tls::HandshakeError;

/// What a connection that dies takes its streams with: the TCP connection behind is gone.
const CUT_CODE: ErrorCode = ErrorCode::CONNECT_ERROR;

/// Our side of an end.
///
/// ```text
/// Serving --server drains--> Announced --PING answered, or 2 s--> Named --last stream--> closed
///    \------client drains------------------------------------------^
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Ours {
    #[default]
    Serving,
    /// GOAWAY(2^31-1) is out; the last stream is named at the latest by then.
    Announced(Mono),
    /// GOAWAY with the last stream is out.
    Named(u32),
}

/// How far the end has come.
#[derive(Debug, Default)]
pub(super) struct Shutdown {
    ours: Ours,
    /// The peer's GOAWAY.
    theirs: Option<ErrorCode>,
    closed: bool,
}

impl Shutdown {
    pub(super) fn deadline(&self) -> Option<Mono> {
        match self.ours {
            Ours::Announced(deadline) => Some(deadline),
            _ => None,
        }
    }

    /// Whether we have said that we would not look at this stream.
    pub(super) fn is_past_last_stream(&self, number: u32) -> bool {
        matches!(self.ours, Ours::Named(last) if number > last)
    }
}

impl Codec {
    /// Whether no new streams are taken or given.
    pub fn is_draining(&self) -> bool {
        self.shutdown.ours != Ours::Serving
            || (self.role == Role::Client && self.shutdown.theirs.is_some())
    }

    /// Whether the connection is over; control frames may still wait to be sent.
    pub fn is_closed(&self) -> bool {
        self.shutdown.closed
    }

    /// Lets open streams end and takes no new ones.
    pub fn drain(&mut self, now: Mono) {
        self.advance(now);
        if self.is_closed() || self.shutdown.ours != Ours::Serving {
            return;
        }
        match self.role {
            Role::Client => {
                frame::goaway(&mut self.control, 0, ErrorCode::NO_ERROR);
                self.shutdown.ours = Ours::Named(0);
                self.close_if_drained();
            }
            Role::Server => {
                // RFC 9113 6.8: first that an end is near, so that requests on their way are
                // served.
                frame::goaway(&mut self.control, MAX_31_BIT, ErrorCode::NO_ERROR);
                let payload = self.heart.drain_ping();
                frame::ping(&mut self.control, false, payload);
                self.shutdown.ours = Ours::Announced(now.plus(self.config.drain_ping_wait));
            }
        }
    }

    /// A round trip has passed since the drain was announced: all that came before is here.
    pub(super) fn name_last_stream(&mut self) {
        if let Ours::Announced(_) = self.shutdown.ours {
            let last = self.streams.last();
            frame::goaway(&mut self.control, last, ErrorCode::NO_ERROR);
            self.shutdown.ours = Ours::Named(last);
            self.close_if_drained();
        }
    }

    /// Ends the connection at once.
    pub fn close(&mut self, code: ErrorCode) {
        self.say_goaway_and_end(code, CloseReason::ByUs { code });
    }

    /// The peer is at fault.
    pub(super) fn fault(&mut self, fault: Fault) {
        let Fault { code, why } = fault;
        self.say_goaway_and_end(code, CloseReason::Peer { code, why });
    }

    /// The peer has fallen silent.
    pub(super) fn died(&mut self) {
        self.say_goaway_and_end(ErrorCode::NO_ERROR, CloseReason::KeepAliveTimeout);
    }

    /// The peer sent no SETTINGS in time.
    pub(super) fn never_began(&mut self) {
        let reason = CloseReason::Handshake(HandshakeError::Timeout);
        self.say_goaway_and_end(ErrorCode::SETTINGS_TIMEOUT, reason);
    }

    fn say_goaway_and_end(&mut self, code: ErrorCode, reason: CloseReason) {
        if !self.is_closed() {
            let last = self.streams.last();
            frame::goaway(&mut self.control, last, code);
            self.end(reason);
        }
    }

    /// The transport ended; `clean` when the peer said so before.
    pub fn receive_eof(&mut self, now: Mono, clean: bool) {
        self.advance(now);
        if self.is_closed() {
            return;
        }
        if !clean {
            self.control = Vec::new();
        }
        let whole = self
            .streams
            .iter_mut()
            .all(|(_, s)| s.reset || s.is_complete_on_wire());
        let reason = match self.shutdown.theirs {
            Some(code) if code != ErrorCode::NO_ERROR => CloseReason::ByPeer { code },
            Some(_) if whole => CloseReason::Drained,
            None if whole && self.shutdown.ours != Ours::Serving => CloseReason::Drained,
            _ => CloseReason::Eof { clean },
        };
        self.end(reason);
    }

    /// The session around the codec broke.
    pub(crate) fn break_off(&mut self, reason: CloseReason) {
        if !self.is_closed() {
            self.control = Vec::new();
            self.end(reason);
        }
    }

    /// Cuts every stream off that is not whole on the wire already.
    fn end(&mut self, reason: CloseReason) {
        self.shutdown.closed = true;
        self.parser = None;
        let code = match &reason {
            CloseReason::Peer { code, .. }
            | CloseReason::ByPeer { code }
            | CloseReason::ByUs { code } => *code,
            _ => CUT_CODE,
        };
        for number in self.streams.numbers() {
            let stream = self.streams.live(number);
            if stream.is_some_and(|s| !s.is_complete_on_wire()) {
                self.cut_off(number, code);
            }
        }
        self.events.push_back(Event::Closed(reason));
    }

    /// The peer's GOAWAY: streams that it will not look at can be tried elsewhere.
    pub(super) fn on_goaway(&mut self, last_stream: u32, code: ErrorCode) {
        let first = self.shutdown.theirs.replace(code).is_none();
        if first || code != ErrorCode::NO_ERROR {
            self.events.push_back(Event::GoAway { code });
        }
        if self.role == Role::Client {
            for number in self.streams.numbers() {
                if number > last_stream && self.streams.live(number).is_some() {
                    self.cut_off(number, ErrorCode::REFUSED_STREAM);
                }
            }
        }
        self.close_if_drained();
    }

    /// Ends a connection that drains when its last stream is gone. A server does not end for the
    /// client's GOAWAY, which only says that the client takes no pushed streams.
    pub(super) fn close_if_drained(&mut self) {
        let theirs = self.shutdown.theirs.filter(|_| self.role == Role::Client);
        let named = matches!(self.shutdown.ours, Ours::Named(_));
        if self.is_closed() || !self.streams.is_empty() || (!named && theirs.is_none()) {
            return;
        }
        if !named {
            frame::goaway(&mut self.control, 0, ErrorCode::NO_ERROR);
        }
        self.end(match theirs {
            Some(code) if code != ErrorCode::NO_ERROR => CloseReason::ByPeer { code },
            _ => CloseReason::Drained,
        });
    }
}
