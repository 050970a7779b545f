//! Sockets of a namespace, made some at a time.
//!
//! Making one costs two setns(2), 10 to 18 µs, whatever their number. Who connects out of one
//! namespace again and again finds some made before. They are few, and kept for a moment only: a
//! socket keeps its namespace alive. It must not know what they are for.

use std::cell::{Cell, RefCell};
use std::io;
use std::time::{Duration, Instant};

use socket2::Socket;

use crate::executor::core::here;
use crate::netns::{Netns, NetnsId};
use crate::time::sleep;

use super::{Family, stream_socket};

/// Sockets made at once, at most: then the share of entering the namespace is about 1 µs each.
const BATCH_MAX: usize = 16;
/// Unused sockets are closed after this and at most this again; so much longer than its pod lives a
/// namespace at most.
const KEPT: Duration = Duration::from_millis(500);
/// Namespaces, by family, for which a thread keeps sockets: at most 1,024 descriptors a thread.
const SHELVES_MAX: usize = 64;

struct Shelf {
    netns: NetnsId,
    family: Family,
    /// When sockets were made last, and how many.
    made: Instant,
    batch: usize,
    sockets: Vec<Socket>,
}

thread_local! {
    static SHELVES: RefCell<Vec<Shelf>> = const { RefCell::new(Vec::new()) };
    /// A task of this thread's executor looks for what is to be closed.
    static SWEPT: Cell<bool> = const { Cell::new(false) };
}

/// A fresh non-blocking TCP socket of `netns`, on an executor's thread.
pub(super) fn take(netns: &Netns, family: Family) -> io::Result<Socket> {
    SHELVES.with_borrow_mut(|shelves| {
        let is_it = |shelf: &&mut Shelf| shelf.netns == netns.id() && shelf.family == family;
        let now = Instant::now();
        let Some(shelf) = shelves.iter_mut().find(is_it) else {
            let socket = make(netns, family, 1)?.pop();
            if shelves.len() < SHELVES_MAX {
                shelves.push(Shelf {
                    netns: netns.id(),
                    family,
                    made: now,
                    batch: 1,
                    sockets: Vec::new(),
                });
                start_sweeping();
            }
            return socket.ok_or_else(nothing_made);
        };
        if let Some(socket) = shelf.sockets.pop() {
            return Ok(socket);
        }
        // The last ones were used up in time, so twice as many will be.
        shelf.batch = (shelf.batch * 2).min(BATCH_MAX);
        shelf.made = now;
        shelf.sockets = make(netns, family, shelf.batch)?;
        shelf.sockets.pop().ok_or_else(nothing_made)
    })
}

/// Closes what is kept on this thread.
pub(crate) fn clear() {
    SHELVES.take();
    SWEPT.set(false);
}

/// At least one, and no more than there is room for.
fn make(netns: &Netns, family: Family, count: usize) -> io::Result<Vec<Socket>> {
    netns.enter(|| {
        let mut sockets = Vec::with_capacity(count);
        sockets.push(stream_socket(family)?);
        sockets.extend((1..count).map_while(|_| stream_socket(family).ok()));
        Ok(sockets)
    })?
}

fn nothing_made() -> io::Error {
    io::Error::other("no socket was made")
}

fn start_sweeping() {
    if SWEPT.replace(true) {
        return;
    }
    here().spawn(Box::pin(async {
        loop {
            sleep(KEPT).await;
            let empty = SHELVES.with_borrow_mut(|shelves| {
                let now = Instant::now();
                shelves.retain(|shelf| now.saturating_duration_since(shelf.made) < KEPT);
                shelves.is_empty()
            });
            if empty {
                return SWEPT.set(false);
            }
        }
    }));
}
