//! Bytes both ways, after a change of protocol. Each direction ends by itself; an error ends both.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::rt::ReadBuf;

use super::log::Log;
use super::site::{Io, Reason, Site};
use super::upstream::Taken;

/// Bytes of one read.
const READ_BYTES: usize = 16 * 1024;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// One direction.
struct Way {
    /// What was read and not written yet.
    pending: Bytes,
    state: State,
    bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ending,
    Over,
}

impl Way {
    fn new(pending: Bytes) -> Self {
        Self {
            pending,
            state: State::Open,
            bytes: 0,
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl Io + ?Sized),
        to: &mut (impl Io + ?Sized),
    ) -> Poll<io::Result<()>> {
        loop {
            if self.state == State::Over {
                return Poll::Ready(Ok(()));
            }
            if !self.pending.is_empty() {
                let count = ready!(Pin::new(&mut *to).poll_write(cx, &self.pending))?;
                if count == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.bytes += count as u64;
                let _ = self.pending.split_to(count);
                continue;
            }
            if self.state == State::Ending {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.state = State::Over;
                continue;
            }
            let read = read(cx, from);
            if read.is_pending() {
                ready!(Pin::new(&mut *to).poll_flush(cx))?;
            }
            match ready!(read)? {
                Some(data) => self.pending = data,
                None => self.state = State::Ending,
            }
        }
    }
}

/// None: the end.
fn read(cx: &mut Context<'_>, from: &mut (impl Io + ?Sized)) -> Poll<io::Result<Option<Bytes>>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut read = ReadBuf::new(scratch);
        ready!(Pin::new(from).poll_read(cx, read.unfilled()))?;
        let came = read.filled();
        Poll::Ready(Ok((!came.is_empty()).then(|| Bytes::copy_from_slice(came))))
    })
}

/// Carries bytes between a client and an endpoint until both directions have ended, one breaks, or
/// nothing has moved for too long. The request is over then.
pub(super) async fn relay(
    site: &Rc<dyn Site>,
    (mut client, from_client): (impl Io, Bytes),
    (mut endpoint, from_endpoint): Taken,
    mut log: Box<Log>,
) {
    let idle = site.limits().tunnel_idle_timeout;
    let (mut there, mut back) = (Way::new(from_client), Way::new(from_endpoint));
    let mut late = site.sleep_until(site.now() + idle);
    let mut seen = 0;
    let outcome = poll_fn(|cx| {
        loop {
            let sent = there.poll(cx, &mut client, &mut *endpoint)?;
            let answered = back.poll(cx, &mut *endpoint, &mut client)?;
            if sent.is_ready() && answered.is_ready() {
                return Poll::Ready(io::Result::Ok(()));
            }
            ready!(late.as_mut().poll(cx));
            let moved = there.bytes + back.bytes;
            if std::mem::replace(&mut seen, moved) == moved {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            late = site.sleep_until(site.now() + idle);
        }
    })
    .await;
    log.answer_bytes = back.bytes;
    if let Err(error) = outcome {
        log.reason = Some(match error.kind() {
            io::ErrorKind::TimedOut => Reason::TimedOut,
            _ => Reason::Broken,
        });
    }
}
