//! Tests of the domain through its public face.

// Clippy's leave for tests does not reach helpers of tests that stand in files of their own.
#![allow(clippy::unwrap_used)]

mod endpoint;
mod fixture;
mod inbound;
mod laws_of_policy;
mod laws_of_snapshot;
mod outbound;
mod snapshot;
mod waypoint;
