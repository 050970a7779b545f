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
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;

/// What all connections of the process share.
pub(crate) struct Server {
    /// Of the pod.
    pub(crate) name: String,
    /// Requests by the value of their header `x-pair`.
    seen: Mutex<BTreeMap<String, u64>>,
}

impl Server {
    /// Counts a request of a pair; its number, from 1.
    pub(crate) fn count(&self, pair: &str) -> u64 {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let count = seen.entry(pair.to_owned()).or_default();
        *count += 1;
        *count
    }

    /// Requests of a pair so far.
    pub(crate) fn seen(&self, pair: &str) -> u64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(pair).copied().unwrap_or_default()
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
