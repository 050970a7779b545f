//! Rewrites and redirects of paths.
#![no_main]

#[path = "properties/paths.rs"]
mod paths;

libfuzzer_sys::fuzz_target!(|input: &[u8]| paths::holds(input));
