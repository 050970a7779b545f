//! Sockets, network namespaces, the io_uring and epoll back ends with their executor, file
//! descriptors over unix sockets, and the bpf(2) calls that no crate offers.
//!
//! This crate knows the kernel and nothing of a mesh: no workload, no identity, no policy. Whoever
//! uses it says which namespace, which mark, which address; it says what the kernel answered.
//!
//! It is the only crate of the workspace with `unsafe`.
#![allow(
    unsafe_code,
    reason = "raw system calls, ring entries and pre_exec have no safe form; they are gathered here \
              so that no other crate needs unsafe, and every block carries its SAFETY reason"
)]

mod backend;
pub mod bpf;
pub mod buffer;
pub mod cgroup;
pub mod command;
pub mod executor;
mod listener;
pub mod netns;
mod readiness;
pub mod seqpacket;
pub mod socket;
mod stream;

pub use backend::{Backend, Choice, ProbeError, UnknownChoice, probe};
pub use listener::TcpListener;
pub use readiness::register;
pub use stream::{TcpInfo, TcpStream};
