//! SETTINGS (RFC 9113 6.5): what a peer allows us.

use super::frame::{
    DEFAULT_MAX_FRAME_BYTES, DEFAULT_WINDOW_BYTES, Fault, LIMIT_MAX_FRAME_BYTES, MAX_31_BIT,
};
use crate::error::ErrorCode;

/// Identifiers of settings.
pub mod id {
    #![allow(missing_docs)]
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Bytes of one entry.
pub const ENTRY_BYTES: usize = 6;

/// What the peer allows; the defaults hold until its SETTINGS come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Streams that we may have open at once.
    pub max_streams: u32,
    /// Send window of a stream at its start, bytes.
    pub initial_window: u32,
    /// Largest frame that we may send, bytes.
    pub max_frame: u32,
    /// Largest header list that we may send, bytes.
    pub max_header_list: u32,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self {
            max_streams: u32::MAX,
            initial_window: DEFAULT_WINDOW_BYTES,
            max_frame: DEFAULT_MAX_FRAME_BYTES,
            max_header_list: u32::MAX,
        }
    }
}

impl PeerSettings {
    /// Takes over a SETTINGS payload; unknown entries mean nothing. Our encoder never uses the
    /// dynamic table, so HEADER_TABLE_SIZE means nothing either.
    ///
    /// # Errors
    /// A value that RFC 9113 6.5.2 forbids, or half an entry.
    pub fn apply(&mut self, payload: &[u8], from_server: bool) -> Result<(), Fault> {
        let (entries, rest) = payload.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err(Fault::size("SETTINGS with half an entry"));
        }
        for [i1, i0, v3, v2, v1, v0] in entries {
            let value = u32::from_be_bytes([*v3, *v2, *v1, *v0]);
            self.set(u16::from_be_bytes([*i1, *i0]), value, from_server)?;
        }
        Ok(())
    }

    fn set(&mut self, id: u16, value: u32, from_server: bool) -> Result<(), Fault> {
        match id {
            id::ENABLE_PUSH if value > 1 || (from_server && value == 1) => {
                return Err(Fault::protocol("SETTINGS_ENABLE_PUSH out of range"));
            }
            id::MAX_CONCURRENT_STREAMS => self.max_streams = value,
            id::INITIAL_WINDOW_SIZE if value > MAX_31_BIT => {
                let why = "SETTINGS_INITIAL_WINDOW_SIZE out of range";
                return Err(Fault::new(ErrorCode::FLOW_CONTROL_ERROR, why));
            }
            id::INITIAL_WINDOW_SIZE => self.initial_window = value,
            id::MAX_FRAME_SIZE
                if !(DEFAULT_MAX_FRAME_BYTES..=LIMIT_MAX_FRAME_BYTES).contains(&value) =>
            {
                return Err(Fault::protocol("SETTINGS_MAX_FRAME_SIZE out of range"));
            }
            id::MAX_FRAME_SIZE => self.max_frame = value,
            id::MAX_HEADER_LIST_SIZE => self.max_header_list = value,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: u16, value: u32) -> Vec<u8> {
        [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat()
    }

    #[test]
    fn settings_are_taken_over_and_unknown_ones_mean_nothing() {
        let mut peer = PeerSettings::default();
        let payload = [
            entry(id::MAX_CONCURRENT_STREAMS, 7),
            entry(id::INITIAL_WINDOW_SIZE, 100_000),
            entry(id::MAX_FRAME_SIZE, 1 << 20),
            entry(id::MAX_HEADER_LIST_SIZE, 16_384),
            entry(id::HEADER_TABLE_SIZE, 0),
            entry(0x7777, 9),
        ]
        .concat();
        peer.apply(&payload, false).unwrap();
        let expected = PeerSettings {
            max_streams: 7,
            initial_window: 100_000,
            max_frame: 1 << 20,
            max_header_list: 16_384,
        };
        assert_eq!(peer, expected);
    }

    #[test]
    fn values_out_of_range_are_faults_with_their_code() {
        let cases = [
            (entry(id::ENABLE_PUSH, 2), false, ErrorCode::PROTOCOL_ERROR),
            (entry(id::ENABLE_PUSH, 1), true, ErrorCode::PROTOCOL_ERROR),
            (
                entry(id::INITIAL_WINDOW_SIZE, 1 << 31),
                false,
                ErrorCode::FLOW_CONTROL_ERROR,
            ),
            (
                entry(id::MAX_FRAME_SIZE, 16_383),
                false,
                ErrorCode::PROTOCOL_ERROR,
            ),
            (
                entry(id::MAX_FRAME_SIZE, 1 << 24),
                false,
                ErrorCode::PROTOCOL_ERROR,
            ),
            (vec![0; 5], false, ErrorCode::FRAME_SIZE_ERROR),
        ];
        for (payload, from_server, code) in cases {
            let fault = PeerSettings::default()
                .apply(&payload, from_server)
                .unwrap_err();
            assert_eq!(fault.code, code, "{payload:?}");
        }
        assert!(
            PeerSettings::default()
                .apply(&entry(id::ENABLE_PUSH, 1), false)
                .is_ok()
        );
    }
}
