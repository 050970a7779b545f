//! What the rival's design costs: tokio's multi-thread runtime, tokio-rustls, the `h2` crate.
//!
//! Written for the bench alone, and tuned as its model is: 1 MB frames, windows of 4 and 16 MB,
//! one copy task a direction, buffers that grow with what a connection carries, pooled tunnels by
//! key, four counters by text labels a connection. It has no policy, no discovery and no access
//! log, so it is cheaper than its model in new connections. It must not know which load runs.

mod copy;
mod far;
mod near;
mod telemetry;

use std::net::SocketAddr;

use super::certificates::Certificates;
use super::{Forward, WORKERS};

/// Largest HTTP/2 frame both sides announce.
const FRAME_BYTES: u32 = 1 << 20;
/// Window of one stream.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Window of one tunnel.
const TUNNEL_WINDOW_BYTES: u32 = 16 << 20;
/// Streams that one tunnel carries before another is opened.
const STREAMS_PER_TUNNEL: usize = 100;

/// The near side until the process is ended: plain connections into tunnels to `far`.
///
/// # Errors
/// When an address cannot be bound or a certificate not be read.
pub fn run_near(
    forwards: &[Forward],
    far: SocketAddr,
    certificates: &Certificates,
) -> anyhow::Result<()> {
    runtime()?.block_on(near::serve(forwards, far, certificates.client()?))
}

/// The far side until the process is ended: tunnels into plain connections.
///
/// # Errors
/// When the address cannot be bound or a certificate not be read.
pub fn run_far(listen: SocketAddr, certificates: &Certificates) -> anyhow::Result<()> {
    runtime()?.block_on(far::serve(listen, certificates.server()?))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()?)
}
