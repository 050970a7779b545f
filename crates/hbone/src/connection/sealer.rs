//! The way of plaintext into TLS records: full records where there is enough, one small one at the
//! end.

use crate::codec::Outlet;
use crate::tls::{RECORD_BYTES, Session, SessionError};

/// Seals what is written behind what `out` holds. Whole records are sealed from where they lie; the
/// rest of frames, and small frames, are gathered so that they share a record.
pub(super) struct Sealer<'a> {
    session: &'a mut Session,
    out: &'a mut Vec<u8>,
    /// Bytes in `out` before.
    start: usize,
    /// Less than a record; its memory is the connection's.
    gathered: &'a mut Vec<u8>,
    error: Option<SessionError>,
}

impl<'a> Sealer<'a> {
    pub(super) fn new(
        session: &'a mut Session,
        out: &'a mut Vec<u8>,
        gathered: &'a mut Vec<u8>,
    ) -> Self {
        let start = out.len();
        Self {
            session,
            out,
            start,
            gathered,
            error: None,
        }
    }

    /// Seals what is gathered.
    pub(super) fn finish(mut self) -> Result<(), SessionError> {
        self.seal_gathered();
        self.error.map_or(Ok(()), Err)
    }

    fn seal_gathered(&mut self) {
        let mut gathered = std::mem::take(self.gathered);
        self.seal(&gathered);
        gathered.clear();
        *self.gathered = gathered;
    }

    fn seal(&mut self, plaintext: &[u8]) {
        if self.error.is_none() {
            self.error = self.session.seal(plaintext, self.out).err();
        }
    }
}

impl Outlet for Sealer<'_> {
    fn write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        if !self.gathered.is_empty() {
            let fill = rest.len().min(RECORD_BYTES - self.gathered.len());
            self.gathered.extend_from_slice(&rest[..fill]);
            rest = &rest[fill..];
            if self.gathered.len() < RECORD_BYTES {
                return;
            }
            self.seal_gathered();
        }
        let whole = rest.len() - rest.len() % RECORD_BYTES;
        self.seal(&rest[..whole]);
        self.gathered.extend_from_slice(&rest[whole..]);
    }

    fn written(&self) -> usize {
        self.out.len() - self.start + self.gathered.len()
    }
}
