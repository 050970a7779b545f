//! What a CNI runtime hands the plugin.
#![no_main]

#[path = "properties/cni.rs"]
mod cni;

libfuzzer_sys::fuzz_target!(|input: &[u8]| cni::holds(input));
