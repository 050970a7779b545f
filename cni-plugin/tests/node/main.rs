//! The node agent and the plugin on this machine's kernel: real namespaces, cgroups, BPF.

mod app;
mod captured;
mod ground;
mod lifecycle;
mod plugin;
mod rig;
mod zds;
mod ztunnel;
