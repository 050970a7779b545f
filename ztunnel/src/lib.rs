//! The per-node L4 proxy: carries the connections of the pods of one node over mutual TLS.
//!
//! It must not know how traffic is steered to its listeners (the node agent's), nor what Kubernetes
//! is; where a connection goes and whether it may is decided in `mesh::decide`.

pub mod app;
pub mod config;
pub mod connection;
pub mod dump;
pub mod flow;
pub mod gate;
pub mod handover;
pub mod inbound;
pub mod metrics;
pub mod outbound;
pub mod pod;
pub mod pods;
pub mod proxy;
pub mod record;
pub mod worker;
pub mod zds;
