//! HPACK blocks.
#![no_main]

#[path = "properties/headers.rs"]
mod headers;

libfuzzer_sys::fuzz_target!(|input: &[u8]| headers::holds(input));
