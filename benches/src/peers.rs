//! What culvert is compared with: proxies written for the bench, and a real one.
//!
//! They need no capture: a load connects to the near one's port, the far one connects to the
//! server. They must not know which load runs.

pub mod baseline;
pub mod certificates;
pub(crate) mod envoy;
pub mod relay;

use std::net::SocketAddr;
use std::str::FromStr;

use anyhow::Context;
use tokio::net::{TcpListener, TcpSocket};

/// Worker threads of each proxy: as many as ztunnel has on the two cores of the bench.
pub(crate) const WORKERS: usize = 2;
/// Connections that wait to be accepted; the loads open at most 64 at the same time, the memory
/// axis thousands in a burst.
const BACKLOG: u32 = 4096;

/// `LISTEN=TO`: what comes in at the first address goes to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where connections are accepted.
    pub listen: SocketAddr,
    /// Where they go.
    pub to: SocketAddr,
}

impl FromStr for Forward {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (listen, to) = text.split_once('=').context("LISTEN=TO")?;
        Ok(Forward {
            listen: listen.parse().with_context(|| listen.to_owned())?,
            to: to.parse().with_context(|| to.to_owned())?,
        })
    }
}

/// A listener that several threads may have of one address: the kernel spreads connections.
fn shared_listener(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket
        .bind(address)
        .with_context(|| format!("bind {address}"))?;
    Ok(socket.listen(BACKLOG)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_read_from_two_addresses() {
        let forward: Forward = "127.0.0.1:1=10.0.0.2:80".parse().unwrap();
        assert_eq!(forward.listen, "127.0.0.1:1".parse().unwrap());
        assert_eq!(forward.to, "10.0.0.2:80".parse().unwrap());
        assert!("127.0.0.1:1".parse::<Forward>().is_err());
    }
}
