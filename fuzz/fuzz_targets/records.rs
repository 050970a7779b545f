//! Our TLS records against rustls' own, over a link that may be damaged.
#![no_main]

#[path = "properties/records.rs"]
mod records;

libfuzzer_sys::fuzz_target!(|input: &[u8]| records::holds(input));
