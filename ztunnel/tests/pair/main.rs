//! Two proxies and the pods they serve, in network namespaces: what an application sees.
//!
//! Needs root. There is no steering here: a pod's listeners are bound to the one port of the tests
//! with transparent sockets, which the kernel's own rules lead the connections to.

#![allow(
    clippy::unwrap_used,
    reason = "all of this is a test, also what the test functions call"
)]

mod app;
mod budgets;
mod ca;
mod certificates;
mod hostile;
mod journal;
mod net;
mod policy;
mod raw;
mod relay;
mod site;
mod spread;
mod stop;
mod swap;
mod world;
mod zds;
