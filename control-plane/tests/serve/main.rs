//! culvertd in this process, asked over TLS as nodes ask it.

#![allow(clippy::unwrap_used)] // The helpers are tests too.

mod agents;
mod binary;
mod certificates;
mod discovery;
mod harness;
mod own_clients;
mod routes;
mod source;
mod strangers;
mod tokens;
mod waypoints;
