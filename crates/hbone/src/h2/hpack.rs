//! Header compression (RFC 7541). We advertise a table of size 0 and never index ourselves, but a
//! peer may use the default table of 4096 bytes until it has seen our SETTINGS.

mod decode;
mod encode;
mod huffman;
mod integer;
mod table;

pub use decode::{Decoder, HpackError};
pub use encode::encode;

use std::borrow::Cow;

/// A field as it is on the wire: any bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name.
    pub name: Cow<'static, [u8]>,
    /// Value.
    pub value: Cow<'static, [u8]>,
}

/// What every field counts besides its bytes (RFC 7541 4.1, RFC 9113 6.5.2).
pub const FIELD_OVERHEAD_BYTES: usize = 32;

impl Field {
    /// Its size as tables and header lists count it.
    pub fn size(&self) -> usize {
        self.name.len() + self.value.len() + FIELD_OVERHEAD_BYTES
    }
}
