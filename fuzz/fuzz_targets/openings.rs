//! The first bytes of a connection that a waypoint looks at.
#![no_main]

#[path = "properties/openings.rs"]
mod openings;

libfuzzer_sys::fuzz_target!(|input: &[u8]| openings::holds(input));
