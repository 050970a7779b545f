//! One stream: a tunnelled TCP connection.
//!
//! ```text
//!               request sent / received
//!                        |
//!                 [ Unanswered ] -- refused (status != 2xx): our side ends -->[ over ]
//!                        | answered 2xx
//!                  [ Tunnel ]  each direction on its own:
//!      Open --finish()--> Ending --END_STREAM sent--> Ended        (send)
//!      Open --END_STREAM received--> Ending --all read--> Ended    (receive)
//!                        |
//!        RST_STREAM from either end, or the connection ends: both directions Ended at once
//! ```
//!
//! A stream leaves the table when both directions are Ended, nothing received is held by the
//! application, and the driver has seen the last event. Until then it counts as open, so that a
//! peer cannot make us hold more than the allowed number of them, however fast it ends them.

use super::backlog::Backlog;
use super::window::{Pace, RecvWindow};
use crate::time::Mono;

/// One direction of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// Data may flow.
    Open,
    /// The end is known but not yet carried out.
    Ending,
    /// Over.
    Ended,
}

/// Where the request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// None yet.
    Unanswered,
    /// 2xx: data flows.
    Tunnel,
    /// Another status: no data of ours.
    Refused,
}

/// A stream's state, which is all that an idle one holds.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) answer: Answer,
    pub(super) send: Direction,
    pub(super) recv: Direction,
    /// What the peer lets us send, bytes; negative after it shrank its SETTINGS.
    pub(super) send_window: i64,
    pub(super) backlog: Backlog,
    pub(super) window: RecvWindow,
    pub(super) pace: Pace,
    /// Received and not read.
    pub(super) unread: Vec<u8>,
    /// Events in the queue that name this stream.
    pub(super) events: u32,
    /// `Readable` is told and not followed by a read.
    pub(super) told_readable: bool,
    /// The application waits for `Writable`.
    pub(super) blocked: bool,
    /// Stands in the queue of streams to send from.
    pub(super) queued: bool,
    /// Cut off; the driver learns it by an event.
    pub(super) reset: bool,
    /// Of a server: the driver has not been told of the request. It hears nothing of a stream that
    /// is cut off before.
    pub(super) untold: bool,
}

impl Stream {
    pub(super) fn new(send_window: u32, recv_window: u32, now: Mono) -> Self {
        Self {
            answer: Answer::Unanswered,
            send: Direction::Open,
            recv: Direction::Open,
            send_window: i64::from(send_window),
            backlog: Backlog::default(),
            window: RecvWindow::new(recv_window, recv_window),
            pace: Pace::new(now),
            unread: Vec::new(),
            events: 0,
            told_readable: false,
            blocked: false,
            queued: false,
            reset: false,
            untold: false,
        }
    }

    /// Nothing more will come of it.
    pub(super) fn is_over(&self) -> bool {
        let ended = self.send == Direction::Ended && self.recv == Direction::Ended;
        self.events == 0 && (self.reset || (ended && self.window.held() == 0))
    }

    /// Both END_STREAMs have passed the wire: the end of the connection costs it nothing.
    pub(super) fn is_complete_on_wire(&self) -> bool {
        self.send == Direction::Ended && self.recv != Direction::Open
    }

    /// Has something to send that no window of the stream holds back.
    pub(super) fn can_send(&self) -> bool {
        if self.reset || self.send == Direction::Ended {
            return false;
        }
        if self.backlog.is_empty() {
            self.send == Direction::Ending
        } else {
            self.send_window > 0
        }
    }

    /// Cut off: both directions are over and hold nothing.
    pub(super) fn cut_off(&mut self) {
        self.reset = true;
        self.send = Direction::Ended;
        self.recv = Direction::Ended;
        self.backlog = Backlog::default();
        self.unread = Vec::new();
        self.blocked = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_stays_until_the_application_has_used_everything_up() {
        let mut stream = Stream::new(100, 100, Mono::default());
        stream.window.receive(10);
        stream.send = Direction::Ended;
        stream.recv = Direction::Ended;
        assert!(!stream.is_over());
        stream.window.consume(10);
        assert!(stream.is_over());
    }

    #[test]
    fn an_idle_stream_is_small() {
        // With the allocator's word the largest that fits into 128.
        assert!(size_of::<Stream>() <= 120, "{}", size_of::<Stream>());
    }
}
