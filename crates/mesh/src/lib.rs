//! The domain, pure: what a mesh is made of and what to do with a connection.
//!
//! `mesh` knows no sockets, files, clocks, threads, async code or wire types; `cargo xtask tidy`
//! proves it. Everything here is a value: a [`Snapshot`] goes in, a decision with its reasons
//! comes out, and the same input always gives the same answer.

pub mod address;
pub mod decide;
pub mod endpoint;
pub mod identity;
pub mod policy;
pub mod route;
pub mod service;
pub mod snapshot;
pub mod workload;

pub use address::{HBONE_PORT, NetworkAddress, NetworkCidr};
pub use identity::Identity;
pub use policy::{Policy, PolicyKey};
pub use service::{Service, ServiceKey};
pub use snapshot::Snapshot;
pub use workload::{Workload, WorkloadUid};
