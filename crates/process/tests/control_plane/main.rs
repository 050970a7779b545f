//! The feed, the certificates and the agent's client against control planes in this process, over
//! loopback TLS.

// All of this crate is tests, their helping functions too.
#![allow(clippy::unwrap_used)]

mod agent;
mod ca;
mod certificates;
mod feed;
mod server;
