//! Tests of the wire through its public face.

// Clippy's leave for tests does not reach helpers of tests that stand in files of their own.
#![allow(clippy::unwrap_used)]

mod any;
mod malformed;
mod malformed_policy;
mod mutations;
mod names;
mod numbers;
mod round_trip;
mod zds;
