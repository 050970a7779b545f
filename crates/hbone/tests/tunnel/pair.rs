//! Two ends, a link that delays and cuts bytes anyhow but loses and reorders none, and a clock.

use std::collections::VecDeque;
use std::time::Duration;

use hbone::{Config, Connection, Mono};

use crate::certificates::{Mesh, expected};
use crate::dice::Dice;
use crate::driver::End;

/// When every simulated run begins.
pub const START: Mono = Mono(Duration::from_secs(1000));

/// How the link cuts what it carries.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// One byte at a time.
    Bytes,
    /// Up to so many bytes, small and large ones.
    UpTo(usize),
    /// All that has come.
    Whole,
}

struct Pipe {
    bytes: VecDeque<u8>,
    /// When how many more bytes arrive.
    arrivals: VecDeque<(Mono, usize)>,
    arrived: usize,
    total: u64,
}

impl Pipe {
    fn new() -> Self {
        Self {
            bytes: VecDeque::new(),
            arrivals: VecDeque::new(),
            arrived: 0,
            total: 0,
        }
    }

    fn put(&mut self, data: &[u8], at: Mono) {
        self.bytes.extend(data);
        self.total += data.len() as u64;
        self.arrivals.push_back((at, data.len()));
    }

    fn arrive(&mut self, now: Mono) {
        while let Some((at, bytes)) = self.arrivals.front().copied()
            && at <= now
        {
            self.arrived += bytes;
            self.arrivals.pop_front();
        }
    }

    fn take(&mut self, most: usize) -> Vec<u8> {
        let length = most.min(self.arrived);
        self.arrived -= length;
        self.bytes.drain(..length).collect()
    }
}

/// A client, a server and the link between them.
pub struct Pair {
    pub client: End,
    pub server: End,
    pub now: Mono,
    latency: Duration,
    cut: Cut,
    dice: Dice,
    up: Pipe,
    down: Pipe,
    /// What the link holds in one direction before the sender must wait, bytes.
    capacity: usize,
    /// Nothing passes any more.
    pub severed: bool,
}

impl Pair {
    pub fn new(seed: u64, cut: Cut) -> Self {
        Self::with(seed, cut, &Config::default(), &Config::default())
    }

    pub fn with(seed: u64, cut: Cut, client: &Config, server: &Config) -> Self {
        let mesh = Mesh::new();
        let now = START;
        let client = Connection::client(&mesh.client(), expected(&["web"]), client, now).unwrap();
        let server = Connection::server(&mesh.server(), server, now).unwrap();
        Self::of(client, server, seed, cut)
    }

    pub fn of(client: Connection, server: Connection, seed: u64, cut: Cut) -> Self {
        Self {
            client: End::new(client, seed + 1),
            server: End::new(server, seed + 2),
            now: START,
            latency: Duration::from_micros(500),
            cut,
            dice: Dice::new(seed),
            up: Pipe::new(),
            down: Pipe::new(),
            capacity: 2 << 20,
            severed: false,
        }
    }

    pub fn latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// With the handshake done.
    pub fn established(mut self) -> Self {
        self.run_until(|pair| pair.client.peer.is_some() && pair.server.peer.is_some());
        self
    }

    pub fn wire_bytes(&self) -> u64 {
        self.up.total + self.down.total
    }

    /// Runs until `done`; panics when nothing more would happen, or after an hour of the clock.
    pub fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        let end = self.now.plus(Duration::from_secs(3600));
        while !done(self) {
            assert!(self.now < end, "not done within an hour");
            assert!(
                self.step(),
                "stalled: {:?} {:?}",
                self.client.conn,
                self.server.conn
            );
        }
    }

    /// Runs for some time of the clock.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now.plus(time);
        while self.now < end && self.step_until(Some(end)) {}
        self.now = self.now.max(end);
        self.step_until(Some(end));
    }

    pub fn step(&mut self) -> bool {
        self.step_until(None)
    }

    /// Everything that is due now, then the clock to what is due next. False: nothing is.
    fn step_until(&mut self, end: Option<Mono>) -> bool {
        let moved = self.exchange();
        if moved {
            return true;
        }
        let arrivals = [&self.up, &self.down].into_iter().filter(|_| !self.severed);
        let arrival = arrivals
            .filter_map(|p| p.arrivals.front().map(|(at, _)| *at))
            .min();
        let timeout = [&self.client, &self.server]
            .into_iter()
            .filter_map(|e| e.conn.poll_timeout())
            .min();
        let stall = [&self.client, &self.server]
            .into_iter()
            .flat_map(|e| e.flows.values());
        let stall = stall
            .map(|f| f.plan.stalled_until)
            .filter(|at| *at > self.now)
            .min();
        let next = [arrival, timeout, stall, end].into_iter().flatten().min();
        let Some(next) = next else { return false };
        self.now = self.now.max(next);
        for side in [&mut self.client, &mut self.server] {
            if side.conn.poll_timeout().is_some_and(|at| at <= self.now) {
                side.conn.handle_timeout(self.now);
            }
        }
        true
    }

    /// One round: applications, sending, receiving.
    fn exchange(&mut self) -> bool {
        let now = self.now;
        let mut moved = false;
        for (end, pipe) in [
            (&mut self.client, &mut self.up),
            (&mut self.server, &mut self.down),
        ] {
            end.pump(now);
            while pipe.bytes.len() < self.capacity && !self.severed {
                let mut out = Vec::new();
                let most = self.dice.size(300_000);
                assert_eq!(end.conn.wants_transmit(), {
                    end.conn.poll_transmit(now, &mut out, most);
                    !out.is_empty()
                });
                if out.is_empty() {
                    break;
                }
                assert!(out.len() < most + 80_000, "{} bytes for {most}", out.len());
                moved = true;
                pipe.put(&out, now.plus(self.latency));
                end.pump(now);
            }
        }
        for (end, pipe) in [
            (&mut self.server, &mut self.up),
            (&mut self.client, &mut self.down),
        ] {
            pipe.arrive(now);
            while pipe.arrived > 0 && !self.severed {
                let most = match self.cut {
                    Cut::Bytes => 1,
                    Cut::UpTo(most) => self.dice.size(most),
                    Cut::Whole => usize::MAX,
                };
                let mut received = pipe.take(most);
                end.conn.handle_input(now, &mut received);
                assert!(received.is_empty());
                end.pump(now);
                moved = true;
            }
        }
        moved
    }
}
