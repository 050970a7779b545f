//! Connections that have not shown a token yet: few, and for a short time only.
//!
//! Past a bound the oldest makes room, of the same address or of the one that has the most, so that
//! nobody who cannot prove anything keeps out those who can. A node shows its token within
//! milliseconds and is no stranger any more. Knows no TLS and no service.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use process::crowd::{Crowd, Place};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::metrics::{Metrics, ResultLabel};

/// Strangers of one address: a node's proxy and agent make a few connections; several nodes may
/// share an address behind a translation.
pub const STRANGERS_PER_ADDRESS: usize = 64;

/// Strangers altogether: a quarter of the connections that are served.
pub const STRANGERS: usize = 1024;

/// How long a connection may go without an authenticated call, from its handshake on.
pub const FIRST_CALL_WITHIN: Duration = Duration::from_secs(10);

/// All of them. Clones share them.
#[derive(Clone)]
pub struct Strangers {
    crowd: Arc<Mutex<Crowd<CancellationToken>>>,
    metrics: Arc<Metrics>,
}

/// Whether one connection has shown a token; clones are of the same connection.
#[derive(Clone)]
pub struct Standing(Arc<Inner>);

struct Inner {
    strangers: Strangers,
    place: Place,
    evicted: CancellationToken,
    is_known: AtomicBool,
}

impl Strangers {
    /// None yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            crowd: Arc::default(),
            metrics,
        }
    }

    /// One more, from that address. Another one may have to go.
    pub fn admit(&self, from: IpAddr) -> Standing {
        let evicted = CancellationToken::new();
        let (place, victim) = {
            let mut crowd = self.crowd();
            let victim = if crowd.of(from) >= STRANGERS_PER_ADDRESS {
                crowd.take_oldest_of(from)
            } else if crowd.len() >= STRANGERS {
                crowd.take_oldest()
            } else {
                None
            };
            (crowd.insert(from, evicted.clone()), victim)
        };
        if let Some(victim) = victim {
            victim.cancel();
            self.count("made_room");
        }
        Standing(Arc::new(Inner {
            strangers: self.clone(),
            place,
            evicted,
            is_known: AtomicBool::new(false),
        }))
    }

    /// Counts a stranger that was sent away.
    pub fn count(&self, result: &'static str) {
        let label = ResultLabel { result };
        self.metrics.strangers.get_or_create(&label).inc();
    }

    fn crowd(&self) -> MutexGuard<'_, Crowd<CancellationToken>> {
        self.crowd.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Standing {
    /// It has shown a valid token.
    pub fn prove(&self) {
        if !self.0.is_known.swap(true, Ordering::AcqRel) {
            self.0.strangers.crowd().take(self.0.place);
        }
    }

    /// Whether it has.
    pub fn is_known(&self) -> bool {
        self.0.is_known.load(Ordering::Acquire)
    }

    /// Ends when it must make room.
    pub fn evicted(&self) -> WaitForCancellationFutureOwned {
        self.0.evicted.clone().cancelled_owned()
    }

    /// Counts what becomes of it.
    pub fn count(&self, result: &'static str) {
        self.0.strangers.count(result);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Gone already when it is known, or had to make room.
        self.strangers.crowd().take(self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_evicted(standing: &Standing) -> bool {
        standing.0.evicted.is_cancelled()
    }

    fn address(n: usize) -> IpAddr {
        [10, 0, (n >> 8) as u8, n as u8].into()
    }

    #[test]
    fn past_its_share_an_address_loses_its_oldest_and_the_known_do_not_count() {
        let strangers = Strangers::new(Arc::default());
        let known = strangers.admit(address(1));
        known.prove();
        let kept: Vec<_> = (0..=STRANGERS_PER_ADDRESS)
            .map(|_| strangers.admit(address(1)))
            .collect();
        let evicted: Vec<_> = kept.iter().map(is_evicted).collect();
        assert!(evicted[0] && !evicted[1..].contains(&true));
        assert!(!is_evicted(&known));
        drop((kept, known));
        assert!(strangers.crowd().is_empty());
    }

    #[test]
    fn past_all_the_greediest_loses_and_a_newcomer_is_always_let_in() {
        let strangers = Strangers::new(Arc::default());
        let lone = strangers.admit(address(0));
        let many: Vec<_> = (1..STRANGERS)
            .map(|n| strangers.admit(address(1 + n % 32)))
            .collect();
        assert_eq!(strangers.crowd().len(), STRANGERS);
        let newcomer = strangers.admit(address(500));
        assert!(!is_evicted(&lone) && !is_evicted(&newcomer));
        assert_eq!(many.iter().filter(|one| is_evicted(one)).count(), 1);
        assert_eq!(strangers.crowd().len(), STRANGERS);
    }
}
