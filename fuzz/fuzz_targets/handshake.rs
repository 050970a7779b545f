//! Bytes of a peer before the TLS handshake is done.
#![no_main]

#[path = "properties/handshake.rs"]
mod handshake;

libfuzzer_sys::fuzz_target!(|input: &[u8]| handshake::holds(input));
