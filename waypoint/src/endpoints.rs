//! The endpoints that one worker uses: which of them may take what is asked for, and how much each
//! carries. Knows no socket.
//!
//! What a snapshot says of a service is worked out once for each snapshot, and then drawn from. An
//! endpoint stays the same value over snapshots, so that its connections and its load do.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use mesh::Workload;
use mesh::decide::Refusal;
use mesh::decide::waypoint::{Bound, Upstream as Way, UpstreamQuery, upstreams};
use mesh::endpoint::draw_lighter;
use mesh::service::{LoadBalancingMode, ServiceKey};
use mesh::snapshot::Snapshot;
use mesh::workload::{Common, Health, Locality, WorkloadUid};

use crate::http::site::Upstream;

/// Most ways to one port of one workload that are kept: services may differ in the identities that
/// they let it show. The oldest goes.
const WAYS: usize = 8;

/// Endpoints, and lists of them, that are kept though nothing uses them: clients choose the ports
/// of workloads and the addresses in a service's ranges, so that discovery does not bound them.
/// Some 500 bytes each.
const KEPT_MOST: usize = 8_192;

/// One port of one workload.
pub struct Endpoint {
    /// Its requests and the connections that are kept for them.
    pub upstream: Rc<Upstream>,
    /// How it is reached.
    pub way: Way,
    /// Connections that are passed on as they are.
    streams: Cell<u32>,
}

/// A connection that an endpoint carries, while this lives.
pub struct Carried(Rc<Endpoint>);

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}

impl Endpoint {
    /// The workload, as it was when the endpoint was first used.
    pub fn workload(&self) -> &Arc<Workload> {
        self.upstream.workload()
    }

    /// Counts one more connection.
    pub fn carry(self: &Rc<Self>) -> Carried {
        self.streams.set(self.streams.get() + 1);
        Carried(Rc::clone(self))
    }

    /// Requests and connections that it carries for this worker.
    fn load(&self) -> u32 {
        self.upstream.load() + self.streams.get()
    }

    fn weight(&self) -> u32 {
        self.workload().capacity
    }

    /// Whether it carries something, or keeps a connection.
    fn is_used(&self) -> bool {
        self.load() > 0 || self.upstream.kept() > 0
    }
}

/// What is drawn from for one thing that is asked for.
#[derive(PartialEq, Eq, Hash)]
enum ListKey {
    /// The address is kept; or there is none.
    Service(ServiceKey, u16, Option<IpAddr>),
    /// Of any address of that family: whether it is IPv6.
    Family(ServiceKey, u16, bool),
    Workload(WorkloadUid, SocketAddr),
}

impl ListKey {
    fn of(bound: &Bound) -> Self {
        match bound {
            Bound::Service {
                service,
                port,
                address,
            } => {
                let keeps = service.load_balancing.mode == LoadBalancingMode::Passthrough;
                let key = service.key.clone();
                match address {
                    Some(address) if !keeps => Self::Family(key, *port, address.is_ipv6()),
                    address => Self::Service(key, *port, *address),
                }
            }
            Bound::Workload { workload, address } => Self::Workload(workload.uid.clone(), *address),
        }
    }
}

/// One port of one workload, as different services lead to it.
type Ways = Vec<Rc<Endpoint>>;

/// Endpoints of equal rank.
type List = Rc<[Rc<Endpoint>]>;

/// What is known when an endpoint is chosen.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// The mesh.
    pub snapshot: &'a Snapshot,
    /// The waypoint in it.
    pub own: &'a Workload,
}

/// What an endpoint is chosen for.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// What is asked for.
    pub bound: &'a Bound,
    /// Which endpoints could not be reached.
    pub tried: &'a dyn Fn(&Endpoint) -> bool,
    /// The endpoint of this session, if it may be chosen at all.
    pub prefer: Option<u64>,
}

/// All endpoints of one worker.
#[derive(Default)]
pub struct Endpoints {
    /// Of the snapshot that was last seen.
    lists: RefCell<HashMap<ListKey, List>>,
    kept: RefCell<HashMap<(WorkloadUid, u16), Ways>>,
    /// How many were in use when others had to go; twice as many are kept before it is done again.
    used_then: Cell<usize>,
}

impl Endpoints {
    /// A new snapshot: what it says no more is let go, and its idle connections with it.
    pub fn renew(&self, snapshot: &Snapshot) {
        self.lists.borrow_mut().clear();
        let is_there = |endpoint: &Rc<Endpoint>| {
            let Some(before) = &endpoint.way.workload else {
                return endpoint.is_used();
            };
            let now = snapshot.workload(&before.uid);
            now.is_some_and(|now| {
                let same = Arc::ptr_eq(now, before) || now.common == before.common;
                same && now.has_address(endpoint.way.address.ip())
            })
        };
        self.kept.borrow_mut().retain(|_, ways| {
            ways.retain(is_there);
            !ways.is_empty()
        });
    }

    /// Lets go of what nothing uses when there is too much of it.
    fn make_room(&self) {
        let most = KEPT_MOST.max(2 * self.used_then.get());
        let mut kept = self.kept.borrow_mut();
        if kept.len() < most && self.lists.borrow().len() < most {
            return;
        }
        self.lists.borrow_mut().clear();
        kept.retain(|_, ways| {
            ways.retain(|endpoint| endpoint.is_used());
            !ways.is_empty()
        });
        self.used_then.set(kept.len());
    }

    /// Of two that are drawn, the endpoint that carries less; or that of the session.
    ///
    /// # Errors
    /// There is none.
    pub fn choose(
        &self,
        ground: Ground<'_>,
        wanted: Wanted<'_>,
        entropy: &mut dyn FnMut() -> u64,
    ) -> Result<Rc<Endpoint>, Refusal> {
        let Wanted {
            bound,
            tried,
            prefer,
        } = wanted;
        self.make_room();
        let list = self.list(ground, bound)?;
        if let [only] = &*list
            && !tried(only)
        {
            return Ok(Rc::clone(only));
        }
        if let Some(token) = prefer {
            let mut all = list.iter().filter(|endpoint| !tried(endpoint));
            if let Some(known) = all.find(|endpoint| endpoint.upstream.token() == token) {
                return Ok(Rc::clone(known));
            }
        }
        let weight = |endpoint: &Rc<Endpoint>| match tried(endpoint) {
            true => 0,
            false => endpoint.weight(),
        };
        let drawn = draw_lighter(&list, weight, |endpoint| endpoint.load(), entropy);
        if let Some(drawn) = drawn {
            return Ok(Rc::clone(drawn));
        }
        // All of the best rank were tried: those of the next.
        let uids: Vec<_> = list.iter().map(|one| one.workload().uid.clone()).collect();
        let query = UpstreamQuery {
            own: ground.own,
            target: bound,
            tried: &uids,
        };
        let next = self.make(ground.snapshot, &query)?;
        let drawn = draw_lighter(&next, weight, |endpoint| endpoint.load(), entropy);
        // Those of an address that is kept, or of a workload, come back though they were tried.
        drawn.map(Rc::clone).ok_or_else(|| none_left(bound, &uids))
    }

    /// The endpoint with that part for HTTP; None when it is gone.
    pub fn with(&self, upstream: &Rc<Upstream>) -> Option<Rc<Endpoint>> {
        let key = (upstream.workload().uid.clone(), upstream.port());
        let kept = self.kept.borrow();
        let mut ways = kept.get(&key)?.iter();
        let found = ways.find(|endpoint| Rc::ptr_eq(&endpoint.upstream, upstream));
        found.map(Rc::clone)
    }

    fn list(&self, ground: Ground<'_>, bound: &Bound) -> Result<List, Refusal> {
        let key = ListKey::of(bound);
        if let Some(list) = self.lists.borrow().get(&key) {
            return Ok(Rc::clone(list));
        }
        let query = UpstreamQuery {
            own: ground.own,
            target: bound,
            tried: &[],
        };
        let list = self.make(ground.snapshot, &query)?;
        self.lists.borrow_mut().insert(key, Rc::clone(&list));
        Ok(list)
    }

    fn make(&self, snapshot: &Snapshot, query: &UpstreamQuery<'_>) -> Result<List, Refusal> {
        let ways = upstreams(snapshot, query)?;
        Ok(ways.into_iter().map(|way| self.keep(way)).collect())
    }

    fn keep(&self, way: Way) -> Rc<Endpoint> {
        let workload = way.workload.clone();
        let workload = workload.unwrap_or_else(|| outside(way.address.ip()));
        let port = way.address.port();
        let mut kept = self.kept.borrow_mut();
        let ways = kept.entry((workload.uid.clone(), port)).or_default();
        let same = |known: &&Rc<Endpoint>| {
            known.way.route == way.route && known.workload().common == workload.common
        };
        if let Some(known) = ways.iter().find(same) {
            return Rc::clone(known);
        }
        if ways.len() >= WAYS {
            ways.remove(0);
        }
        let made = Rc::new(Endpoint {
            upstream: Upstream::new(workload, port),
            way,
            streams: Cell::new(0),
        });
        ways.push(Rc::clone(&made));
        made
    }
}

fn none_left(bound: &Bound, tried: &[WorkloadUid]) -> Refusal {
    let service = match bound {
        Bound::Service { service, .. } => service.key.clone(),
        Bound::Workload { workload, .. } => ServiceKey {
            namespace: Arc::clone(&workload.namespace),
            hostname: Arc::clone(&workload.name),
        },
    };
    let why = mesh::endpoint::NoEndpoint {
        known: tried.len(),
        tried: tried.len(),
        ..mesh::endpoint::NoEndpoint::default()
    };
    Refusal::NoEndpoint { service, why }
}

/// Stands for an address outside of the mesh.
fn outside(ip: IpAddr) -> Arc<Workload> {
    let name: Arc<str> = ip.to_string().into();
    let nothing: Arc<str> = "".into();
    Arc::new(Workload {
        uid: WorkloadUid(format!("outside/{ip}").into()),
        name: Arc::clone(&name),
        addresses: vec![ip].into(),
        node: Arc::clone(&nothing),
        health: Health::Healthy,
        common: Arc::new(Common {
            namespace: Arc::clone(&nothing),
            hostname: Arc::clone(&nothing),
            network: Arc::clone(&nothing),
            tunnel: mesh::workload::TunnelProtocol::None,
            trust_domain: Arc::clone(&nothing),
            service_account: Arc::clone(&nothing),
            waypoint: None,
            network_gateway: None,
            canonical_name: Arc::clone(&nothing),
            canonical_revision: Arc::clone(&nothing),
            kind: mesh::workload::WorkloadKind::Pod,
            workload_name: nothing.clone(),
            native_tunnel: false,
            application_tunnel: None,
            services: BTreeMap::new(),
            policies: Vec::new(),
            cluster: nothing,
            locality: Locality::default(),
            network_mode: mesh::workload::NetworkMode::Standard,
            capacity: 1,
            derived: Default::default(),
        }),
    })
}

#[cfg(test)]
mod tests;
