//! The node agent and the plugin on this machine's kernel: real namespaces, cgroups, BPF.

#![allow(clippy::unwrap_used)] // All of this is test code, though not all of it is in a #[test].

mod app;
mod captured;
mod closed;
mod commands;
mod existing;
mod ground;
mod lifecycle;
mod plugin;
mod races;
mod rig;
mod takeover;
mod traffic;
mod verify;
mod watch;
mod zds;
mod ztunnel;
