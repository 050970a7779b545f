//! Messages between agent and ztunnel.
#![no_main]

#[path = "properties/zds.rs"]
mod zds;

libfuzzer_sys::fuzz_target!(|input: &[u8]| zds::holds(input));
