//! What a long-lived mesh process needs: configuration, owned tasks with a drain, telemetry, the
//! admin servers, the xDS feed and certificates.
//!
//! Knows the domain and the wire, and talks to the control plane; knows nothing of pods' sockets,
//! namespaces or tunnels. Who uses it: the proxies, the node agent and culvertd.

pub mod admin;
pub mod certs;
pub mod clock;
pub mod config;
pub mod crowd;
pub mod flags;
pub mod grpc;
pub mod handover;
pub mod manifests;
pub mod metrics;
pub mod otlp;
pub mod retry;
pub mod tasks;
pub mod telemetry;
pub mod xds;
