//! Worlds: nodes and pods in network namespaces of this machine, with real programs in them.
//!
//! What the demo, the scenarios and the benches stand on. A world is a router namespace, nodes
//! behind it, machines beside them, pods made through the distribution's own CNI plugins, and
//! processes started in their namespaces and cgroups. It must not know the mesh: no policy,
//! identity or tunnel; [`stack`] knows the names and flags of our processes and nothing of what
//! they do. Everything of a world carries its run id and goes when the [`World`] is dropped.

pub mod capture;
pub mod cni;
mod ending;
mod error;
mod interrupt;
mod ip;
mod namespace;
mod place;
mod process;
mod program;
mod requirements;
pub mod stack;
mod state;
mod topology;
mod world;

pub use cni::CniError;
pub use error::WorldError;
pub use interrupt::Interrupt;
pub use place::Place;
pub use process::Process;
pub use program::{Output, Program};
pub use state::{Leftovers, Removed, remove_leftovers};
pub use topology::{Host, Node, Pod, PodName};
pub use world::{Kept, World};
