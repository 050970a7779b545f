//! Sockets, network namespaces, the io_uring and epoll back ends with their executor, file
//! descriptors over unix sockets, and the bpf(2) calls that no crate offers.
//!
//! This crate knows the kernel and nothing of a mesh: no workload, no identity, no policy. Whoever
//! uses it says which namespace, which mark, which address; it says what the kernel answered.
//!
//! It is the only crate of the workspace with `unsafe`.
//!
//! # Where to look
//!
//! | question | place |
//! |---|---|
//! | io_uring or epoll, and why | [`probe`], [`Backend`] |
//! | a worker thread: its tasks, timers, ring | [`executor`], [`time`] |
//! | accept, read, write, end a connection | [`TcpListener`], [`TcpStream`], [`buffer`] |
//! | a socket inside another namespace, with marks and a foreign source address | [`socket`] |
//! | network namespaces, cgroups, children placed in them | [`netns`], [`cgroup`], [`command`] |
//! | messages with descriptors between processes | [`seqpacket`] |
//! | sockmap slots, links, pins | [`bpf`] |
//!
//! # What both back ends promise
//!
//! A read that is dropped loses no byte. `shutdown_both` and `reset` end what is pending. A stream
//! that is dropped is closed in the kernel, whatever was in flight. A busy connection does not keep
//! others waiting. The suite in `tests/suite` runs every such promise on both.
//!
//! # What they cost
//!
//! A turn of a worker is one system call. An idle stream with its task takes about 550 bytes, and
//! no buffer. Figures against other ways, and how they were measured:
//! `docs/decisions/0001-io-uring-driver.md`.
#![allow(
    unsafe_code,
    reason = "raw system calls, ring entries and pre_exec have no safe form; they are gathered \
              here so that no other crate needs unsafe; every block carries its SAFETY reason"
)]

mod backend;
pub mod bpf;
pub mod buffer;
pub mod cgroup;
pub mod command;
mod driver;
pub mod executor;
mod listener;
pub mod memory;
pub mod netns;
mod readiness;
pub mod seqpacket;
pub mod socket;
mod stream;
pub mod time;

pub use backend::{Backend, Choice, ProbeError, UnknownChoice, probe};
pub use listener::{Arrival, TcpListener};
pub use readiness::register;
pub use stream::{Pipe, TcpInfo, TcpStream};
