//! CONNECT authority, baggage and forwarded.
#![no_main]

#[path = "properties/texts.rs"]
mod texts;

libfuzzer_sys::fuzz_target!(|input: &[u8]| texts::holds(input));
