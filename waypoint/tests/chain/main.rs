//! A waypoint between a client's proxy and the proxies of endpoints, in one network namespace: what
//! applications at both ends see.
//!
//! Needs root. The proxies at both ends are small ones of the test's own, made of the same tunnels.

#![allow(
    clippy::unwrap_used,
    reason = "all of this is a test, also what the test functions call"
)]

#[path = "../../../ztunnel/tests/pair/app.rs"]
#[allow(dead_code, reason = "shared with the tests of ztunnel")]
mod app;
mod bound;
#[path = "../../../ztunnel/tests/pair/ca.rs"]
#[allow(dead_code, reason = "shared with the tests of ztunnel")]
mod ca;
mod drain;
mod endpoints;
mod http;
#[path = "../../../ztunnel/tests/pair/journal.rs"]
mod journal;
mod net;
mod peer;
mod policy;
mod routes;
mod sniff;
mod spread;
mod world;
