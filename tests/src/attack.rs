//! What hostile peers, hostile pods and their honest neighbours do: the program `attacker`.
//!
//! Runs in pods of a world. On the wire it speaks with code of its own, not with that of the
//! product: frames are made here byte by byte. It must not know how the product defends itself; it
//! says what it did and how each connection ended.

pub mod dial;
pub mod end;
pub mod flood;
pub mod frames;
pub mod hoard;
pub mod neighbour;
pub mod server;
pub mod stall;
pub mod stranger;
pub mod streams;
pub mod trickle;
pub mod tunnel;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use end::End;

/// Longest time that an attacker waits for the far side to end a connection, or to answer: three
/// times what a handshake may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What an attack did and what came of it, as one line of JSON on stdout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// TCP connections tried.
    pub connections: u64,
    /// Those that became tunnels: TLS is done and our SETTINGS are sent.
    pub tunnels: u64,
    /// Hostile frames, bytes, records or requests: what the attack is made of.
    pub sent: u64,
    /// Connections by how they ended.
    pub ends: BTreeMap<String, u64>,
    /// Requests by how they were answered.
    pub answers: BTreeMap<String, u64>,
    /// From the first connection to the end of the last, in seconds.
    pub seconds: f64,
}

impl Report {
    /// Counts the end of a connection.
    pub fn ended(&mut self, end: &End) {
        *self.ends.entry(end.to_string()).or_default() += 1;
    }

    /// Counts an answer.
    pub fn answered(&mut self, answer: impl Into<String>) {
        *self.answers.entry(answer.into()).or_default() += 1;
    }

    /// Connections that ended so.
    pub fn ends_of(&self, end: &End) -> u64 {
        self.ends.get(&end.to_string()).copied().unwrap_or(0)
    }

    /// Adds what another part of the attack did at the same time.
    pub fn add(&mut self, other: Report) {
        self.connections += other.connections;
        self.tunnels += other.tunnels;
        self.sent += other.sent;
        self.seconds = self.seconds.max(other.seconds);
        for (end, count) in other.ends {
            *self.ends.entry(end).or_default() += count;
        }
        for (answer, count) in other.answers {
            *self.answers.entry(answer).or_default() += count;
        }
    }

    /// Notes how long it took.
    #[must_use]
    pub fn took(mut self, start: Instant) -> Self {
        self.seconds = start.elapsed().as_secs_f64();
        self
    }
}
