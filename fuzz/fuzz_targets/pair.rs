//! Two codecs that do to each other all that a driver can do.
#![no_main]

#[path = "properties/pair.rs"]
mod pair;

libfuzzer_sys::fuzz_target!(|input: &[u8]| pair::holds(input));
