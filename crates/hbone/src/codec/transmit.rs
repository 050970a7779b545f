//! What goes out: control frames first, then the streams in turn, each with a quota.

use super::Codec;
use super::stream::Direction;
use crate::h2::frame::{FrameHeader, HEADER_BYTES, flag, kind};
use crate::time::Mono;

/// What one stream sends before the next has its turn, if others wait, bytes. A large frame still,
/// and no more than a tenth of a millisecond of a 10 Gbit/s link in front of a small flow. With its
/// head it fills records, so that the next one begins with a record of its own.
const QUANTUM_BYTES: usize = (64 << 10) - HEADER_BYTES;

/// What is left of a buffer goes along when it is no more than this, bytes: a frame of its own
/// would cost more than the turn is worth.
const REST_BYTES: usize = 1 << 10;

/// Where plaintext goes; it is copied or sealed within the call.
pub trait Outlet {
    /// Takes bytes behind those before.
    fn write(&mut self, bytes: &[u8]);
    /// Bytes taken so far.
    fn written(&self) -> usize;
}

impl Outlet for Vec<u8> {
    fn write(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn written(&self) -> usize {
        self.len()
    }
}

impl Codec {
    /// Writes what may be sent now, DATA until about `max_bytes` are written in all.
    pub fn transmit(&mut self, now: Mono, out: &mut dyn Outlet, max_bytes: usize) {
        self.advance(now);
        self.spares.trim(now);
        self.busy = Some(now);
        if !self.control.is_empty() {
            out.write(&self.control);
            self.control.clear();
        }
        let before = self.streams.backlog();
        while out.written() < max_bytes && self.send_window > 0 {
            let Some(stream) = self.streams.next_turn() else {
                break;
            };
            let room = max_bytes - out.written();
            let others = self.streams.any_turn(true);
            let quota = if others {
                room.min(QUANTUM_BYTES)
            } else {
                room
            };
            self.send_from(stream, quota, out);
            self.streams.queue(stream);
        }
        if self.send_window <= 0 {
            for stream in self.streams.take_ends() {
                self.send_end(stream, out);
            }
        }
        if self.streams.backlog() < before {
            self.wake_writers();
        }
    }

    /// Whether [`Self::transmit`] has something to write.
    pub fn wants_transmit(&self) -> bool {
        !self.control.is_empty() || self.streams.any_turn(self.send_window > 0)
    }

    /// Sends frames of one stream, at most `quota` bytes of data.
    fn send_from(&mut self, number: u32, quota: usize, out: &mut dyn Outlet) {
        let largest = self.peer.max_frame.min(self.config.max_send_frame_bytes);
        let largest = usize::try_from(largest).unwrap_or(usize::MAX);
        let mut left = quota;
        while left > 0 {
            let window = self.send_window;
            let Some(stream) = self.streams.live(number) else {
                return;
            };
            if stream.backlog.is_empty() {
                break;
            }
            let window = usize::try_from(window.min(stream.send_window)).unwrap_or(0);
            let allowed = largest.min(window);
            let most = left.min(allowed);
            if most == 0 {
                return;
            }
            let piece = stream.backlog.first_bytes();
            let most = if piece.saturating_sub(most) <= REST_BYTES {
                piece.min(allowed)
            } else {
                most
            };
            let ending = stream.send == Direction::Ending;
            let header = |length, last| FrameHeader {
                length,
                kind: kind::DATA,
                flags: if last && ending { flag::END_STREAM } else { 0 },
                stream: number,
            };
            let (sent, spent) = stream
                .backlog
                .take_frame(most, header, |frame| out.write(frame));
            let ended = ending && stream.backlog.is_empty();
            stream.send_window -= i64::try_from(sent).unwrap_or(i64::MAX);
            if ended {
                stream.send = Direction::Ended;
            }
            self.spares.put(spent, self.now);
            self.send_window -= i64::try_from(sent).unwrap_or(i64::MAX);
            self.streams.backlog_shrank(sent);
            self.guard.data_sent(sent);
            left -= sent.min(left);
            if ended {
                return self.sweep(number);
            }
        }
        self.send_end(number, out);
    }

    /// END_STREAM of a stream whose data has all gone before.
    fn send_end(&mut self, number: u32, out: &mut dyn Outlet) {
        let Some(stream) = self.streams.live(number) else {
            return;
        };
        if stream.send != Direction::Ending || !stream.backlog.is_empty() {
            return;
        }
        stream.send = Direction::Ended;
        let header = FrameHeader {
            length: 0,
            kind: kind::DATA,
            flags: flag::END_STREAM,
            stream: number,
        };
        out.write(&header.encode());
        self.sweep(number);
    }
}
