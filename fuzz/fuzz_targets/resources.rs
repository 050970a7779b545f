//! Discovery resources and their names.
#![no_main]

#[path = "properties/resources.rs"]
mod resources;

libfuzzer_sys::fuzz_target!(|input: &[u8]| resources::holds(input));
