//! Bytes of an HTTP/1 client before hyper parses them.
#![no_main]

#[path = "properties/guard.rs"]
mod guard;

libfuzzer_sys::fuzz_target!(|input: &[u8]| guard::holds(input));
