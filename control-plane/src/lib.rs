//! culvertd: says to proxies what the mesh is (delta xDS), signs their certificates, and tells node
//! agents who a pod is and which waypoints to run.
//!
//! It reads manifests ([`source`]), translates them (`crates/translate`), and publishes the result
//! ([`publication`]). It knows nothing of sockets in pods, tunnels or steering, and no private key
//! of a workload ever reaches it.

pub mod admin;
pub mod agents;
pub mod authority;
pub mod callers;
pub mod certificates;
pub mod discovery;
pub mod engine;
pub mod flags;
pub mod listener;
pub mod metrics;
pub mod publication;
pub mod server;
pub mod source;
pub mod state;
pub mod strangers;
pub mod waypoints;
