//! One stream of a tunnel, as the relay uses it: bytes in, bytes out, window credit, half-close,
//! reset. Knows neither TLS nor frames.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hbone::{ConnectResponse, ErrorCode, RespondError, StreamId};
use netio::time::timeout;

use super::Tunnel;
use crate::limits::RESPONSE_TIMEOUT;
use crate::relay::buffer::Size;
use crate::signal::Signal;

/// What the tunnel has told of a stream.
#[derive(Default)]
pub struct State {
    /// For the one that reads, or waits for the response.
    read: Signal,
    /// For the one that writes.
    write: Signal,
    /// Boxed: it is there for a moment only.
    response: Cell<Option<Box<ConnectResponse>>>,
    reset: Cell<Option<ErrorCode>>,
    finished: Cell<bool>,
}

impl State {
    pub(super) fn answered(&self, response: ConnectResponse) {
        self.response.set(Some(Box::new(response)));
        self.wake();
    }

    pub(super) fn readable(&self) {
        self.read.set();
    }

    pub(super) fn writable(&self) {
        self.write.set();
    }

    pub(super) fn finished(&self) {
        self.finished.set(true);
        self.read.set();
    }

    pub(super) fn reset(&self, code: ErrorCode) {
        self.reset.set(Some(code));
        self.wake();
    }

    pub(super) fn reset_code(&self) -> Option<ErrorCode> {
        self.reset.get()
    }

    pub(super) fn wake(&self) {
        self.read.set();
        self.write.set();
    }
}

/// The stream is over at once, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// By the peer, or with its tunnel.
    #[error("stream reset: {0}")]
    Reset(ErrorCode),
    /// The peer did not answer the CONNECT in time.
    #[error("no answer to CONNECT within {} s", RESPONSE_TIMEOUT.as_secs())]
    Silent,
}

/// A stream. It is reset when dropped before both directions have ended.
pub struct TunnelStream {
    tunnel: Rc<Tunnel>,
    id: StreamId,
    state: Rc<State>,
}

impl TunnelStream {
    pub(super) fn new(tunnel: Rc<Tunnel>, id: StreamId, state: Rc<State>) -> Self {
        Self { tunnel, id, state }
    }

    /// The tunnel that carries it.
    pub fn tunnel(&self) -> &Rc<Tunnel> {
        &self.tunnel
    }

    /// Waits for the answer to the CONNECT.
    ///
    /// # Errors
    /// Reset, or nothing for [`RESPONSE_TIMEOUT`].
    pub async fn response(&self) -> Result<ConnectResponse, StreamError> {
        let answer = async {
            loop {
                if let Some(response) = self.state.response.take() {
                    // What came with it was told by the same signal.
                    self.state.read.set();
                    return Ok(*response);
                }
                self.alive()?;
                self.state.read.wait().await;
            }
        };
        timeout(RESPONSE_TIMEOUT, answer)
            .await
            .unwrap_or(Err(StreamError::Silent))
    }

    /// Answers the CONNECT of the peer. Any other status than 200 ends the stream.
    ///
    /// # Errors
    /// The stream is gone.
    pub fn respond(&self, response: &ConnectResponse) -> Result<(), RespondError> {
        let sent = self
            .tunnel
            .connection
            .borrow_mut()
            .respond(self.id, response);
        self.tunnel.pump();
        sent
    }

    /// Waits until the peer, or the end of the tunnel, has reset it. For whoever sets up the far
    /// end before an answer; nobody may wait for room meanwhile.
    pub fn poll_reset(&self, cx: &Context<'_>) -> Poll<StreamError> {
        loop {
            if let Err(error) = self.alive() {
                return Poll::Ready(error);
            }
            ready!(self.state.write.poll(cx));
        }
    }

    /// Waits until the stream takes bytes, and says how many (more than zero).
    ///
    /// # Errors
    /// Reset.
    pub fn poll_room(&self, cx: &Context<'_>) -> Poll<Result<usize, StreamError>> {
        loop {
            self.alive()?;
            let room = self.tunnel.connection.borrow_mut().writable_bytes(self.id);
            if room > 0 {
                return Poll::Ready(Ok(room));
            }
            ready!(self.state.write.poll(cx));
        }
    }

    /// Sends a buffer whose first [`hbone::FRAME_HEADROOM`] bytes are left empty. To be called
    /// when there is room for it ([`Self::poll_room`]).
    ///
    /// # Errors
    /// Reset.
    pub fn write(&self, buffer: Vec<u8>) -> Result<(), StreamError> {
        let written = self
            .tunnel
            .connection
            .borrow_mut()
            .write_buffer(self.id, buffer);
        self.tunnel.pump();
        written.map_err(|_| self.gone())
    }

    /// Memory for a [`Self::write`], used before if there is some.
    pub fn spare_buffer(&self, size: Size) -> Vec<u8> {
        let bytes = size.capacity_bytes();
        self.tunnel.connection.borrow_mut().spare_buffer(bytes)
    }

    /// Gives the memory of a [`Self::take`] back.
    pub fn recycle(&self, buffer: Vec<u8>) {
        self.tunnel.connection.borrow_mut().recycle(buffer);
    }

    /// Waits until [`Self::take`] is worth a call.
    pub fn poll_ready(&self, cx: &Context<'_>) -> Poll<()> {
        self.state.read.poll(cx)
    }

    /// Makes the next [`Self::poll_ready`] return at once: for whoever waited for it and leaves
    /// what it announced to somebody else.
    pub fn look_again(&self) {
        self.state.read.set();
    }

    /// All bytes that have come; None when there are none now, or never again
    /// ([`Self::is_finished`]).
    ///
    /// # Errors
    /// Reset.
    pub fn take(&self) -> Result<Option<Vec<u8>>, StreamError> {
        let data = self.tunnel.connection.borrow_mut().read(self.id);
        if data.is_some() {
            // It may be the read that makes the stream finished.
            self.tunnel.pump();
        } else if !self.is_finished() {
            self.alive()?;
        }
        Ok(data)
    }

    /// Whether the peer's last byte was taken.
    pub fn is_finished(&self) -> bool {
        self.state.finished.get()
    }

    /// The application's socket took so many bytes: the peer may send as many more.
    pub fn consumed(&self, bytes: usize) {
        self.tunnel.connection.borrow_mut().consumed(self.id, bytes);
        self.tunnel.pump();
    }

    /// Half-close: nothing is written after what was written.
    pub fn finish(&self) {
        self.tunnel.connection.borrow_mut().finish(self.id);
        self.tunnel.pump();
    }

    /// Ends it now, in both directions; whoever waits on it comes back.
    pub fn reset(&self, code: ErrorCode) {
        if self.state.reset_code().is_none() {
            self.tunnel.connection.borrow_mut().reset(self.id, code);
            self.state.reset(code);
            self.tunnel.pump();
        }
    }

    fn alive(&self) -> Result<(), StreamError> {
        self.state
            .reset_code()
            .map_or(Ok(()), |code| Err(StreamError::Reset(code)))
    }

    fn gone(&self) -> StreamError {
        StreamError::Reset(self.state.reset_code().unwrap_or(ErrorCode::STREAM_CLOSED))
    }
}

impl Drop for TunnelStream {
    fn drop(&mut self) {
        self.tunnel.release(self.id);
    }
}
