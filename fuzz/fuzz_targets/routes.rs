//! Requests and route matches.
#![no_main]

#[path = "properties/routes.rs"]
mod routes;

libfuzzer_sys::fuzz_target!(|input: &[u8]| routes::holds(input));
