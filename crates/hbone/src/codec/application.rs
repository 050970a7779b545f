//! The application's side of streams: reading, writing, ending.

use super::stream::{Answer, Direction, Stream};
use super::window::{FRUGAL_CONNECTION_BYTES, FRUGAL_STREAM_BYTES, RecvWindow};
use super::{Codec, FRAME_HEADROOM};
use crate::error::{ErrorCode, StreamGone};
use crate::event::{Event, StreamId};
use crate::h2::frame;

/// What a stream takes from its application at once while memory is short, bytes: one small read.
const FRUGAL_BACKLOG_BYTES: usize = 4 << 10;

impl Codec {
    /// Holds little from now on, or as much as the configuration allows.
    pub fn set_frugal(&mut self, frugal: bool) {
        if std::mem::replace(&mut self.frugal, frugal) && !frugal {
            for number in self.streams.numbers() {
                self.grant_stream(number);
            }
            self.grant_connection();
            self.wake_writers();
        }
    }

    /// Whether it holds little.
    pub fn is_frugal(&self) -> bool {
        self.frugal
    }

    /// Application bytes held for whoever does not read: received and not used up, and not sent.
    pub fn buffered_bytes(&self) -> usize {
        let held = usize::try_from(self.window.held()).unwrap_or(usize::MAX);
        held.saturating_add(self.streams.backlog())
    }

    fn stream_backlog_bytes(&self) -> usize {
        let most = self.config.stream_backlog_bytes;
        if self.frugal {
            most.min(FRUGAL_BACKLOG_BYTES)
        } else {
            most
        }
    }

    /// How much may be written now; when it is zero, `Writable` follows once it is not. Zero also
    /// while there is little room behind what waits to be sent: bulk does not go in small pieces.
    /// One when a write would fail at once.
    pub fn writable_bytes(&mut self, stream: StreamId) -> usize {
        let room = self.room(stream.0);
        let worthwhile = self.stream_backlog_bytes() / 2;
        match self.open_for_writing(stream) {
            Ok(known) => {
                let some = room >= worthwhile || known.backlog.is_empty();
                let room = if some { room } else { 0 };
                known.blocked = room == 0;
                room
            }
            Err(StreamGone) => 1,
        }
    }

    /// The least of both windows and both backlogs.
    fn room(&self, number: u32) -> usize {
        let Some(stream) = self.streams.get(number) else {
            return 0;
        };
        if stream.reset || stream.send != Direction::Open || stream.answer != Answer::Tunnel {
            return 0;
        }
        let size = |window: i64| usize::try_from(window).unwrap_or(0);
        let (waiting, total) = (stream.backlog.bytes(), self.streams.backlog());
        size(stream.send_window)
            .saturating_sub(waiting)
            .min(size(self.send_window).saturating_sub(total))
            .min(self.stream_backlog_bytes().saturating_sub(waiting))
            .min(self.config.connection_backlog_bytes.saturating_sub(total))
    }

    /// Copies what fits of `data`; after a short write `Writable` follows.
    ///
    /// # Errors
    /// The stream is gone or its sending side is finished.
    pub fn write(&mut self, stream: StreamId, data: &[u8]) -> Result<usize, StreamGone> {
        let room = self.room(stream.0);
        let known = self.open_for_writing(stream)?;
        let taken = data.len().min(room);
        known.backlog.push_copy(&data[..taken]);
        if taken < data.len() {
            known.blocked = true;
        }
        self.streams.backlog_grew(taken);
        self.streams.queue(stream.0);
        Ok(taken)
    }

    /// Takes a buffer whose first [`FRAME_HEADROOM`] bytes are free for a frame header.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_buffer(&mut self, stream: StreamId, buffer: Vec<u8>) -> Result<(), StreamGone> {
        let known = self.open_for_writing(stream)?;
        let bytes = buffer.len().saturating_sub(FRAME_HEADROOM);
        known.backlog.push_buffer(buffer);
        self.streams.backlog_grew(bytes);
        self.streams.queue(stream.0);
        Ok(())
    }

    fn open_for_writing(&mut self, stream: StreamId) -> Result<&mut Stream, StreamGone> {
        let closed = self.is_closed();
        let known = self
            .streams
            .live(stream.0)
            .filter(|_| !closed)
            .ok_or(StreamGone)?;
        if known.send == Direction::Open && known.answer != Answer::Refused {
            Ok(known)
        } else {
            Err(StreamGone)
        }
    }

    /// END_STREAM behind all that was written.
    pub fn finish(&mut self, stream: StreamId) {
        if let Some(known) = self.streams.live(stream.0)
            && known.send == Direction::Open
        {
            known.send = Direction::Ending;
            known.blocked = false;
            self.streams.queue(stream.0);
        }
    }

    /// Ends a stream in both directions at once and forgets it.
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode) {
        let Some(gone) = self.streams.remove(stream.0) else {
            return;
        };
        if !gone.reset && !gone.is_complete_on_wire() && !self.is_closed() {
            frame::rst_stream(&mut self.control, stream.0, code);
            self.guard.stream_reset();
        }
        self.window.consume(gone.window.held());
        self.grant_connection();
        // What it waited to send took room that others may be waiting for.
        self.wake_writers();
        self.close_if_drained();
    }

    /// Gives a buffer back that `read` had given, for what comes next.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        if !self.streams.is_empty() {
            self.spares.put(buffer, self.now);
        }
    }

    /// An empty buffer for `bytes`, head included, to be written with `write_buffer`.
    pub fn spare_buffer(&mut self, bytes: usize) -> Vec<u8> {
        self.spares.take(bytes, self.now)
    }

    /// The driver holds nothing of the stream any more: what was read counts as used up, what was
    /// written is still sent. A stream that is not finished in both directions is reset.
    pub fn release(&mut self, stream: StreamId) {
        let Some(known) = self.streams.get_mut(stream.0) else {
            return;
        };
        let finished = known.send != Direction::Open && known.recv != Direction::Open;
        if known.reset || !finished {
            return self.reset(stream, ErrorCode::CANCEL);
        }
        known.unread = Vec::new();
        known.recv = Direction::Ended;
        let held = known.window.consume(u32::MAX);
        self.window.consume(held);
        self.grant_connection();
        self.sweep(stream.0);
    }

    /// Everything that came since the last call, in order.
    pub fn read(&mut self, stream: StreamId) -> Option<Vec<u8>> {
        let known = self.streams.get_mut(stream.0)?;
        known.told_readable = false;
        if known.unread.is_empty() {
            return None;
        }
        let data = std::mem::take(&mut known.unread);
        self.finish_reading(stream.0);
        Some(data)
    }

    /// Tells the end of the peer's data once all of it was read.
    pub(super) fn finish_reading(&mut self, number: u32) {
        if let Some(stream) = self.streams.get_mut(number)
            && stream.recv == Direction::Ending
            && stream.unread.is_empty()
        {
            stream.recv = Direction::Ended;
            self.tell(number, Event::Finished(StreamId(number)));
        }
    }

    /// The application used up bytes that it had read: the peer may send as many more.
    pub fn consumed(&mut self, stream: StreamId, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let Some(known) = self.streams.get_mut(stream.0) else {
            return;
        };
        let used = known.window.consume(bytes);
        known.pace.add(used);
        self.window.consume(used);
        self.grant_stream(stream.0);
        self.grant_connection();
        self.sweep(stream.0);
    }

    /// Credit for a stream, and a new size of its window when one measurement is over.
    pub(super) fn grant_stream(&mut self, number: u32) {
        let closed = self.is_closed();
        let rtt = self.heart.rtt();
        let (bulk, alone_since) = self.bulk;
        let (base, most) = (
            self.config.stream_window_bytes,
            self.config.stream_window_max_bytes,
        );
        let (now, frugal) = (self.now, self.frugal);
        let Some(stream) = self.streams.live(number) else {
            return;
        };
        if frugal {
            stream.window.set_target(base.min(FRUGAL_STREAM_BYTES));
        } else if stream.window.target() < base {
            // It was frugal.
            stream.window.set_target(base);
        }
        if closed || stream.recv != Direction::Open || !stream.window.is_due() {
            return;
        }
        if let Some(rtt) = rtt.filter(|_| !frugal) {
            let alone = bulk == number && alone_since <= stream.pace.since();
            let wanted = stream.pace.window_for(rtt, now);
            let target = if alone {
                grown(&stream.window, wanted, most)
            } else {
                base
            };
            stream.window.set_target(target);
        }
        if let Some(more) = stream.window.grant() {
            frame::window_update(&mut self.control, number, more);
        }
        if let Some(payload) = self.heart.probe(now) {
            frame::ping(&mut self.control, false, payload);
        }
    }

    /// Credit for the connection.
    pub(super) fn grant_connection(&mut self) {
        if self.is_closed() {
            return;
        }
        let more = if self.frugal {
            self.window.grant_sparingly(FRUGAL_CONNECTION_BYTES)
        } else {
            self.window.grant()
        };
        if let Some(more) = more {
            frame::window_update(&mut self.control, 0, more);
        }
    }

    /// Tells writers that wait and may write again. A little room is not worth a wake-up unless the
    /// backlog is empty.
    pub(super) fn wake_writers(&mut self) {
        if self.streams.any_blocked() {
            for number in self.streams.numbers() {
                self.wake_writer(number);
            }
        }
    }

    pub(super) fn wake_writer(&mut self, number: u32) {
        let room = self.room(number);
        let worthwhile = self.stream_backlog_bytes() / 2;
        let Some(stream) = self.streams.live(number) else {
            return;
        };
        let hopeless = stream.send != Direction::Open || stream.answer == Answer::Refused;
        let some = room > 0 && (room >= worthwhile || stream.backlog.is_empty());
        if stream.blocked && (some || hopeless) {
            stream.blocked = false;
            self.tell(number, Event::Writable(StreamId(number)));
        }
    }
}

/// At most double at once, so that one odd measurement does no harm; never beyond `most`.
fn grown(window: &RecvWindow, wanted: u32, most: u32) -> u32 {
    let now = window.target();
    wanted
        .clamp(now, now.saturating_mul(2))
        .min(most)
        .max(now.min(most))
}
