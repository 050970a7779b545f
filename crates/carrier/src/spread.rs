//! Which worker of a process serves what was accepted: decided by counts, not by who woke first.
//!
//! All workers wait for the same listening sockets, and who wakes first accepts. It then gives the
//! connection to the worker that has the fewest, and counts it there at once, so that a burst is
//! spread evenly whoever takes it out of the queue. Knows no socket and no thread: the counts are
//! shared atomics, and how a connection gets to its worker is its owner's business.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::limits::SPREAD_SLACK;
use crate::tunnel::key::PodUid;

/// What is counted, each kind by itself: a tunnel carries hundreds of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A connection, captured or in a tunnel.
    Connection,
    /// A tunnel that a peer made.
    Tunnel,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Tunnel => "tunnel",
        }
    }
}

/// A worker, and what it has of one kind.
#[derive(Clone, Copy, Debug)]
struct Load {
    worker: usize,
    /// Of the pod in question.
    of_pod: u32,
    /// Of all pods.
    in_all: i64,
}

/// Labels of a worker's gauge.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WorkerLabels {
    worker: u32,
    kind: &'static str,
}

/// What each worker has open now, as metrics show it.
pub type OpenGauges = Family<WorkerLabels, Gauge>;

/// What one worker has in all.
struct Totals {
    connections: Gauge,
    tunnels: Gauge,
}

impl Totals {
    fn of(&self, kind: Kind) -> &Gauge {
        match kind {
            Kind::Connection => &self.connections,
            Kind::Tunnel => &self.tunnels,
        }
    }
}

/// What all workers of a process have. One for a process.
pub struct Spread {
    totals: Arc<[Totals]>,
    /// Locked when a worker takes up a pod, and never for a connection.
    pods: Mutex<HashMap<PodUid, Weak<Loads>>>,
}

impl Spread {
    /// Of so many workers, whose totals show in `gauges`.
    #[must_use]
    pub fn new(workers: usize, gauges: &OpenGauges) -> Arc<Self> {
        let gauge = |worker, kind: Kind| {
            let kind = kind.name();
            gauges.get_or_create_owned(&WorkerLabels { worker, kind })
        };
        let workers = u32::try_from(workers).expect("fewer workers than four billion");
        let totals = (0..workers).map(|worker| Totals {
            connections: gauge(worker, Kind::Connection),
            tunnels: gauge(worker, Kind::Tunnel),
        });
        Arc::new(Self {
            totals: totals.collect(),
            pods: Mutex::default(),
        })
    }

    /// What the workers have of a pod: the same counts for all who ask while anybody keeps them.
    #[must_use]
    pub fn pod(&self, uid: &PodUid) -> Arc<Loads> {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loads) = pods.get(uid).and_then(Weak::upgrade) {
            return loads;
        }
        pods.retain(|_, loads| loads.strong_count() > 0);
        let loads = Arc::new(Loads {
            workers: self.totals.iter().map(|_| OfWorker::default()).collect(),
            totals: Arc::clone(&self.totals),
        });
        pods.insert(uid.clone(), Arc::downgrade(&loads));
        loads
    }
}

/// What one worker has of a pod.
#[derive(Default)]
struct OfWorker {
    serves: AtomicBool,
    connections: AtomicU32,
    tunnels: AtomicU32,
}

impl OfWorker {
    fn of(&self, kind: Kind) -> &AtomicU32 {
        match kind {
            Kind::Connection => &self.connections,
            Kind::Tunnel => &self.tunnels,
        }
    }
}

/// What each worker has of one pod.
pub struct Loads {
    workers: Box<[OfWorker]>,
    totals: Arc<[Totals]>,
}

impl Loads {
    /// Whether a worker takes connections of the pod that others have accepted.
    pub fn set_serves(&self, worker: usize, serves: bool) {
        self.workers[worker].serves.store(serves, Relaxed);
    }

    /// One more of a kind on that worker.
    pub fn enter(&self, worker: usize, kind: Kind) {
        self.workers[worker].of(kind).fetch_add(1, Relaxed);
        self.totals[worker].of(kind).inc();
    }

    /// One less of a kind on that worker.
    pub fn leave(&self, worker: usize, kind: Kind) {
        self.workers[worker].of(kind).fetch_sub(1, Relaxed);
        self.totals[worker].of(kind).dec();
    }

    /// A place for what `own` has just accepted, on the worker that shall serve it.
    #[must_use]
    pub fn seat(self: &Arc<Self>, own: usize, kind: Kind) -> Seat {
        let others = (0..self.workers.len()).filter(|worker| {
            let serves = &self.workers[*worker].serves;
            *worker != own && serves.load(Relaxed)
        });
        let others = others.map(|worker| self.load(worker, kind));
        self.seat_on(choose(self.load(own, kind), others), kind)
    }

    fn load(&self, worker: usize, kind: Kind) -> Load {
        Load {
            worker,
            of_pod: self.workers[worker].of(kind).load(Relaxed),
            in_all: self.totals[worker].of(kind).get(),
        }
    }

    /// A place on that very worker.
    #[must_use]
    pub fn seat_on(self: &Arc<Self>, worker: usize, kind: Kind) -> Seat {
        self.enter(worker, kind);
        Seat {
            loads: Arc::clone(self),
            worker: u32::try_from(worker).expect("fewer workers than four billion"),
            kind,
        }
    }
}

/// A connection or tunnel that counts on its worker as long as this lives.
pub struct Seat {
    loads: Arc<Loads>,
    worker: u32,
    kind: Kind,
}

impl Seat {
    /// Whose it is.
    #[must_use]
    pub fn worker(&self) -> usize {
        self.worker as usize
    }

    /// On another worker.
    #[must_use]
    pub fn moved(self, to: usize) -> Self {
        self.loads.seat_on(to, self.kind)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.loads.leave(self.worker(), self.kind);
    }
}

/// The worker that shall serve what `own` has accepted: the one that has the fewest of the pod, and
/// of those the fewest in all. `own` keeps what no other would be better for.
fn choose(own: Load, others: impl Iterator<Item = Load>) -> usize {
    let order = |load: &Load| (load.of_pod, load.in_all);
    let least = others.fold(own, |least, load| {
        if order(&load) < order(&least) {
            load
        } else {
            least
        }
    });
    let has_more = own.of_pod > least.of_pod || own.in_all > least.in_all + SPREAD_SLACK;
    if has_more { least.worker } else { own.worker }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spread: &Spread, name: &str) -> Arc<Loads> {
        spread.pod(&PodUid(name.into()))
    }

    /// A pod that all of so many workers serve.
    fn served(workers: usize) -> (Arc<Spread>, Arc<Loads>) {
        let spread = Spread::new(workers, &OpenGauges::default());
        let loads = pod(&spread, "web");
        (0..workers).for_each(|worker| loads.set_serves(worker, true));
        (spread, loads)
    }

    /// How many of `seats` each worker has.
    fn each(seats: &[Seat], workers: usize) -> Vec<usize> {
        let of = |worker| seats.iter().filter(|seat| seat.worker() == worker).count();
        (0..workers).map(of).collect()
    }

    #[test]
    fn a_burst_is_spread_evenly_whoever_takes_it_out_of_the_queue() {
        for kind in [Kind::Connection, Kind::Tunnel] {
            let (_spread, loads) = served(4);
            for accepts in [[0, 0, 0, 0], [0, 1, 2, 3], [3, 3, 1, 3]] {
                let seats: Vec<_> = (0..1_000)
                    .map(|turn| loads.seat(accepts[turn % 4], kind))
                    .collect();
                assert_eq!(each(&seats, 4), [250; 4], "{kind:?} {accepts:?}");
            }
        }
    }

    #[test]
    fn a_worker_keeps_what_no_other_would_be_better_for() {
        let (_spread, loads) = served(3);
        // One at a time goes nowhere else.
        for own in [0, 2, 1, 1] {
            assert_eq!(loads.seat(own, Kind::Connection).worker(), own);
        }
    }

    #[test]
    fn what_has_ended_makes_room_and_is_filled_first() {
        let (_spread, loads) = served(2);
        let mut seats: Vec<_> = (0..20).map(|_| loads.seat(0, Kind::Connection)).collect();
        seats.retain(|seat| seat.worker() == 1);
        assert_eq!(each(&seats, 2), [0, 10]);
        seats.extend((0..10).map(|_| loads.seat(1, Kind::Connection)));
        assert_eq!(each(&seats, 2), [10, 10]);
    }

    #[test]
    fn tunnels_and_connections_are_counted_apart() {
        let (_spread, loads) = served(2);
        let _connections: Vec<_> = (0..9).map(|_| loads.seat_on(0, Kind::Connection)).collect();
        assert_eq!(loads.seat(0, Kind::Tunnel).worker(), 0);
        assert_eq!(loads.seat(0, Kind::Connection).worker(), 1);
    }

    #[test]
    fn a_worker_that_does_not_serve_the_pod_gets_nothing_of_it() {
        let (_spread, loads) = served(3);
        loads.set_serves(1, false);
        let seats: Vec<_> = (0..10).map(|_| loads.seat(0, Kind::Connection)).collect();
        assert_eq!(each(&seats, 3), [5, 0, 5]);
        // Who accepts serves it, whatever is said of it.
        loads.set_serves(0, false);
        loads.set_serves(2, false);
        assert_eq!(loads.seat(0, Kind::Connection).worker(), 0);
    }

    #[test]
    fn between_equals_of_one_pod_the_load_of_all_pods_decides_past_a_slack() {
        let (spread, loads) = served(2);
        let other = pod(&spread, "api");
        let enter = |count| {
            let seats = (0..count).map(|_| other.seat_on(0, Kind::Connection));
            seats.collect::<Vec<_>>()
        };
        let slack = usize::try_from(SPREAD_SLACK).unwrap();
        let _as_many = enter(slack);
        assert_eq!(loads.seat(0, Kind::Connection).worker(), 0);
        let _one_more = enter(1);
        assert_eq!(loads.seat(0, Kind::Connection).worker(), 1);
        // The pod's own come first.
        let _of_the_pod = loads.seat_on(1, Kind::Connection);
        assert_eq!(loads.seat(0, Kind::Connection).worker(), 0);
    }

    #[test]
    fn gauges_follow_seats_that_move_and_end() {
        let gauges = OpenGauges::default();
        let spread = Spread::new(2, &gauges);
        let shown = |kind: Kind| {
            [0, 1].map(|worker| {
                let kind = kind.name();
                gauges.get_or_create(&WorkerLabels { worker, kind }).get()
            })
        };
        let loads = pod(&spread, "web");
        let (tunnel, connection) = (
            loads.seat_on(0, Kind::Tunnel),
            loads.seat_on(0, Kind::Connection),
        );
        assert_eq!(
            (shown(Kind::Tunnel), shown(Kind::Connection)),
            ([1, 0], [1, 0])
        );
        let tunnel = tunnel.moved(1);
        drop(connection);
        assert_eq!(
            (shown(Kind::Tunnel), shown(Kind::Connection)),
            ([0, 1], [0, 0])
        );
        drop(tunnel);
        assert_eq!(shown(Kind::Tunnel), [0, 0]);
    }

    #[test]
    fn a_pod_that_comes_back_is_counted_on_while_anybody_keeps_it() {
        let spread = Spread::new(1, &OpenGauges::default());
        let first = pod(&spread, "web");
        assert!(Arc::ptr_eq(&first, &pod(&spread, "web")));
        let kept = first.seat(0, Kind::Connection);
        drop(first);
        assert!(Arc::ptr_eq(&kept.loads, &pod(&spread, "web")));
        drop(kept);
        drop(pod(&spread, "api"));
        assert_eq!(spread.pods.lock().unwrap().len(), 1, "nobody keeps `web`");
    }
}
