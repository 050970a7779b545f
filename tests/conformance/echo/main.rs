//! The server in the conformance pods: says as JSON what it saw, and misbehaves when asked to.
//!
//! `echo NAME` listens on 8080 and 8081 (HTTP/1.1 and HTTP/2 with prior knowledge), 8443 (the same
//! in TLS, under a certificate of its own making) and 9000 (greets, then gives back every byte).
//! `GET /seen?pair=X` says how many requests with the header `x-pair: X` came. It must not know the
//! mesh.

mod behaviour;
mod reply;
mod sockets;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;

/// What all connections of the process share.
pub(crate) struct Server {
    /// Of the pod.
    pub(crate) name: String,
    /// Requests by the value of their header `x-pair`.
    seen: Mutex<BTreeMap<String, Seen>>,
}

/// Requests of one pair.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// So far.
    pub(crate) count: u64,
    /// Under way.
    now: u64,
    /// Most that were under way at once.
    pub(crate) most: u64,
}

/// A request that is under way.
pub(crate) struct UnderWay<'a> {
    server: &'a Server,
    pair: String,
    /// With this one.
    pub(crate) seen: Seen,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut seen = self.server.lock();
        seen.entry(self.pair.clone()).or_default().now -= 1;
    }
}

impl Server {
    /// Counts a request of a pair, which is under way until the answer's head is made.
    pub(crate) fn begin(&self, pair: &str) -> UnderWay<'_> {
        let mut all = self.lock();
        let seen = all.entry(pair.to_owned()).or_default();
        seen.count += 1;
        seen.now += 1;
        seen.most = seen.most.max(seen.now);
        UnderWay {
            server: self,
            pair: pair.to_owned(),
            seen: *seen,
        }
    }

    /// Requests of a pair so far.
    pub(crate) fn seen(&self, pair: &str) -> u64 {
        self.lock().get(pair).copied().unwrap_or_default().count
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let name = std::env::args().nth(1).context("usage: echo NAME")?;
    let server = Arc::new(Server {
        name,
        seen: Mutex::default(),
    });
    let tls = sockets::tls(&server.name)?;
    tokio::try_join!(
        sockets::http(&server, 8080),
        sockets::http(&server, 8081),
        sockets::https(&server, 8443, tls),
        sockets::greet(&server, 9000),
        async {
            println!("listening");
            Ok(())
        },
    )?;
    Ok(())
}
