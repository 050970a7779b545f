//! Which endpoint is chosen, and what is kept of those that were.

use mesh::NetworkCidr;
use mesh::service::{
    GatewayAddress, GatewayDestination, LoadBalancing, LocalityScope, PortMapping, Service,
};

use super::*;

fn key(name: &str) -> ServiceKey {
    ServiceKey {
        namespace: "shop".into(),
        hostname: name.into(),
    }
}

fn service(name: &str, range: (&str, u8)) -> Service {
    let waypoint = GatewayDestination::Hostname(key("waypoint"));
    let range = NetworkCidr::new("", range.0.parse().unwrap(), range.1);
    Service {
        key: key(name),
        name: name.into(),
        addresses: vec![range.unwrap()],
        ports: vec![PortMapping {
            service_port: 80,
            target_port: 8080,
            protocol: mesh::service::AppProtocol::Http11,
        }],
        subject_alt_names: vec![],
        waypoint: Some(GatewayAddress {
            destination: waypoint,
            hbone_mtls_port: 15008,
        }),
        weighted_waypoints: vec![],
        load_balancing: LoadBalancing::default(),
        ip_families: mesh::service::IpFamilies::Automatic,
        canonical: false,
        ingress_use_waypoint: false,
        visibility: mesh::service::Visibility::Public,
    }
}

fn pod(name: &str, addresses: &[&str], zone: &str) -> Workload {
    let ip = addresses[0].parse().unwrap();
    let mut pod = Workload::clone(&outside(ip));
    pod.uid = WorkloadUid(name.into());
    pod.name = name.into();
    pod.addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    let common = Arc::make_mut(&mut pod.common);
    common.locality.zone = zone.into();
    common.services = BTreeMap::from([(key("web"), vec![])]);
    pod
}

/// `web` of three pods, the waypoint in zone a.
struct Bed {
    snapshot: Snapshot,
    endpoints: Endpoints,
    state: Cell<u64>,
}

impl Bed {
    fn new(pods: impl IntoIterator<Item = Workload>) -> Self {
        let mut snapshot = Snapshot::new();
        let mut own = pod("waypoint", &["10.0.0.9", "fd00::9"], "a");
        Arc::make_mut(&mut own.common).services = BTreeMap::new();
        snapshot.insert_workload(own);
        for pod in pods {
            snapshot.insert_workload(pod);
        }
        snapshot.insert_service(service("web", ("10.96.0.1", 32)));
        snapshot.set_addresses_synced();
        Self {
            snapshot,
            endpoints: Endpoints::default(),
            state: Cell::new(1),
        }
    }

    /// Changes the service `web`.
    fn web(&mut self, change: impl FnOnce(&mut Service)) {
        let mut web = service("web", ("10.96.0.1", 32));
        change(&mut web);
        self.snapshot.insert_service(web);
        self.endpoints.renew(&self.snapshot);
    }

    fn bound(&self, address: Option<&str>) -> Bound {
        Bound::Service {
            service: Arc::clone(self.snapshot.service(&key("web")).unwrap()),
            port: 80,
            address: address.map(|ip| ip.parse().unwrap()),
        }
    }

    fn choose_of(&self, bound: &Bound, tried: &[&Rc<Endpoint>]) -> Result<Rc<Endpoint>, Refusal> {
        let ground = Ground {
            snapshot: &self.snapshot,
            own: self
                .snapshot
                .workload(&WorkloadUid("waypoint".into()))
                .unwrap(),
        };
        let wanted = Wanted {
            bound,
            tried: &|one| tried.iter().any(|known| std::ptr::eq(&***known, one)),
            prefer: None,
        };
        // SplitMix64.
        let mut entropy = || {
            self.state
                .set(self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15));
            let mixed = self.state.get();
            let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        self.endpoints.choose(ground, wanted, &mut entropy)
    }

    fn choose(&self) -> Rc<Endpoint> {
        self.choose_of(&self.bound(None), &[]).unwrap()
    }

    /// How many of so many that stay each endpoint gets.
    fn spread(&self, count: usize) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        let mut carried = Vec::new();
        for _ in 0..count {
            let chosen = self.choose();
            *found.entry(chosen.workload().name.to_string()).or_default() += 1;
            carried.push(chosen.carry());
        }
        found
    }
}

fn three() -> [Workload; 3] {
    [
        pod("near", &["10.0.0.1", "fd00::1"], "a"),
        pod("far", &["10.0.0.2", "fd00::2"], "b"),
        pod("other", &["10.0.0.3", "fd00::3"], "b"),
    ]
}

#[test]
fn what_stays_is_spread_by_load_and_capacity() {
    let even = Bed::new(three()).spread(300);
    assert_eq!(even.len(), 3);
    // Of two that are drawn the one with less: they stay within a few of each other.
    assert!(
        even.values().all(|count| (95..=105).contains(count)),
        "{even:?}"
    );
    let mut pods = three();
    Arc::make_mut(&mut pods[0].common).capacity = 4;
    let uneven = Bed::new(pods).spread(600);
    assert!((390..=410).contains(&uneven["near"]), "{uneven:?}");
}

#[test]
fn the_own_zone_comes_first_where_the_service_says_so_and_then_the_others() {
    let mut bed = Bed::new(three());
    bed.web(|web| {
        web.load_balancing.mode = LoadBalancingMode::Failover;
        web.load_balancing.routing_preference = vec![LocalityScope::Zone];
    });
    assert_eq!(bed.spread(20), BTreeMap::from([("near".to_owned(), 20)]));
    let near = bed.choose();
    let next = bed.choose_of(&bed.bound(None), &[&near]).unwrap();
    assert_eq!(&*next.workload().locality.zone, "b");
}

#[test]
fn what_is_not_healthy_gets_nothing_and_the_own_zone_does_not_change_that() {
    let mut pods = three();
    pods[0].health = Health::Unhealthy;
    let mut bed = Bed::new(pods);
    bed.web(|web| {
        web.load_balancing.mode = LoadBalancingMode::Failover;
        web.load_balancing.routing_preference = vec![LocalityScope::Zone];
    });
    let found = bed.spread(40);
    assert!(!found.contains_key("near") && found.len() == 2, "{found:?}");
}

#[test]
fn when_all_were_tried_it_says_so() {
    let bed = Bed::new(three());
    let mut tried: Vec<Rc<Endpoint>> = Vec::new();
    for _ in 0..3 {
        let next = bed.choose_of(&bed.bound(None), &tried.iter().collect::<Vec<_>>());
        tried.push(next.unwrap());
    }
    let none = bed.choose_of(&bed.bound(None), &tried.iter().collect::<Vec<_>>());
    assert!(matches!(none, Err(Refusal::NoEndpoint { why, .. }) if why.tried == 3));
}

#[test]
fn the_family_of_the_address_that_was_used_comes_first() {
    let bed = Bed::new(three());
    for (vip, is_v6) in [("10.96.0.1", false), ("fd00:96::1", true)] {
        let chosen = bed.choose_of(&bed.bound(Some(vip)), &[]).unwrap();
        assert_eq!(
            chosen.way.address.is_ipv6(),
            is_v6,
            "{}",
            chosen.way.address
        );
    }
}

#[test]
fn an_endpoint_stays_the_same_over_snapshots_until_it_is_gone_or_another() {
    let mut bed = Bed::new([pod("one", &["10.0.0.1"], "a")]);
    let first = bed.choose();
    bed.web(|web| web.name = "renamed".into());
    assert!(Rc::ptr_eq(&first, &bed.choose()));
    assert!(bed.endpoints.with(&first.upstream).is_some());
    bed.snapshot.insert_workload(pod("one", &["10.0.0.7"], "a"));
    bed.endpoints.renew(&bed.snapshot);
    assert!(bed.endpoints.with(&first.upstream).is_none());
    assert_eq!(bed.choose().way.address.to_string(), "10.0.0.7:8080");
}

#[test]
fn clients_that_walk_the_ports_of_a_workload_do_not_make_it_keep_more() {
    let bed = Bed::new(three());
    let workload = pod("near", &["10.0.0.1"], "a");
    let at = |port| Bound::Workload {
        workload: Arc::new(workload.clone()),
        address: SocketAddr::new(workload.addresses[0], port),
    };
    let used = bed.choose_of(&at(8080), &[]).unwrap();
    let _carried = used.carry();
    for port in 20_000..40_000 {
        bed.choose_of(&at(port), &[]).unwrap();
    }
    let kept = |of: &Endpoints| (of.kept.borrow().len(), of.lists.borrow().len());
    let (endpoints, lists) = kept(&bed.endpoints);
    assert!(
        endpoints <= KEPT_MOST && lists <= KEPT_MOST,
        "{endpoints}, {lists}"
    );
    assert!(Rc::ptr_eq(&used, &bed.choose_of(&at(8080), &[]).unwrap()));
}

#[test]
fn addresses_outside_of_the_mesh_are_let_go_when_nothing_uses_them() {
    let mut bed = Bed::new([]);
    bed.web(|web| {
        let range = NetworkCidr::new("", [198, 51, 100, 0].into(), 24);
        web.addresses = vec![range.unwrap()];
        web.load_balancing.mode = LoadBalancingMode::Passthrough;
    });
    let at = |host: u8| {
        let address = format!("198.51.100.{host}");
        bed.choose_of(&bed.bound(Some(&address)), &[]).unwrap()
    };
    let used = at(1);
    let carried = used.carry();
    assert_eq!(used.way.address.to_string(), "198.51.100.1:80");
    (2..200).for_each(|host| drop(at(host)));
    bed.endpoints.renew(&bed.snapshot);
    assert_eq!(bed.endpoints.kept.borrow().len(), 1);
    assert!(Rc::ptr_eq(&used, &at(1)));
    drop(carried);
    bed.endpoints.renew(&bed.snapshot);
    assert!(bed.endpoints.kept.borrow().is_empty());
}
