//! The bench's own load programs: what iperf3 and wrk cannot measure.
//!
//! Each is a subcommand of this binary, runs in a pod, and prints one JSON line. They must not
//! know which path carries them.

mod echo;
pub(crate) mod feeder;
mod fresh;
mod hold;
pub(crate) mod http_client;
mod paced;
mod ping_pong;
mod samples;
mod tunnels;

pub use echo::serve as serve_echo;
pub use feeder::run as configure;
pub use samples::Summary;
pub use tunnels::Target;

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
    /// Idle connections, and what they cost after they carried something.
    Hold {
        /// How many.
        connections: usize,
        /// Where echo servers are reached; connections are spread over them.
        addresses: Vec<SocketAddr>,
    },
    /// Cold tunnels to a terminating proxy.
    Cold {
        /// Where, and as whom.
        #[command(flatten)]
        target: Target,
        /// How many at the same time.
        at_once: usize,
        /// How long.
        seconds: f64,
    },
    /// Idle tunnels to a terminating proxy.
    HoldTunnels {
        /// Where, and as whom.
        #[command(flatten)]
        target: Target,
        /// How many.
        tunnels: usize,
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
    /// Runs it on this thread and prints what it has measured, if anything.
    ///
    /// # Errors
    /// When no connection could be made at all; single failures are counted in the summary.
    pub fn run(self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let local = tokio::task::LocalSet::new();
        let summary = local.block_on(&runtime, self.summary())?;
        if let Some(summary) = summary {
            println!("{}", serde_json::to_string(&summary)?);
        }
        Ok(())
    }

    async fn summary(self) -> anyhow::Result<Option<Summary>> {
        let summary = match self {
            Load::Fresh {
                address,
                connections,
                seconds,
            } => fresh::run(address, connections, Duration::from_secs_f64(seconds)).await?,
            Load::Paced {
                address,
                connections,
                rate,
                seconds,
            } => {
                let plan = paced::Plan::new(connections, rate);
                paced::run(address, plan, Duration::from_secs_f64(seconds))?
            }
            Load::PingPong {
                address,
                flows,
                seconds,
            } => ping_pong::run(address, flows, Duration::from_secs_f64(seconds)).await?,
            Load::Cold {
                target,
                at_once,
                seconds,
            } => tunnels::cold(target, at_once, Duration::from_secs_f64(seconds)).await?,
            Load::Hold {
                connections,
                addresses,
            } => {
                hold::run(&addresses, connections).await?;
                return Ok(None);
            }
            Load::HoldTunnels { target, tunnels } => {
                tunnels::hold(target, tunnels).await?;
                return Ok(None);
            }
        };
        Ok(Some(summary))
    }
}
