//! What a stream took from the application and has not sealed yet.

use std::collections::VecDeque;

use crate::h2::frame::{FrameHeader, HEADER_BYTES};

/// Bytes in front of a buffer's payload that the frame header is written into, so that header and
/// payload are sealed as one piece without copying the payload.
pub const FRAME_HEADROOM: usize = HEADER_BYTES;

/// Room behind a small write for more of its kind, bytes: small writes share a frame.
const SMALL_CHUNK_BYTES: usize = 2048;

/// A buffer of which everything before `at` is spent; `at` is never below [`FRAME_HEADROOM`].
#[derive(Debug)]
struct Chunk {
    buffer: Vec<u8>,
    at: usize,
}

/// Chunks in order. Empty it holds no memory; one chunk, which is what a stream mostly has, needs
/// none but its own.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    first: Option<Chunk>,
    /// Behind `first`, while there are such: boxed, for an idle stream has none.
    #[expect(
        clippy::box_collection,
        reason = "a pointer is a quarter of an empty queue"
    )]
    more: Option<Box<VecDeque<Chunk>>>,
    bytes: usize,
}

impl Backlog {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Bytes of the piece that comes next.
    pub(super) fn first_bytes(&self) -> usize {
        let first = self.first.as_ref();
        first.map_or(0, |chunk| chunk.buffer.len() - chunk.at)
    }

    /// Copies data behind what waits.
    pub(super) fn push_copy(&mut self, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        self.bytes += data.len();
        let behind = self.more.as_mut().and_then(|more| more.back_mut());
        if let Some(last) = behind.or(self.first.as_mut())
            && last.buffer.capacity() - last.buffer.len() >= data.len()
        {
            last.buffer.extend_from_slice(data);
            return;
        }
        let mut buffer = Vec::with_capacity(FRAME_HEADROOM + data.len().max(SMALL_CHUNK_BYTES));
        buffer.resize(FRAME_HEADROOM, 0);
        buffer.extend_from_slice(data);
        self.push(buffer);
    }

    fn push(&mut self, buffer: Vec<u8>) {
        let at = FRAME_HEADROOM;
        let chunk = Chunk { buffer, at };
        if self.first.is_none() {
            self.first = Some(chunk);
        } else {
            self.more.get_or_insert_default().push_back(chunk);
        }
    }

    /// Takes a buffer whose payload stands behind [`FRAME_HEADROOM`] bytes.
    pub(super) fn push_buffer(&mut self, buffer: Vec<u8>) {
        let payload = buffer.len().saturating_sub(FRAME_HEADROOM);
        if payload > 0 {
            self.bytes += payload;
            self.push(buffer);
        }
    }

    /// The next frame of at most `most` payload bytes (at least one), header and payload in one
    /// piece. Hands it to `write`; gives the payload's length, and the buffer if it is spent.
    pub(super) fn take_frame(
        &mut self,
        most: usize,
        header: impl FnOnce(u32, bool) -> FrameHeader,
        write: impl FnOnce(&[u8]),
    ) -> (usize, Vec<u8>) {
        let Some(chunk) = self.first.as_mut() else {
            return (0, Vec::new());
        };
        let length = (chunk.buffer.len() - chunk.at).min(most);
        self.bytes -= length;
        let header = header(u32::try_from(length).unwrap_or(u32::MAX), self.bytes == 0);
        let begin = chunk.at - FRAME_HEADROOM;
        chunk.buffer[begin..chunk.at].copy_from_slice(&header.encode());
        write(&chunk.buffer[begin..chunk.at + length]);
        // What was sent is the headroom of the next frame.
        chunk.at += length;
        if chunk.at < chunk.buffer.len() {
            return (length, Vec::new());
        }
        let next = self.more.as_mut().and_then(|more| more.pop_front());
        let spent = std::mem::replace(&mut self.first, next);
        self.more.take_if(|more| more.is_empty());
        (length, spent.map(|chunk| chunk.buffer).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(backlog: &mut Backlog, most: usize) -> Vec<(Vec<u8>, bool)> {
        let mut out = Vec::new();
        while !backlog.is_empty() {
            let mut frame = Vec::new();
            let mut last = false;
            backlog.take_frame(
                most,
                |length, end| {
                    last = end;
                    FrameHeader {
                        length,
                        kind: 0,
                        flags: 0,
                        stream: 1,
                    }
                },
                |bytes| frame.extend_from_slice(bytes),
            );
            let header = FrameHeader::decode(frame[..9].try_into().unwrap());
            assert_eq!(header.length as usize, frame.len() - 9);
            out.push((frame[9..].to_vec(), last));
        }
        out
    }

    #[test]
    fn small_writes_share_a_frame_and_large_buffers_are_cut() {
        let mut backlog = Backlog::default();
        backlog.push_copy(b"ab");
        backlog.push_copy(b"cd");
        backlog.push_buffer([&[0; FRAME_HEADROOM][..], &[7; 25]].concat());
        assert_eq!(backlog.bytes(), 29);
        let frames = frames(&mut backlog, 10);
        let lengths: Vec<_> = frames.iter().map(|(f, _)| f.len()).collect();
        assert_eq!(lengths, [4, 10, 10, 5]);
        assert_eq!(frames[0].0, b"abcd");
        assert!(
            frames
                .iter()
                .map(|(_, last)| *last)
                .eq([false, false, false, true])
        );
    }

    #[test]
    fn a_buffer_without_payload_is_nothing() {
        let mut backlog = Backlog::default();
        backlog.push_buffer(vec![0; FRAME_HEADROOM]);
        backlog.push_buffer(Vec::new());
        backlog.push_copy(&[]);
        assert!(backlog.is_empty() && backlog.first.is_none());
    }
}
