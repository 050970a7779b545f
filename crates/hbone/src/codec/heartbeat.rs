//! PING: whether the peer lives, how long a round trip takes, and when a drain may name its last
//! stream.

use std::time::Duration;

use crate::config::Config;
use crate::time::Mono;

/// A round trip that is older than this gives way to any newer one, so that a path that became
/// longer is noticed.
const RTT_MEMORY: Duration = Duration::from_secs(30);

/// Least time between two probes of the round trip.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// First byte of our PINGs that says what for.
const PROBE: u8 = 1;
const DRAIN: u8 = 2;

#[derive(Clone, Copy, Debug)]
struct Outstanding {
    payload: [u8; 8],
    sent: Mono,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing.
    Nothing,
    /// A PING with this payload.
    Ping([u8; 8]),
    /// The peer is gone.
    Dead,
}

/// The pulse of one connection.
#[derive(Debug)]
pub(super) struct Heartbeat {
    idle: Duration,
    timeout: Duration,
    last_input: Mono,
    probe: Option<Outstanding>,
    /// Answered by the peer: all it opened before the first GOAWAY has come.
    drain: Option<[u8; 8]>,
    count: u32,
    /// Smallest recent round trip, and when it was measured.
    rtt: Option<(Duration, Mono)>,
    /// When the latest one was measured.
    measured: Option<Mono>,
}

impl Heartbeat {
    pub(super) fn new(config: &Config, now: Mono) -> Self {
        Self {
            idle: config.keepalive_idle,
            timeout: config.keepalive_timeout,
            last_input: now,
            probe: None,
            drain: None,
            count: 0,
            rtt: None,
            measured: None,
        }
    }

    /// Smallest recent round trip.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt.map(|(rtt, _)| rtt)
    }

    /// Something came, so the peer lives.
    pub(super) fn input(&mut self, now: Mono) {
        self.last_input = now;
    }

    /// A PING that measures the round trip, unless one is on its way or was a moment ago.
    pub(super) fn probe(&mut self, now: Mono) -> Option<[u8; 8]> {
        let fresh = self
            .measured
            .is_some_and(|at| now.since(at) < PROBE_INTERVAL);
        if self.probe.is_some() || fresh {
            return None;
        }
        let payload = self.payload(PROBE);
        self.probe = Some(Outstanding { payload, sent: now });
        Some(payload)
    }

    /// A PING whose answer ends the first part of a drain.
    pub(super) fn drain_ping(&mut self) -> [u8; 8] {
        let payload = self.payload(DRAIN);
        self.drain = Some(payload);
        payload
    }

    fn payload(&mut self, purpose: u8) -> [u8; 8] {
        self.count = self.count.wrapping_add(1);
        let [a, b, c, d] = self.count.to_be_bytes();
        [purpose, 0, 0, 0, a, b, c, d]
    }

    /// An answer came; says whether it was the drain's.
    pub(super) fn pong(&mut self, payload: [u8; 8], now: Mono) -> bool {
        if let Some(probe) = self.probe
            && probe.payload == payload
        {
            self.probe = None;
            let rtt = now.since(probe.sent);
            self.measured = Some(now);
            let smaller = self
                .rtt
                .is_some_and(|(old, at)| old < rtt && now.since(at) < RTT_MEMORY);
            if !smaller {
                self.rtt = Some((rtt, now));
            }
        }
        self.drain.take_if(|drain| *drain == payload).is_some()
    }

    /// When `due` has something to say, if nothing comes before.
    pub(super) fn deadline(&self) -> Mono {
        match self.probe {
            Some(probe) => self.last_input.max(probe.sent).plus(self.timeout),
            None => self.last_input.plus(self.idle),
        }
    }

    pub(super) fn due(&mut self, now: Mono) -> Due {
        if now < self.deadline() {
            return Due::Nothing;
        }
        if self.probe.is_some() {
            return Due::Dead;
        }
        let payload = self.payload(PROBE);
        self.probe = Some(Outstanding { payload, sent: now });
        Due::Ping(payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono(Duration::from_secs(seconds))
    }

    #[test]
    fn silence_is_asked_about_and_then_ends_the_connection() {
        let mut heart = Heartbeat::new(&Config::default(), at(0));
        assert_eq!(heart.deadline(), at(10));
        assert_eq!(heart.due(at(9)), Due::Nothing);
        assert!(matches!(heart.due(at(10)), Due::Ping(_)));
        assert_eq!(heart.due(at(29)), Due::Nothing);
        assert_eq!(heart.due(at(30)), Due::Dead);
    }

    #[test]
    fn anything_that_comes_is_a_sign_of_life() {
        let mut heart = Heartbeat::new(&Config::default(), at(0));
        let Due::Ping(payload) = heart.due(at(10)) else {
            panic!("no ping")
        };
        heart.input(at(25));
        assert_eq!(heart.due(at(44)), Due::Nothing);
        heart.input(at(44));
        assert!(!heart.pong(payload, at(44)));
        assert_eq!(heart.rtt(), Some(Duration::from_secs(34)));
        assert_eq!(heart.deadline(), at(54));
    }

    #[test]
    fn the_smallest_recent_round_trip_counts() {
        let mut heart = Heartbeat::new(&Config::default(), at(0));
        let mut measure = |sent: u64, took: u64| {
            let ping = heart.probe(at(sent)).unwrap();
            heart.pong(ping, at(sent + took));
            heart.rtt().unwrap().as_secs()
        };
        assert_eq!(measure(0, 2), 2);
        assert_eq!(measure(5, 4), 2);
        assert_eq!(measure(20, 1), 1);
        assert_eq!(measure(50, 5), 5);
    }

    #[test]
    fn a_drain_waits_for_its_own_answer() {
        let mut heart = Heartbeat::new(&Config::default(), at(0));
        let probe = heart.probe(at(0)).unwrap();
        let drain = heart.drain_ping();
        assert!(!heart.pong(probe, at(1)));
        assert!(heart.pong(drain, at(1)));
        assert!(!heart.pong(drain, at(2)));
    }
}
