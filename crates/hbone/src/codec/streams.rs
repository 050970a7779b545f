//! The table of a connection's streams, and the order in which they send.

use std::collections::VecDeque;

use super::stream::Stream;
use crate::by_number::ByNumber;

/// Turns that the queue keeps room for when it is empty: a kilobyte, until the connection rests.
const TURNS_KEPT: usize = 256;

/// Streams by number. Numbers grow, so a new one is always the largest of its kind.
#[derive(Debug)]
pub(super) struct Streams {
    table: Table,
    /// Streams that have something to send, next first; may name some that are gone.
    turns: VecDeque<u32>,
    /// Number of the next stream that a client opens.
    next: u32,
    /// Largest number that the client has opened, as a server sees it.
    last: u32,
    /// Bytes in all backlogs.
    backlog: usize,
}

/// Every message looks some ten times here.
type Table = ByNumber<u32, Box<Stream>>;

impl Default for Streams {
    fn default() -> Self {
        Self {
            table: Table::default(),
            turns: VecDeque::new(),
            next: 1,
            last: 0,
            backlog: 0,
        }
    }
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn get(&self, stream: u32) -> Option<&Stream> {
        self.table.get(&stream).map(|s| &**s)
    }

    pub(super) fn get_mut(&mut self, stream: u32) -> Option<&mut Stream> {
        self.table.get_mut(&stream).map(|s| &mut **s)
    }

    /// A stream that data may still arrive on or leave from.
    pub(super) fn live(&mut self, stream: u32) -> Option<&mut Stream> {
        self.get_mut(stream).filter(|s| !s.reset)
    }

    pub(super) fn insert(&mut self, number: u32, stream: Stream) {
        self.table.insert(number, Box::new(stream));
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<Box<Stream>> {
        let stream = self.table.remove(&number)?;
        self.backlog = self.backlog.saturating_sub(stream.backlog.bytes());
        Some(stream)
    }

    /// Ends a stream at once; it stays until its event is taken. Gives what it held of the
    /// connection's window.
    pub(super) fn cut_off(&mut self, number: u32) -> u32 {
        let Some(stream) = self.table.get_mut(&number) else {
            return 0;
        };
        self.backlog = self.backlog.saturating_sub(stream.backlog.bytes());
        stream.cut_off();
        stream.window.consume(u32::MAX)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Stream)> {
        self.table
            .iter_mut()
            .map(|(number, stream)| (*number, &mut **stream))
    }

    /// All numbers, oldest first.
    pub(super) fn numbers(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.table.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    /// Lets go of memory that only a busy connection needs.
    pub(super) fn rest(&mut self) {
        if self.turns.is_empty() {
            self.turns = VecDeque::new();
        }
        if self.table.is_empty() {
            self.table = Table::default();
        }
    }

    /// The number for a new stream of ours; `None` when all are used up.
    pub(super) fn take_number(&mut self) -> Option<u32> {
        let number = self.next;
        self.next = number.checked_add(2)?;
        (number <= crate::h2::frame::MAX_31_BIT).then_some(number)
    }

    /// Number of the next stream that we would open.
    pub(super) fn next(&self) -> u32 {
        self.next
    }

    pub(super) fn last(&self) -> u32 {
        self.last
    }

    pub(super) fn set_last(&mut self, last: u32) {
        self.last = last;
    }

    pub(super) fn backlog(&self) -> usize {
        self.backlog
    }

    pub(super) fn backlog_grew(&mut self, bytes: usize) {
        self.backlog += bytes;
    }

    pub(super) fn backlog_shrank(&mut self, bytes: usize) {
        self.backlog = self.backlog.saturating_sub(bytes);
    }

    /// Forgets what a stream would still have sent.
    pub(super) fn drop_backlog(&mut self, number: u32) {
        if let Some(stream) = self.table.get_mut(&number) {
            self.backlog = self.backlog.saturating_sub(stream.backlog.bytes());
            stream.backlog = super::backlog::Backlog::default();
        }
    }

    /// Whether some writer waits.
    pub(super) fn any_blocked(&self) -> bool {
        self.table.values().any(|stream| stream.blocked)
    }

    /// Puts a stream at the end of the queue, if it can send and stands in it not yet.
    pub(super) fn queue(&mut self, number: u32) {
        if let Some(stream) = self.table.get_mut(&number)
            && !stream.queued
            && stream.can_send()
        {
            stream.queued = true;
            self.turns.push_back(number);
        }
    }

    /// The stream whose turn it is; it leaves the queue.
    pub(super) fn next_turn(&mut self) -> Option<u32> {
        while let Some(number) = self.turns.pop_front() {
            if self.turns.is_empty() && self.turns.capacity() > TURNS_KEPT {
                self.turns = VecDeque::new();
            }
            if let Some(stream) = self.table.get_mut(&number) {
                stream.queued = false;
                if stream.can_send() {
                    return Some(number);
                }
            }
        }
        None
    }

    /// Streams that only have their end to tell, which costs no window; they leave the queue.
    pub(super) fn take_ends(&mut self) -> Vec<u32> {
        let table = &mut self.table;
        let mut ends = Vec::new();
        self.turns.retain(|number| match table.get_mut(number) {
            Some(stream) if stream.can_send() && stream.backlog.is_empty() => {
                stream.queued = false;
                ends.push(*number);
                false
            }
            Some(_) => true,
            None => false,
        });
        ends
    }

    /// Whether some stream waits for its turn; those that lost their right meanwhile do not count.
    pub(super) fn any_turn(&self, connection_open: bool) -> bool {
        self.turns.iter().any(|number| {
            self.get(*number)
                .is_some_and(|s| s.can_send() && (connection_open || s.backlog.is_empty()))
        })
    }
}
