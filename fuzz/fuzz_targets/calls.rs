//! Messages of the agent's own socket.
#![no_main]

#[path = "properties/calls.rs"]
mod calls;

libfuzzer_sys::fuzz_target!(|input: &[u8]| calls::holds(input));
