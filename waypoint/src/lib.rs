//! The L7 proxy: takes the tunnels of clients, finds out what an application speaks in them,
//! applies the routes of the service that was addressed, and sends on under its own identity.
//!
//! It must not know how traffic is steered to it, nor what Kubernetes is; what a connection may
//! ask for is decided in `mesh::decide`, which route takes a request in `mesh::route`.

pub mod app;
pub mod config;
pub mod connection;
pub mod dump;
pub mod endpoints;
pub mod http;
pub mod inbound;
pub mod limits;
pub mod metrics;
pub mod opening;
pub mod pass;
pub mod places;
pub mod proxy;
pub mod record;
pub mod serving;
pub mod site;
pub mod trace;
pub mod upstream;
pub mod wire;
pub mod worker;
