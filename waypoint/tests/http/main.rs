//! HTTP through the proxy, in memory: endpoints, clients and the clock are the test's own.
#![allow(
    clippy::unwrap_used,
    reason = "clippy takes helpers of a test binary for product code"
)]

mod bodies;
mod bounds;
mod grpc;
mod half;
mod odd;
mod plain;
mod refused;
mod retries;
mod routes;
mod times;
mod traces;
mod upgrades;
mod world;
