//! Manifests, and the mesh that they make.
#![no_main]

#[path = "properties/manifests.rs"]
mod manifests;

libfuzzer_sys::fuzz_target!(|input: &[u8]| manifests::holds(input));
