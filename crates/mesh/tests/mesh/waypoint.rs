//! What a waypoint takes, what it refuses, and where it sends on.

use mesh::address::NetworkAddress;
use mesh::decide::waypoint::{
    Addressed, Bound, Unbound, Upstream, UpstreamQuery, WaypointQuery, bound, upstreams,
};
use mesh::decide::{Refusal, Route};
use mesh::endpoint::draw_lighter;
use mesh::service::{LoadBalancingMode, Visibility, WeightedWaypoint};
use mesh::workload::TunnelProtocol;
use mesh::{Snapshot, Workload, WorkloadUid};

use crate::fixture::{
    at, endpoint, gateway, gateway_at, ip, key, pod, service, uid, unsynced, world,
};

fn own() -> Workload {
    endpoint("waypoint-0", &["10.0.0.9"], "waypoint")
}

/// `shop/web` behind the waypoint, `shop/other` behind none, a pod with the waypoint itself.
fn shop() -> Snapshot {
    let mut web = service("web", &["10.96.0.1/32"]);
    web.waypoint = Some(gateway("waypoint"));
    let other = service("other", &["10.96.0.2/32"]);
    let waypoint = service("waypoint", &["10.96.0.9/32"]);
    let mut direct = pod("direct", &["10.0.0.5"]);
    direct.waypoint = Some(gateway("waypoint"));
    let endpoints = vec![
        own(),
        endpoint("web-0", &["10.0.0.2"], "web"),
        endpoint("web-1", &["10.0.0.3"], "web"),
        direct,
        pod("bare", &["10.0.0.6"]),
    ];
    world(endpoints, vec![web, other, waypoint])
}

fn ask(snapshot: &Snapshot, text: &str) -> Result<Bound, Unbound> {
    ask_from(snapshot, text, "shop")
}

fn ask_from(snapshot: &Snapshot, text: &str, namespace: &str) -> Result<Bound, Unbound> {
    let own = own();
    let addressed = match text.parse() {
        Ok(address) => Addressed::Address(address),
        Err(_) => {
            let (host, port) = text.rsplit_once(':').unwrap();
            Addressed::Host(host, port.parse().unwrap())
        }
    };
    let query = WaypointQuery {
        own: &own,
        addressed,
        client_namespace: namespace,
    };
    bound(snapshot, &query)
}

fn service_of(bound: Bound) -> (String, u16) {
    match bound {
        Bound::Service { service, port, .. } => (service.key.to_string(), port),
        other @ Bound::Workload { .. } => panic!("{other:?}"),
    }
}

const WEB: &str = "shop/web.shop.svc.cluster.local";

#[test]
fn a_service_with_this_waypoint_is_taken_by_address_and_by_name() {
    let shop = shop();
    for text in [
        "10.96.0.1:80",
        "[::ffff:10.96.0.1]:80",
        "web.shop.svc.cluster.local:80",
    ] {
        let taken = service_of(ask(&shop, text).unwrap());
        assert_eq!(taken, (WEB.to_owned(), 80), "{text}");
    }
}

#[test]
fn a_workload_with_this_waypoint_is_taken_by_its_address() {
    let taken = ask(&shop(), "10.0.0.5:9000").unwrap();
    let Bound::Workload { workload, address } = taken else {
        panic!("{taken:?}");
    };
    assert_eq!(
        (workload.uid.clone(), address),
        (uid("direct"), at("10.0.0.5:9000"))
    );
}

#[test]
fn a_waypoint_may_be_given_by_address_and_with_a_weight() {
    let mut by_vip = service("a", &["10.96.1.1/32"]);
    by_vip.waypoint = Some(gateway_at("10.96.0.9"));
    let mut by_pod = service("b", &["10.96.1.2/32"]);
    by_pod.waypoint = Some(gateway_at("10.0.0.9"));
    let mut weighted = service("c", &["10.96.1.3/32"]);
    weighted.weighted_waypoints = vec![
        WeightedWaypoint {
            gateway: gateway("elsewhere"),
            weight: 1,
        },
        WeightedWaypoint {
            gateway: gateway("waypoint"),
            weight: 0,
        },
    ];
    let waypoint = service("waypoint", &["10.96.0.9/32"]);
    let mesh = world(vec![own()], vec![by_vip, by_pod, weighted, waypoint]);
    for text in ["10.96.1.1:80", "10.96.1.2:80", "10.96.1.3:80"] {
        ask(&mesh, text).unwrap();
    }
}

#[test]
fn it_is_no_open_relay() {
    let shop = shop();
    let refused = |text: &str| ask(&shop, text).unwrap_err();
    for text in [
        "127.0.0.1:80",
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
        "0.0.0.0:80",
        "169.254.169.254:80",
        "[fe80::1]:80",
        "[fd00:ec2::254]:80",
        "100.100.100.200:80",
        "224.0.0.1:80",
    ] {
        let why = refused(text);
        assert!(matches!(why, Unbound::Forbidden(_)), "{text}: {why}");
    }
    assert_eq!(refused("10.0.0.9:80"), Unbound::Itself(at("10.0.0.9:80")));
    let own_port = refused("10.0.0.5:15008");
    assert_eq!(own_port, Unbound::OwnPort(15008));
    let nobody = NetworkAddress::new("", ip("93.184.216.34"));
    assert_eq!(refused("93.184.216.34:80"), Unbound::Unknown(nobody));
    for (text, service) in [
        ("10.96.0.2:80", "other"),
        ("10.96.0.9:80", "waypoint"),
        ("10.96.0.9:15008", "waypoint"),
        ("other.shop.svc.cluster.local:80", "other"),
    ] {
        assert_eq!(refused(text), Unbound::Service(key(service)), "{text}");
    }
    for (text, name) in [("10.0.0.6:80", "bare"), ("10.0.0.2:8080", "web-0")] {
        assert_eq!(refused(text), Unbound::Workload(uid(name)), "{text}");
    }
    let host = Unbound::UnknownHost("example.com".to_owned());
    assert_eq!(refused("example.com:80"), host);
    let port = Unbound::NoSuchPort {
        service: key("web"),
        port: 81,
    };
    assert_eq!(refused("10.96.0.1:81"), port);
}

#[test]
fn another_workload_is_not_this_waypoint() {
    let shop = shop();
    let query = WaypointQuery {
        own: &pod("client", &["10.0.0.1"]),
        addressed: Addressed::Address(at("10.96.0.1:80")),
        client_namespace: "shop",
    };
    let refused = bound(&shop, &query).unwrap_err();
    assert_eq!(refused, Unbound::Service(key("web")));
}

#[test]
fn a_service_that_a_client_may_not_see_is_refused_to_it() {
    let mut web = service("web", &["10.96.0.1/32"]);
    web.waypoint = Some(gateway("waypoint"));
    web.visibility = Visibility::Namespace;
    let mesh = world(vec![own()], vec![web]);
    for text in ["10.96.0.1:80", "web.shop.svc.cluster.local:80"] {
        ask_from(&mesh, text, "shop").unwrap();
        let refused = ask_from(&mesh, text, "bank").unwrap_err();
        assert!(matches!(refused, Unbound::Hidden { .. }), "{refused}");
    }
}

#[test]
fn an_address_that_discovery_may_still_tell_of_is_waited_for() {
    let mut mesh = unsynced(vec![own()], vec![]);
    let text = "10.96.0.1:80";
    let asked = ask(&mesh, text);
    assert!(matches!(asked, Err(Unbound::NotYet(_))), "{asked:?}");
    mesh.set_addresses_synced();
    let asked = ask(&mesh, text);
    assert!(matches!(asked, Err(Unbound::Unknown(_))), "{asked:?}");
}

/// Where to send what is asked for; `tried` refused already.
fn send(
    mesh: &Snapshot,
    text: &str,
    tried: &[WorkloadUid],
) -> Result<Vec<Upstream>, mesh::decide::Refusal> {
    let own = own();
    let target = ask(mesh, text).unwrap();
    let query = UpstreamQuery {
        own: &own,
        target: &target,
        tried,
    };
    upstreams(mesh, &query)
}

fn names(upstreams: &[Upstream]) -> Vec<&str> {
    let workloads = upstreams.iter().map(|one| one.workload.as_ref().unwrap());
    workloads.map(|workload| &*workload.name).collect()
}

#[test]
fn a_service_leads_through_tunnels_to_its_endpoints() {
    let sent = send(&shop(), "10.96.0.1:80", &[]).unwrap();
    assert_eq!(names(&sent), ["web-0", "web-1"]);
    for upstream in sent {
        assert_eq!(upstream.address.port(), 8080);
        let Route::Hbone(route) = upstream.route else {
            panic!("{:?}", upstream.route);
        };
        assert_eq!(route.authority, upstream.address.to_string());
        assert_eq!(route.peer.port(), 15008);
        assert!(!route.to_waypoint && route.identities.len() == 1);
    }
}

#[test]
fn the_lighter_of_two_that_were_drawn_is_taken() {
    let draw = |loads: [u32; 2], weights: [u32; 2]| {
        let drawn = draw_lighter(&[0_usize, 1], |i| weights[*i], |i| loads[*i], &mut || 0);
        *drawn.unwrap()
    };
    assert_eq!(draw([1, 0], [1, 1]), 1);
    assert_eq!(draw([0, 1], [1, 1]), 0);
    assert_eq!(draw([1, 3], [1, 9]), 1, "less load for its weight");
    assert_eq!(draw([9, 0], [1, 0]), 0, "a weight of 0 is never drawn");
    let none = draw_lighter(&[0], |_| 0, |_| 0, &mut || 0);
    assert_eq!(none, None);
}

#[test]
fn an_endpoint_that_refused_is_not_taken_again_and_the_last_one_says_so() {
    let shop = shop();
    let send = |tried: &[_]| send(&shop, "10.96.0.1:80", tried);
    assert_eq!(names(&send(&[uid("web-0")]).unwrap()), ["web-1"]);
    let none = send(&[uid("web-0"), uid("web-1")]).unwrap_err();
    assert!(none.to_string().contains("2 already refused"), "{none}");
}

#[test]
fn the_waypoint_is_never_its_own_endpoint() {
    let mut web = service("web", &["10.96.0.1/32"]);
    web.waypoint = Some(gateway("waypoint"));
    let mut own = own();
    own.services.insert(key("web"), vec![]);
    let mesh = world(vec![own], vec![web]);
    assert!(send(&mesh, "10.96.0.1:80", &[]).is_err());
}

#[test]
fn an_endpoint_outside_of_the_mesh_is_reached_in_plain_tcp() {
    let mut web = service("web", &["10.96.0.1/32"]);
    web.waypoint = Some(gateway("waypoint"));
    let mut outside = endpoint("web-0", &["10.0.0.2"], "web");
    outside.tunnel = TunnelProtocol::None;
    let mesh = world(vec![own(), outside], vec![web]);
    let sent = send(&mesh, "10.96.0.1:80", &[]).unwrap();
    assert_eq!(sent[0].route, Route::Plain(at("10.0.0.2:8080")));
}

#[test]
fn a_service_that_keeps_the_address_leads_to_that_address() {
    let mut outside = service("outside", &["93.184.216.0/24"]);
    outside.waypoint = Some(gateway("waypoint"));
    outside.load_balancing.mode = LoadBalancingMode::Passthrough;
    let mesh = world(vec![own()], vec![outside]);
    let sent = send(&mesh, "93.184.216.34:80", &[]).unwrap();
    assert_eq!(sent[0].route, Route::Passthrough(at("93.184.216.34:80")));
    assert_eq!(sent[0].workload, None);
}

#[test]
fn a_service_that_keeps_the_address_opens_its_own_ports_and_none_of_the_proxies() {
    let mut outside = service("outside", &["93.184.216.0/24"]);
    outside.waypoint = Some(gateway("waypoint"));
    outside.load_balancing.mode = LoadBalancingMode::Passthrough;
    outside.ports[0].service_port = 15008;
    let mesh = world(vec![own()], vec![outside]);
    let refused = ask(&mesh, "93.184.216.34:22").unwrap_err();
    assert!(matches!(refused, Unbound::NoSuchPort { port: 22, .. }));
    let refused = send(&mesh, "93.184.216.34:15008", &[]).unwrap_err();
    assert_eq!(refused, Refusal::OwnPort(at("93.184.216.34:15008")));
}

#[test]
fn what_was_asked_for_is_known_again_in_another_snapshot() {
    let (before, mut after) = (shop(), shop());
    let service = ask(&before, "10.96.0.1:80").unwrap();
    let workload = ask(&before, "10.0.0.5:9000").unwrap();
    let mut changed = pod("direct", &["10.0.0.5"]);
    changed.waypoint = Some(gateway("waypoint"));
    changed.node = "n9".into();
    after.insert_workload(changed);
    assert!(service.is_same(&ask(&after, "10.96.0.1:80").unwrap()));
    assert!(workload.is_same(&ask(&after, "10.0.0.5:9000").unwrap()));
    assert!(!workload.is_same(&ask(&after, "10.0.0.5:9001").unwrap()));
    assert!(!workload.is_same(&service) && !service.is_same(&workload));
}
