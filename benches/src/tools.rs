//! The bench's own load programs: what iperf3 and wrk cannot measure.
//!
//! Each is a subcommand of this binary, runs in a pod, and prints one JSON line. They must not
//! know which path carries them.

mod echo;
mod fresh;
mod http_client;
mod paced;
mod ping_pong;
mod samples;

pub use echo::serve as serve_echo;
pub use samples::Summary;

use std::net::SocketAddr;
use std::time::Duration;

use clap::Subcommand;

/// Size of one message of the ping-pong.
const MESSAGE_BYTES: usize = 64;

/// A load.
#[derive(Clone, Debug, Subcommand)]
pub enum Load {
    /// A new connection for each request: as fast as that many clients can one after the other.
    Fresh {
        /// Where the HTTP server is reached.
        address: SocketAddr,
        /// How many at the same time.
        connections: usize,
        /// How long.
        seconds: f64,
    },
    /// Requests at a constant rate, latency from the moment each was due.
    Paced {
        /// Where the HTTP server is reached.
        address: SocketAddr,
        /// Connections that stay open and share the rate.
        connections: usize,
        /// Requests a second in all.
        rate: f64,
        /// How long.
        seconds: f64,
    },
    /// Small messages there and back, one at a time a flow.
    PingPong {
        /// Where the echo server is reached.
        address: SocketAddr,
        /// Flows at the same time.
        flows: usize,
        /// How long.
        seconds: f64,
    },
}

impl Load {
    /// Runs it on this thread.
    ///
    /// # Errors
    /// When no connection could be made at all; single failures are counted in the summary.
    pub fn run(self) -> anyhow::Result<Summary> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            match self {
                Load::Fresh {
                    address,
                    connections,
                    seconds,
                } => fresh::run(address, connections, Duration::from_secs_f64(seconds)).await,
                Load::Paced {
                    address,
                    connections,
                    rate,
                    seconds,
                } => {
                    let plan = paced::Plan::new(connections, rate);
                    paced::run(address, plan, Duration::from_secs_f64(seconds))
                }
                Load::PingPong {
                    address,
                    flows,
                    seconds,
                } => ping_pong::run(address, flows, Duration::from_secs_f64(seconds)).await,
            }
        })
    }
}
