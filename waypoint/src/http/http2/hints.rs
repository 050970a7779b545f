//! What answers one request of HTTP/2, and may tell of interim answers (1xx) before.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::{HeaderMap, Response, StatusCode};

use crate::http::headers::end_connection;

/// Interim answers of one request that are passed on: windows do not bound them, and no server
/// needs more.
const HINTS_MAX: u32 = 16;

/// The way back of one request. hyper tells of interim answers through what may be sent to other
/// threads, which never happens here.
pub(in crate::http) struct Hints(Mutex<(SendResponse<Bytes>, u32)>);

impl Hints {
    /// Nothing was told yet.
    pub(in crate::http) fn new(respond: SendResponse<Bytes>) -> Self {
        Self(Mutex::new((respond, 0)))
    }

    fn lock(&self) -> MutexGuard<'_, (SendResponse<Bytes>, u32)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One interim answer more; past [`HINTS_MAX`] it is left out.
    pub(in crate::http) fn answer(&self, status: StatusCode, headers: &HeaderMap) {
        let (respond, told) = &mut *self.lock();
        if *told >= HINTS_MAX {
            return;
        }
        *told += 1;
        let mut answer = Response::new(());
        *answer.status_mut() = status;
        *answer.headers_mut() = headers.clone();
        end_connection(answer.headers_mut());
        // A stream that is over needs none.
        let _ = respond.send_informational(answer);
    }

    /// The answer itself.
    pub(in crate::http) fn send(
        &self,
        answer: Response<()>,
        is_end: bool,
    ) -> Result<SendStream<Bytes>, h2::Error> {
        let (respond, told) = &mut *self.lock();
        // A try that was given up may tell of another yet.
        *told = HINTS_MAX;
        respond.send_response(answer, is_end)
    }

    /// Breaks the stream off.
    pub(in crate::http) fn reset(&self, reason: h2::Reason) {
        self.lock().0.send_reset(reason);
    }

    /// Ready when the client wants no answer any more.
    pub(in crate::http) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.lock().0.poll_reset(cx).map(|_| ())
    }
}
