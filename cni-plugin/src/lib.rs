//! `culvert-cni`: the chained CNI plugin, and the node agent that captures pods.
//!
//! The plugin ([`plugin`]) is called by the runtime and asks the agent ([`agent`]) over a unix
//! socket ([`message`], [`client`]). The agent steers pods ([`steering`]) and hands their listeners
//! to ztunnel ([`zds`]). [`install`] puts the plugin into a node's CNI configuration.
//! [`waypoint`] runs the waypoints that the control plane gives to the node.
//!
//! Knows sockets, namespaces and BPF; knows no policy and carries no traffic.

pub mod agent;
pub mod cli;
pub mod client;
mod durable;
pub mod install;
pub mod message;
pub mod plugin;
pub mod steering;
pub mod waypoint;
pub mod zds;
