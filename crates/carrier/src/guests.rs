//! The tunnels that peers made to the pods of one worker: how many each peer and each pod has, and
//! which has to go for another. Knows no TLS and no socket.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::rc::Rc;

use hbone::Mono;
use mesh::Identity;

use crate::limits::{LEAVING_SHARE, Limit, Limits, Reached};
use crate::tunnel::Tunnel;
use crate::tunnel::key::PodUid;

/// What must be known of a tunnel here.
pub trait Visit {
    /// Since when it has been without a stream; None while it has one.
    fn idle_since(&self) -> Option<Mono>;

    /// Asks it to take no more streams and to end.
    fn leave(self: &Rc<Self>);
}

impl Visit for Tunnel {
    fn idle_since(&self) -> Option<Mono> {
        Self::idle_since(self)
    }

    fn leave(self: &Rc<Self>) {
        self.drain();
    }
}

struct Guest<T> {
    pod: PodUid,
    peer: Identity,
    tunnel: Rc<T>,
    is_leaving: Cell<bool>,
}

/// The tunnels.
pub struct Guests<T> {
    limits: Limits,
    all: RefCell<Vec<Guest<T>>>,
    of_pod: RefCell<HashMap<PodUid, usize>>,
    of_peer: RefCell<HashMap<Identity, usize>>,
}

impl<T: Visit> Guests<T> {
    /// None yet.
    pub fn new(limits: &Limits) -> Self {
        Self {
            limits: *limits,
            all: RefCell::default(),
            of_pod: RefCell::default(),
            of_peer: RefCell::default(),
        }
    }

    /// Takes a tunnel in. Where a limit is reached, one that has no stream is asked to leave for
    /// it; gives the limits for which that was done.
    ///
    /// # Errors
    /// The limit for which none could leave.
    pub fn admit(
        &self,
        pod: &PodUid,
        peer: &Identity,
        tunnel: &Rc<T>,
    ) -> Result<Vec<Limit>, Reached> {
        let count = |map: &HashMap<_, usize>| map.get(peer).copied().unwrap_or(0);
        let of_peer = count(&self.of_peer.borrow());
        let of_pod = self.of_pod.borrow().get(pod).copied().unwrap_or(0);
        let checks = [
            (
                Limit::InboundTunnelsPerPeer,
                of_peer,
                self.limits.inbound_tunnels_per_peer,
            ),
            (
                Limit::InboundTunnelsPerPod,
                of_pod,
                self.limits.inbound_tunnels_per_pod,
            ),
            (
                Limit::InboundTunnelsPerWorker,
                self.len(),
                self.limits.inbound_tunnels_per_worker,
            ),
        ];
        let mut evicted = Vec::new();
        for (limit, count, most) in checks.into_iter().filter(|(_, n, most)| n >= most) {
            let concerns = |guest: &Guest<T>| match limit {
                Limit::InboundTunnelsPerPeer => guest.peer == *peer,
                Limit::InboundTunnelsPerPod => guest.pod == *pod,
                _ => true,
            };
            // Those that were asked and do not leave count too.
            let too_many = count >= most + (most / LEAVING_SHARE).max(1);
            let victim = if too_many {
                None
            } else {
                self.idlest(concerns)
            };
            victim.ok_or_else(|| Reached::refused(limit))?.leave();
            evicted.push(limit);
        }
        self.all.borrow_mut().push(Guest {
            pod: pod.clone(),
            peer: peer.clone(),
            tunnel: Rc::clone(tunnel),
            is_leaving: Cell::new(false),
        });
        *self.of_pod.borrow_mut().entry(pod.clone()).or_default() += 1;
        *self.of_peer.borrow_mut().entry(peer.clone()).or_default() += 1;
        Ok(evicted)
    }

    /// The idle tunnel that is missed the least: of the peer that has the most, the one that has
    /// been idle for longest. It counts as leaving from now on.
    fn idlest(&self, concerns: impl Fn(&Guest<T>) -> bool) -> Option<Rc<T>> {
        let all = self.all.borrow();
        let of_peer = self.of_peer.borrow();
        let stays = |guest: &&Guest<T>| !guest.is_leaving.get() && concerns(guest);
        let idle = all.iter().filter(stays).filter_map(|guest| {
            let since = guest.tunnel.idle_since()?;
            let has = of_peer.get(&guest.peer).copied().unwrap_or(0);
            Some(((has, Reverse(since)), guest))
        });
        let (_, victim) = idle.max_by_key(|(rank, _)| *rank)?;
        victim.is_leaving.set(true);
        Some(Rc::clone(&victim.tunnel))
    }

    /// It is over. One that was not admitted is not here.
    pub fn remove(&self, tunnel: &Rc<T>) {
        let gone = {
            let mut all = self.all.borrow_mut();
            let place = all.iter().position(|g| Rc::ptr_eq(&g.tunnel, tunnel));
            place.map(|place| all.swap_remove(place))
        };
        let Some(gone) = gone else { return };
        forget(&mut self.of_pod.borrow_mut(), &gone.pod);
        forget(&mut self.of_peer.borrow_mut(), &gone.peer);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.all.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn forget<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Idle since so many seconds after the start, or busy.
    struct Fake(Cell<Option<u64>>, Cell<bool>);

    impl Visit for Fake {
        fn idle_since(&self) -> Option<Mono> {
            self.0.get().map(|at| Mono(Duration::from_secs(at)))
        }

        fn leave(self: &Rc<Self>) {
            self.1.set(true);
        }
    }

    fn fake(idle: Option<u64>) -> Rc<Fake> {
        Rc::new(Fake(Cell::new(idle), Cell::new(false)))
    }

    fn pod(name: &str) -> PodUid {
        PodUid(name.into())
    }

    fn peer(name: &str) -> Identity {
        Identity::new("cluster.local", "shop", name).unwrap()
    }

    fn guests(worker: usize, pod: usize, peer: usize) -> Guests<Fake> {
        Guests::new(&Limits {
            inbound_tunnels_per_worker: worker,
            inbound_tunnels_per_pod: pod,
            inbound_tunnels_per_peer: peer,
            ..Limits::default()
        })
    }

    #[test]
    fn a_peer_past_its_limit_loses_its_longest_idle_tunnel_and_others_lose_none() {
        let guests = guests(100, 100, 3);
        let other = fake(Some(0));
        guests.admit(&pod("a"), &peer("other"), &other).unwrap();
        let busy = fake(None);
        let (old, young) = (fake(Some(1)), fake(Some(2)));
        for tunnel in [&busy, &young, &old] {
            guests.admit(&pod("a"), &peer("greedy"), tunnel).unwrap();
        }
        let evicted = guests.admit(&pod("b"), &peer("greedy"), &fake(None));
        assert_eq!(evicted, Ok(vec![Limit::InboundTunnelsPerPeer]));
        let left = [&busy, &old, &young, &other].map(|it| it.1.get());
        assert_eq!(left, [false, true, false, false]);
    }

    #[test]
    fn where_all_are_busy_the_new_one_is_refused() {
        let guests = guests(100, 2, 100);
        for name in ["one", "two"] {
            guests.admit(&pod("a"), &peer(name), &fake(None)).unwrap();
        }
        let refused = guests.admit(&pod("a"), &peer("three"), &fake(None));
        assert_eq!(refused, Err(Reached::refused(Limit::InboundTunnelsPerPod)));
        assert!(guests.admit(&pod("b"), &peer("three"), &fake(None)).is_ok());
    }

    #[test]
    fn past_the_worker_the_peer_with_the_most_makes_room() {
        let guests = guests(3, 100, 100);
        let honest = fake(Some(0));
        guests.admit(&pod("a"), &peer("honest"), &honest).unwrap();
        let greedy = [fake(Some(5)), fake(Some(6))];
        for tunnel in &greedy {
            guests.admit(&pod("a"), &peer("greedy"), tunnel).unwrap();
        }
        guests.admit(&pod("a"), &peer("new"), &fake(None)).unwrap();
        assert!(!honest.1.get() && greedy[0].1.get() && !greedy[1].1.get());
    }

    #[test]
    fn those_that_do_not_leave_bound_what_comes() {
        let guests = guests(100, 100, 2);
        let idle: Vec<_> = (0..5).map(|at| fake(Some(at))).collect();
        let admitted = idle.iter().filter(|tunnel| {
            let asked = guests.admit(&pod("a"), &peer("stubborn"), tunnel);
            asked.is_ok()
        });
        assert_eq!(
            admitted.count(),
            3,
            "the limit, and one for the one that leaves"
        );
        guests.remove(&idle[0]);
        assert!(guests.admit(&pod("a"), &peer("stubborn"), &idle[4]).is_ok());
    }

    #[test]
    fn what_is_over_is_forgotten_whole() {
        let guests = guests(1, 1, 1);
        for _ in 0..10 {
            let tunnel = fake(None);
            guests.admit(&pod("a"), &peer("p"), &tunnel).unwrap();
            guests.remove(&tunnel);
        }
        assert!(guests.is_empty() && guests.of_pod.borrow().is_empty());
        assert!(guests.of_peer.borrow().is_empty());
    }
}
