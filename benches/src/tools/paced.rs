//! Requests at a constant rate over connections that stay open.
//!
//! The latency of a request counts from the moment it was due, also when the one before it on its
//! connection was still waited for: a stall is charged to every request it delays (no coordinated
//! omission).

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::http_client::{KEEP, whole_length};
use super::samples::{Samples, Summary};

/// How long the last answers are waited for after the last request.
const PATIENCE: Duration = Duration::from_secs(5);
/// How late the kernel may wake us, instead of its 50 µs: it would be in every latency.
const TIMER_SLACK_NS: u64 = 1;
/// One read; an answer of the bench's server has less.
const READ_BYTES: usize = 8 << 10;

/// When the requests of each connection are due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Plan {
    connections: usize,
    /// Between two requests of one connection.
    interval: Duration,
}

impl Plan {
    /// `rate` requests a second in all, spread evenly.
    pub(super) fn new(connections: usize, rate: f64) -> Self {
        Plan {
            connections,
            interval: Duration::from_secs_f64(connections as f64 / rate),
        }
    }

    /// When request `n` of connection `index` is due, after the start.
    fn due(&self, index: usize, n: u32) -> Duration {
        self.interval
            .mul_f64(index as f64 / self.connections as f64)
            + self.interval * n
    }
}

pub(super) fn run(address: SocketAddr, plan: Plan, length: Duration) -> anyhow::Result<Summary> {
    nix::sys::prctl::set_timerslack(TIMER_SLACK_NS)?;
    let mut clients = (0..plan.connections)
        .map(|index| Client::connect(address, index))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut samples = Samples::default();
    let start = Instant::now();
    while start.elapsed() < length + PATIENCE {
        let now = start.elapsed();
        for client in &mut clients {
            let due = plan.due(client.index, client.next);
            if !client.waits && !client.broken && due <= now && due < length {
                client.send();
            }
        }
        let next = clients.iter().filter_map(|client| {
            let due = plan.due(client.index, client.next);
            (!client.waits && !client.broken && due < length).then_some(due)
        });
        let Some(wake) = wake(next.min(), clients.iter().any(|client| client.waits)) else {
            break;
        };
        for ready in wait(&clients, wake.saturating_sub(start.elapsed()))? {
            let client = &mut clients[ready];
            if client.receive()? {
                samples.add(start.elapsed() - plan.due(client.index, client.next));
                client.next += 1;
            }
        }
    }
    let broken = clients
        .iter()
        .filter(|client| client.broken || client.waits);
    broken.for_each(|_| samples.fail());
    samples.summary(start.elapsed())
}

/// When to look next, after the start: None when all is done.
fn wake(next: Option<Duration>, waiting: bool) -> Option<Duration> {
    next.or_else(|| waiting.then_some(Duration::MAX))
}

/// Until an answer comes or `at_most` is over: the clients that have something to read.
fn wait(clients: &[Client], at_most: Duration) -> anyhow::Result<Vec<usize>> {
    let waiting = |client: &&Client| client.waits;
    let mut polled: Vec<_> = clients
        .iter()
        .filter(waiting)
        .map(|client| PollFd::new(client.stream.as_fd(), PollFlags::POLLIN))
        .collect();
    let at_most = TimeSpec::from(at_most.min(PATIENCE));
    ppoll(&mut polled, Some(at_most), None)?;
    let indices = clients.iter().enumerate().filter(|(_, c)| c.waits);
    let ready = polled.iter().zip(indices);
    Ok(ready
        .filter(|(fd, _)| fd.any().unwrap_or(true))
        .map(|(_, (index, _))| index)
        .collect())
}

struct Client {
    stream: TcpStream,
    index: usize,
    /// The request that is due next, or waited for.
    next: u32,
    waits: bool,
    broken: bool,
    answer: Vec<u8>,
}

impl Client {
    /// Connected and tried once: the tunnel below it is there.
    fn connect(address: SocketAddr, index: usize) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut client = Client {
            stream,
            index,
            next: 0,
            waits: false,
            broken: false,
            answer: Vec::with_capacity(READ_BYTES),
        };
        client.send();
        let begun = Instant::now();
        while !client.receive()? {
            anyhow::ensure!(
                begun.elapsed() < PATIENCE && !client.broken,
                "no first answer"
            );
            wait(std::slice::from_ref(&client), PATIENCE)?;
        }
        Ok(client)
    }

    fn send(&mut self) {
        self.waits = true;
        // So little always fits into the buffer of a connection without anything under way.
        self.broken = self.stream.write_all(KEEP).is_err();
        self.waits = !self.broken;
    }

    /// Whether the whole answer is there.
    fn receive(&mut self) -> anyhow::Result<bool> {
        let mut part = [0; READ_BYTES];
        match self.stream.read(&mut part) {
            Ok(0) => self.broken = true,
            Ok(bytes) => self.answer.extend_from_slice(&part[..bytes]),
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.broken = true,
        }
        let whole = whole_length(&self.answer)?.is_some_and(|length| self.answer.len() >= length);
        if whole {
            self.answer.clear();
        }
        self.waits = !whole && !self.broken;
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connections_take_turns_and_share_the_rate() {
        let plan = Plan::new(4, 1000.0);
        assert_eq!(plan.due(0, 0), Duration::ZERO);
        assert_eq!(plan.due(1, 0), Duration::from_millis(1));
        assert_eq!(plan.due(3, 2), Duration::from_millis(11));
    }
}
