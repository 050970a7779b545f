//! The end of a connection that the waypoint closes: it is ended, not broken off. A connection that
//! is dropped while its client may still send is reset, and a reset overtakes the answer (RFC 9112
//! 9.6); so it is read to its end first, within bounds.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::select;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

use super::site::{Io, Site};

/// How long a client may take to close its side.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes that are read and thrown away meanwhile.
const BYTES_MAX: usize = 256 * 1024;

/// A connection that lingers, when it was shut down and is dropped before its client has ended.
pub(super) struct Lingering<I: Io + 'static> {
    io: Option<I>,
    site: Rc<dyn Site>,
    is_shut: bool,
}

impl<I: Io + 'static> Lingering<I> {
    pub(super) fn new(io: I, site: &Rc<dyn Site>) -> Self {
        Self {
            io: Some(io),
            site: site.clone(),
            is_shut: false,
        }
    }

    fn io(&mut self) -> Pin<&mut I> {
        Pin::new(self.io.as_mut().expect("it is taken by drop alone"))
    }
}

impl<I: Io + 'static> Drop for Lingering<I> {
    fn drop(&mut self) {
        let Some(io) = self.io.take().filter(|_| self.is_shut) else {
            return;
        };
        let site = self.site.clone();
        self.site.spawn(Box::pin(async move {
            let late = site.sleep_until(site.now() + PATIENCE);
            select(std::pin::pin!(drain(io)), late).await;
        }));
    }
}

async fn drain(mut io: impl Io) {
    let mut memory = [0; 512];
    let mut bytes = 0;
    while bytes < BYTES_MAX {
        let mut read = ReadBuf::new(&mut memory);
        let outcome = std::future::poll_fn(|cx| Pin::new(&mut io).poll_read(cx, read.unfilled()));
        if outcome.await.is_err() || read.filled().is_empty() {
            return;
        }
        bytes += read.filled().len();
    }
}

impl<I: Io + 'static> Read for Lingering<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.io().poll_read(cx, buffer)
    }
}

impl<I: Io + 'static> Write for Lingering<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(Write::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.io().poll_shutdown(cx))?;
        self.is_shut = true;
        Poll::Ready(Ok(()))
    }
}
