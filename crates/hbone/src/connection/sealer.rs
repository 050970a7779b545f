//! The way of plaintext into TLS records: full records where there is enough, one small one at the
//! end, and before bulk. What fills a record is sealed from where it lies; the rest of frames, and
//! small frames, are copied behind the room for a record's header and sealed there.

use crate::codec::Outlet;
use crate::tls::{RECORD_BYTES, Session, SessionError};

/// A record with no more than this in it is not filled up by what would fill records of its own:
/// one record more costs less than a copy of all that would have to move up. Bytes.
const LITTLE_BYTES: usize = 1 << 10;

/// Seals what is written behind what `out` holds; frames share records.
pub(super) struct Sealer<'a> {
    session: &'a mut Session,
    out: &'a mut Vec<u8>,
    /// Bytes in `out` before.
    start: usize,
    /// The record that is being filled.
    record: Option<Filling>,
    error: Option<SessionError>,
}

/// A record that is not sealed yet.
struct Filling {
    /// Where it begins.
    at: usize,
    /// Bytes of plaintext that it can still take.
    room: usize,
}

impl<'a> Sealer<'a> {
    pub(super) fn new(session: &'a mut Session, out: &'a mut Vec<u8>) -> Self {
        let start = out.len();
        Self {
            session,
            out,
            start,
            record: None,
            error: None,
        }
    }

    /// Seals what has not filled a record.
    pub(super) fn finish(mut self) -> Result<(), SessionError> {
        let sealed = self.seal();
        self.error.map_or(sealed, Err)
    }

    fn seal(&mut self) -> Result<(), SessionError> {
        match self.record.take() {
            Some(record) => self.session.finish_record(self.out, record.at),
            None => Ok(()),
        }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        if bytes.len() >= 2 * RECORD_BYTES
            && let Some(record) = &self.record
            && RECORD_BYTES - record.room <= LITTLE_BYTES
        {
            self.seal()?;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.record.is_none()
                && let Some((whole, more)) = rest.split_at_checked(RECORD_BYTES)
            {
                self.session.seal(whole, self.out)?;
                rest = more;
                continue;
            }
            let record = match &mut self.record {
                Some(record) => record,
                empty => {
                    let at = self.session.begin_record(self.out)?;
                    let room = RECORD_BYTES;
                    empty.insert(Filling { at, room })
                }
            };
            let (fits, more) = rest.split_at(rest.len().min(record.room));
            self.out.extend_from_slice(fits);
            record.room -= fits.len();
            rest = more;
            if record.room == 0 {
                self.seal()?;
            }
        }
        Ok(())
    }
}

impl Outlet for Sealer<'_> {
    fn write(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            self.error = self.put(bytes).err();
        }
    }

    fn written(&self) -> usize {
        self.out.len() - self.start
    }
}
