//! Frames of a peer against the codec, in both roles.
#![no_main]

#[path = "properties/frames.rs"]
mod frames;

libfuzzer_sys::fuzz_target!(|input: &[u8]| frames::holds(input));
