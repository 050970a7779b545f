//! Which bytes of an HTTP/1 connection may reach the parser. Everything whose end two parsers could
//! see at different places (RFC 9112 11.2, request smuggling) is refused, and so is what is too
//! large. Pure: bytes in, a count of bytes out. It must not know what requests mean.
//!
//! ```text
//!            head is complete and proper
//!   Head ──────────────────────────────────> Body / Chunked ──> Head
//!    │                                              │
//!    │ with `Upgrade`, or CONNECT                   └─────────> Undecided ──> Head   (resume)
//!    └──────────────────────────────> Undecided                     └───────> Open   (open)
//!   any ──> Broken, for ever
//! ```
//!
//! A head passes whole or not at all, so the parser never sees a part of one that is refused.

mod chunks;
mod head;

use super::limits::{FIELDS_MAX, HEAD_BYTES_MAX, REQUEST_LINE_BYTES_MAX};
use chunks::{Chunks, Next};
use head::{Framing, Head};

/// Why bytes are refused. Nothing after it passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// It is no HTTP, or could be read in two ways: 400.
    Syntax(&'static str),
    /// The request line is longer than [`REQUEST_LINE_BYTES_MAX`]: 414.
    TargetTooLong,
    /// The fields are more than [`FIELDS_MAX`], or longer than [`HEAD_BYTES_MAX`]: 431.
    FieldsTooLarge,
    /// The head did not come in time: 408. Never found here, but answered the same way.
    TooSlow,
}

impl Violation {
    /// Status of the answer.
    #[must_use]
    pub fn status(self) -> http::StatusCode {
        match self {
            Self::Syntax(_) => http::StatusCode::BAD_REQUEST,
            Self::TargetTooLong => http::StatusCode::URI_TOO_LONG,
            Self::FieldsTooLarge => http::StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TooSlow => http::StatusCode::REQUEST_TIMEOUT,
        }
    }

    /// One sentence for the client.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Self::Syntax(why) => why,
            Self::TargetTooLong => "the request line is longer than 16 KiB",
            Self::FieldsTooLarge => "the header fields are more than 100 or longer than 64 KiB",
            Self::TooSlow => "the head of the request did not come in time",
        }
    }
}

// What the sentences above say.
const _: () = assert!(REQUEST_LINE_BYTES_MAX == 16 << 10 && FIELDS_MAX == 100);
const _: () = assert!(HEAD_BYTES_MAX == 64 << 10);

/// Whether it can be a host and its port, without user information (RFC 9112 3.2).
#[must_use]
pub fn is_authority(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| head::is_host(*byte))
}

#[derive(Debug)]
enum State {
    /// Of the bytes that did not pass yet, so many were looked at.
    Head(Lines),
    /// Bytes of the body that are to come.
    Body(u64),
    Chunked(Chunks),
    Undecided,
    Open,
    Broken {
        violation: Violation,
        in_body: bool,
    },
}

/// Follows one direction of one connection.
#[derive(Debug)]
pub struct Guard {
    state: State,
    heads: u64,
    /// Whether the request whose body is passing may change the protocol.
    upgrades: bool,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            state: State::Head(Lines::default()),
            heads: 0,
            upgrades: false,
        }
    }
}

impl Guard {
    /// Looks at the bytes that did not pass yet: those of the last call that it did not let pass,
    /// and what came behind them. Returns how many of them may pass now.
    #[must_use]
    pub fn scan(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            let step = match &mut self.state {
                State::Head(lines) => match lines.end(rest, true) {
                    Ok(Some(end)) => self.on_head(&rest[..end]).map(|()| end),
                    Ok(None) => return at,
                    Err(violation) => Err(violation),
                },
                State::Body(left) => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= count as u64;
                    if *left > 0 {
                        return bytes.len();
                    }
                    self.on_message_end();
                    Ok(count)
                }
                State::Chunked(chunks) => match chunks.scan(rest) {
                    Next::More(count) => return at + count,
                    Next::End(count) => {
                        self.on_message_end();
                        Ok(count)
                    }
                    Next::Broken(count, violation) => {
                        self.break_off(violation);
                        return at + count;
                    }
                },
                State::Open => return bytes.len(),
                State::Undecided | State::Broken { .. } => return at,
            };
            match step {
                Ok(count) => at += count,
                Err(violation) => {
                    self.break_off(violation);
                    return at;
                }
            }
        }
    }

    fn on_head(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let head = Head::read(bytes)?;
        self.heads += 1;
        self.upgrades = head.upgrades;
        match head.framing {
            Framing::Length(0) => self.on_message_end(),
            Framing::Length(bytes) => self.state = State::Body(bytes),
            Framing::Chunked => self.state = State::Chunked(Chunks::default()),
        }
        Ok(())
    }

    fn on_message_end(&mut self) {
        self.state = match self.upgrades {
            true => State::Undecided,
            false => State::Head(Lines::default()),
        };
    }

    /// Nothing passes from now on.
    pub fn break_off(&mut self, violation: Violation) {
        let in_body = matches!(self.state, State::Body(_) | State::Chunked(_));
        self.state = State::Broken { violation, in_body };
    }

    /// Why nothing passes any more, and whether that was found inside a body.
    #[must_use]
    pub fn broken(&self) -> Option<(Violation, bool)> {
        match self.state {
            State::Broken { violation, in_body } => Some((violation, in_body)),
            _ => None,
        }
    }

    /// Heads that have passed.
    #[must_use]
    pub fn heads(&self) -> u64 {
        self.heads
    }

    /// Whether a head is expected.
    #[must_use]
    pub fn is_at_head(&self) -> bool {
        matches!(self.state, State::Head(_))
    }

    /// Whether it waits for [`Self::resume`] or [`Self::open`].
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        matches!(self.state, State::Undecided)
    }

    /// Whether everything passes.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// The protocol was not changed: another head comes.
    pub fn resume(&mut self) {
        if self.is_undecided() {
            self.state = State::Head(Lines::default());
        }
    }

    /// The protocol was changed: everything passes.
    pub fn open(&mut self) {
        if self.is_undecided() {
            self.state = State::Open;
        }
    }
}

/// Finds the empty line that ends a head or a trailer section, across reads.
#[derive(Debug, Default)]
struct Lines {
    /// Bytes that were looked at.
    seen: usize,
    /// Where the line begins that is looked at.
    line: usize,
    /// Lines before it that are not empty.
    count: usize,
}

/// An empty line before a request line is ignored (RFC 9112 2.2): one.
const EMPTY_LINES_MAX: usize = 1;

impl Lines {
    /// Where the section ends; None: it does not yet. `bytes` begin where they began at the last
    /// call.
    fn end(&mut self, bytes: &[u8], is_head: bool) -> Result<Option<usize>, Violation> {
        while let Some(found) = bytes[self.seen..].iter().position(|byte| *byte == b'\n') {
            let feed = self.seen + found;
            if feed == self.line || bytes[feed - 1] != b'\r' {
                return Err(Violation::Syntax("a line ends without CR"));
            }
            let length = feed - 1 - self.line;
            self.seen = feed + 1;
            if is_head && self.count == 0 && length > REQUEST_LINE_BYTES_MAX {
                return Err(Violation::TargetTooLong);
            }
            if length == 0 && (!is_head || self.count > 0) {
                self.check_size(is_head)?;
                return Ok(Some(self.seen));
            }
            if length == 0 && self.line >= 2 * EMPTY_LINES_MAX {
                return Err(Violation::Syntax("empty lines before the request line"));
            }
            self.line = self.seen;
            self.count += usize::from(length > 0);
            self.check_size(is_head)?;
        }
        self.seen = bytes.len();
        if is_head && self.count == 0 && self.seen - self.line > REQUEST_LINE_BYTES_MAX + 1 {
            return Err(Violation::TargetTooLong);
        }
        self.check_size(is_head)?;
        Ok(None)
    }

    fn check_size(&self, is_head: bool) -> Result<(), Violation> {
        let fields = self.count - usize::from(is_head && self.count > 0);
        if self.seen > HEAD_BYTES_MAX || fields > FIELDS_MAX {
            return Err(Violation::FieldsTooLarge);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
