//! The order of the outbound decision, one test a rule.

use std::collections::BTreeSet;

use mesh::address::{HBONE_PORT, NetworkAddress};
use mesh::decide::{HboneRoute, Missing, Reason, Refusal, Route};
use mesh::service::{
    GatewayAddress, GatewayDestination, LoadBalancing, LoadBalancingMode, Visibility,
    WeightedWaypoint,
};
use mesh::workload::{Health, TunnelProtocol};
use mesh::{Service, ServiceKey};

use crate::fixture::*;

fn hbone(peer: &str, authority: &str, names: &[&str]) -> Route {
    Route::Hbone(HboneRoute {
        peer: at(peer),
        authority: authority.into(),
        identities: names.iter().map(|n| identity(n)).collect(),
        to_waypoint: false,
    })
}

fn waypoint(peer: &str, authority: &str, name: &str) -> Route {
    Route::Hbone(HboneRoute {
        peer: at(peer),
        authority: authority.into(),
        identities: BTreeSet::from([identity(name)]),
        to_waypoint: true,
    })
}

#[test]
fn a_service_leads_to_an_endpoint_at_its_target_port() {
    let s = world(
        vec![endpoint("web-1", &["10.0.1.1"], "web")],
        vec![service("web", &["10.96.0.1/32"])],
    );
    let out = send(&s, "10.96.0.1:80");
    assert_eq!(
        out.route,
        hbone("10.0.1.1:15008", "10.0.1.1:8080", &["web-1"])
    );
    assert_eq!(out.service, Some(key("web")));
    assert_eq!(out.workload.unwrap().uid, uid("web-1"));
    let texts: Vec<String> = out.reasons.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts[0],
        "/10.96.0.1 is an address of service shop/web.shop.svc.cluster.local"
    );
    assert!(texts[1].contains("drew endpoint Kubernetes//Pod/shop/web-1 at 10.0.1.1:8080"));
}

#[test]
fn an_ipv6_authority_stands_in_brackets() {
    let s = world(
        vec![endpoint("web-1", &["10.0.1.1", "fd00::b"], "web")],
        vec![service("web", &["10.96.0.1/32", "fd00:96::1/128"])],
    );
    let out = send(&s, "[fd00:96::1]:80");
    assert_eq!(
        out.route,
        hbone("[fd00::b]:15008", "[fd00::b]:8080", &["web-1"])
    );
}

#[test]
fn an_ipv4_mapped_destination_is_its_ipv4_address() {
    let s = world(vec![pod("a", &["10.0.1.1"])], vec![]);
    let out = send(&s, "[::ffff:10.0.1.1]:9000");
    assert_eq!(out.route, hbone("10.0.1.1:15008", "10.0.1.1:9000", &["a"]));
}

#[test]
fn the_endpoints_own_mapping_goes_before_the_services() {
    let mut web = endpoint("web-1", &["10.0.1.1"], "web");
    web.services.insert(key("web"), vec![port(80, 9999)]);
    let s = world(vec![web], vec![service("web", &["10.96.0.1/32"])]);
    assert_eq!(
        send(&s, "10.96.0.1:80").route,
        hbone("10.0.1.1:15008", "10.0.1.1:9999", &["web-1"])
    );
}

#[test]
fn the_services_alternative_names_are_accepted_beside_the_endpoints() {
    let mut web = service("web", &["10.96.0.1/32"]);
    web.subject_alt_names = vec![identity("other")];
    let s = world(vec![endpoint("web-1", &["10.0.1.1"], "web")], vec![web]);
    assert_eq!(
        send(&s, "10.96.0.1:80").route,
        hbone("10.0.1.1:15008", "10.0.1.1:8080", &["other", "web-1"])
    );
}

#[test]
fn a_port_that_the_service_lacks_is_refused_by_name() {
    let s = world(
        vec![endpoint("web-1", &["10.0.1.1"], "web")],
        vec![service("web", &["10.96.0.1/32"])],
    );
    let out = send(&s, "10.96.0.1:81");
    assert_eq!(
        out.route,
        Route::Refuse(Refusal::NoSuchPort {
            service: key("web"),
            port: 81
        })
    );
    assert_eq!(
        out.route.to_string(),
        "refused: service shop/web.shop.svc.cluster.local has no port 81"
    );
}

#[test]
fn a_service_without_a_healthy_endpoint_refuses_and_counts_why() {
    let sick = {
        let mut made = endpoint("web-1", &["10.0.1.1"], "web");
        made.health = Health::Unhealthy;
        made
    };
    let s = world(
        vec![sick, endpoint("web-2", &["10.0.1.2"], "web")],
        vec![service("web", &["10.96.0.1/32"])],
    );
    let out = send_from(&s, &client(), "10.96.0.1:80", &[uid("web-2")]);
    let text = out.route.to_string();
    assert!(
        matches!(out.route, Route::Refuse(Refusal::NoEndpoint { .. })),
        "{text}"
    );
    assert!(
        text.contains("of 2 endpoints none is usable: 1 already refused"),
        "{text}"
    );
    assert!(text.contains("1 not healthy"), "{text}");
}

#[test]
fn another_endpoint_is_taken_when_the_first_refused() {
    let s = world(
        vec![
            endpoint("web-1", &["10.0.1.1"], "web"),
            endpoint("web-2", &["10.0.1.2"], "web"),
        ],
        vec![service("web", &["10.96.0.1/32"])],
    );
    let first = send(&s, "10.96.0.1:80").workload.unwrap();
    let second = send_from(
        &s,
        &client(),
        "10.96.0.1:80",
        std::slice::from_ref(&first.uid),
    );
    assert_ne!(second.workload.unwrap().uid, first.uid);
}

#[test]
fn a_services_waypoint_gets_the_address_that_the_application_used() {
    let mut web = service("web", &["10.96.0.1/32"]);
    web.waypoint = Some(gateway("wp"));
    let s = world(
        vec![
            endpoint("web-1", &["10.0.1.1"], "web"),
            endpoint("wp-1", &["10.0.9.1"], "wp"),
        ],
        vec![web, service("wp", &["10.96.0.9/32"])],
    );
    let out = send(&s, "10.96.0.1:80");
    assert_eq!(
        out.route,
        waypoint("10.0.9.1:15008", "10.96.0.1:80", "wp-1")
    );
    assert_eq!(out.service, Some(key("web")));
    assert_eq!(out.workload.unwrap().uid, uid("wp-1"));
}

#[test]
fn a_waypoints_own_mapping_of_its_hbone_port_is_followed() {
    let mut web = service("web", &["10.96.0.1/32"]);
    web.waypoint = Some(gateway("wp"));
    let mut wp = service("wp", &["10.96.0.9/32"]);
    wp.ports = vec![port(15008, 25008)];
    let s = world(vec![endpoint("wp-1", &["10.0.9.1"], "wp")], vec![web, wp]);
    assert_eq!(
        send(&s, "10.96.0.1:80").route,
        waypoint("10.0.9.1:25008", "10.96.0.1:80", "wp-1")
    );
}

#[test]
fn a_waypoint_given_by_address_is_a_service_or_a_workload() {
    let mut web = service("web", &["10.96.0.1/32"]);
    web.waypoint = Some(gateway_at("10.96.0.9"));
    let mut api = service("api", &["10.96.0.2/32"]);
    api.waypoint = Some(gateway_at("10.0.9.1"));
    let s = world(
        vec![endpoint("wp-1", &["10.0.9.1"], "wp")],
        vec![web, api, service("wp", &["10.96.0.9/32"])],
    );
    for vip in ["10.96.0.1:80", "10.96.0.2:80"] {
        assert_eq!(send(&s, vip).route, waypoint("10.0.9.1:15008", vip, "wp-1"));
    }
    let again = send_from(&s, &client(), "10.96.0.2:80", &[uid("wp-1")]);
    assert!(matches!(
        again.route,
        Route::Refuse(Refusal::WaypointUnusable { .. })
    ));
}

#[test]
fn a_waypoint_that_is_missing_or_unusable_fails_closed() {
    let mut web = service("web", &["10.96.0.1/32"]);
    web.waypoint = Some(gateway("wp"));
    let workloads = vec![endpoint("web-1", &["10.0.1.1"], "web")];
    let s = world(workloads.clone(), vec![web.clone()]);
    assert_eq!(
        send(&s, "10.96.0.1:80").route,
        Route::Refuse(Refusal::WaypointUnknown(gateway("wp")))
    );
    let s = world(workloads.clone(), vec![web.clone(), service("wp", &[])]);
    assert!(matches!(
        send(&s, "10.96.0.1:80").route,
        Route::Refuse(Refusal::WaypointUnusable { .. })
    ));
    web.waypoint = Some(gateway_at("10.9.9.9"));
    let s = world(workloads, vec![web]);
    assert!(matches!(
        send(&s, "10.96.0.1:80").route,
        Route::Refuse(Refusal::WaypointUnknown(_))
    ));
}

#[test]
fn a_missing_waypoint_is_waited_for_while_discovery_is_incomplete() {
    let mut web = service("web", &["10.96.0.1/32"]);
    web.waypoint = Some(gateway("wp"));
    let s = unsynced(vec![], vec![web.clone()]);
    assert!(matches!(
        send(&s, "10.96.0.1:80").route,
        Route::NotYet(Missing::Waypoint(_))
    ));
    let s = unsynced(vec![], vec![web, service("wp", &[])]);
    assert_eq!(
        send(&s, "10.96.0.1:80").route,
        Route::NotYet(Missing::Endpoints(key("wp")))
    );
}

#[test]
fn a_range_that_contains_a_waypoints_address_does_not_make_it_a_waypoint() {
    let mut web = service("web", &["10.96.0.1/32"]);
    web.waypoint = Some(gateway_at("10.50.0.9"));
    let s = world(
        vec![endpoint("evil", &["10.0.6.6"], "wide")],
        vec![web, service("wide", &["10.50.0.0/16"])],
    );
    assert!(matches!(
        send(&s, "10.96.0.1:80").route,
        Route::Refuse(Refusal::WaypointUnknown(_))
    ));
}

#[test]
fn weighted_waypoints_go_first_and_weight_zero_is_never_drawn() {
    let mut web = service("web", &["10.96.0.1/32"]);
    web.waypoint = Some(gateway("wp"));
    let weighted = |name: &str, weight| WeightedWaypoint {
        gateway: gateway(name),
        weight,
    };
    web.weighted_waypoints = vec![weighted("wp", 0), weighted("canary", 3)];
    let workloads = vec![
        endpoint("wp-1", &["10.0.9.1"], "wp"),
        endpoint("canary-1", &["10.0.9.2"], "canary"),
    ];
    let services = vec![service("wp", &[]), service("canary", &[])];
    let s = world(
        workloads.clone(),
        [services.clone(), vec![web.clone()]].concat(),
    );
    assert_eq!(
        send(&s, "10.96.0.1:80").route,
        waypoint("10.0.9.2:15008", "10.96.0.1:80", "canary-1")
    );
    web.weighted_waypoints = vec![weighted("wp", 0)];
    let s = world(workloads, [services, vec![web]].concat());
    assert_eq!(
        send(&s, "10.96.0.1:80").route,
        Route::Refuse(Refusal::NoWaypointWeight(key("web")))
    );
}

#[test]
fn a_waypoint_itself_goes_straight_to_the_endpoint() {
    let mut web = service("web", &["10.96.0.1/32"]);
    web.waypoint = Some(gateway("wp"));
    let mut target = endpoint("web-1", &["10.0.1.1"], "web");
    target.waypoint = Some(gateway("wp"));
    let wp = endpoint("wp-1", &["10.0.9.1"], "wp");
    let s = world(
        vec![target, wp.clone()],
        vec![web, service("wp", &["10.96.0.9/32"])],
    );
    let out = send_from(&s, &wp, "10.96.0.1:80", &[]);
    assert_eq!(
        out.route,
        hbone("10.0.1.1:15008", "10.0.1.1:8080", &["web-1"])
    );
    let out = send_from(&s, &wp, "10.0.1.1:8080", &[]);
    assert_eq!(
        out.route,
        hbone("10.0.1.1:15008", "10.0.1.1:8080", &["web-1"])
    );
    assert!(
        out.reasons
            .iter()
            .any(|r| matches!(r, Reason::FromWaypoint { .. }))
    );
}

#[test]
fn a_workloads_waypoint_counts_only_when_no_service_was_addressed() {
    let mut target = endpoint("web-1", &["10.0.1.1"], "web");
    target.waypoint = Some(gateway("wp"));
    let s = world(
        vec![target, endpoint("wp-1", &["10.0.9.1"], "wp")],
        vec![service("web", &["10.96.0.1/32"]), service("wp", &[])],
    );
    assert_eq!(
        send(&s, "10.0.1.1:8080").route,
        waypoint("10.0.9.1:15008", "10.0.1.1:8080", "wp-1")
    );
    assert_eq!(
        send(&s, "10.96.0.1:80").route,
        hbone("10.0.1.1:15008", "10.0.1.1:8080", &["web-1"])
    );
}

#[test]
fn the_clients_own_waypoint_has_no_say_in_what_it_sends() {
    let s = world(vec![pod("a", &["10.0.1.1"])], vec![service("wp", &[])]);
    let source = {
        let mut made = client();
        made.waypoint = Some(gateway("wp"));
        made
    };
    let out = send_from(&s, &source, "10.0.1.1:9000", &[]);
    assert_eq!(out.route, hbone("10.0.1.1:15008", "10.0.1.1:9000", &["a"]));
}

#[test]
fn a_workload_outside_of_the_mesh_gets_plain_tcp() {
    let legacy = {
        let mut made = pod("legacy", &["10.0.1.5"]);
        made.tunnel = TunnelProtocol::None;
        made
    };
    let s = world(vec![legacy], vec![]);
    let out = send(&s, "10.0.1.5:5432");
    assert_eq!(out.route, Route::Plain(at("10.0.1.5:5432")));
    assert_eq!(out.workload.unwrap().uid, uid("legacy"));
}

#[test]
fn the_unknown_is_passed_through_only_when_it_is_certain() {
    let mut s = unsynced(vec![], vec![]);
    let missing = Route::NotYet(Missing::Address(address("1.2.3.4")));
    assert_eq!(send(&s, "1.2.3.4:443").route, missing);
    s.mark_absent(address("1.2.3.4"));
    assert_eq!(
        send(&s, "1.2.3.4:443").route,
        Route::Passthrough(at("1.2.3.4:443"))
    );
    assert!(matches!(send(&s, "1.2.3.5:443").route, Route::NotYet(_)));
    s.set_addresses_synced();
    assert_eq!(
        send(&s, "1.2.3.5:443").route,
        Route::Passthrough(at("1.2.3.5:443"))
    );
}

#[test]
fn before_discovery_is_complete_an_exact_address_counts_and_a_range_does_not() {
    let s = unsynced(
        vec![endpoint("web-1", &["10.0.1.1"], "web")],
        vec![service("web", &["10.96.0.1/32", "10.50.0.0/16"])],
    );
    assert!(matches!(send(&s, "10.96.0.1:80").route, Route::Hbone(_)));
    assert!(matches!(send(&s, "10.0.1.1:80").route, Route::Hbone(_)));
    assert!(matches!(
        send(&s, "10.50.0.1:80").route,
        Route::NotYet(Missing::Address(_))
    ));
}

#[test]
fn a_service_without_known_endpoints_is_waited_for_until_discovery_is_complete() {
    let mut s = unsynced(vec![], vec![service("web", &["10.96.0.1/32"])]);
    assert_eq!(
        send(&s, "10.96.0.1:80").route,
        Route::NotYet(Missing::Endpoints(key("web")))
    );
    s.set_addresses_synced();
    assert!(matches!(
        send(&s, "10.96.0.1:80").route,
        Route::Refuse(Refusal::NoEndpoint { .. })
    ));
}

#[test]
fn a_passthrough_service_keeps_the_address_but_not_round_its_waypoint() {
    let mut outside = service("outside", &["20.0.0.0/8"]);
    outside.load_balancing.mode = LoadBalancingMode::Passthrough;
    let s = world(vec![pod("a", &["20.0.0.7"])], vec![outside.clone()]);
    let out = send(&s, "20.0.0.9:12345");
    assert_eq!(out.route, Route::Passthrough(at("20.0.0.9:12345")));
    assert_eq!(out.service, Some(key("outside")));
    // What has the address still counts.
    assert_eq!(
        send(&s, "20.0.0.7:1").route,
        hbone("20.0.0.7:15008", "20.0.0.7:1", &["a"])
    );
    outside.waypoint = Some(gateway("wp"));
    let s = world(
        vec![endpoint("wp-1", &["10.0.9.1"], "wp")],
        vec![outside, service("wp", &[])],
    );
    assert_eq!(
        send(&s, "20.0.0.9:12345").route,
        waypoint("10.0.9.1:15008", "20.0.0.9:12345", "wp-1")
    );
}

#[test]
fn a_passthrough_service_does_not_lead_round_a_workloads_waypoint() {
    let mut outside = service("outside", &["20.0.0.0/8"]);
    outside.load_balancing.mode = LoadBalancingMode::Passthrough;
    let target = {
        let mut made = pod("a", &["20.0.0.7"]);
        made.waypoint = Some(gateway("wp"));
        made
    };
    let s = world(
        vec![target, endpoint("wp-1", &["10.0.9.1"], "wp")],
        vec![outside, service("wp", &[])],
    );
    assert_eq!(
        send(&s, "20.0.0.7:1").route,
        waypoint("10.0.9.1:15008", "20.0.0.7:1", "wp-1")
    );
}

#[test]
fn a_waypoint_on_another_network_is_refused() {
    let far = {
        let mut made = pod("wp-1", &["10.0.9.1"]);
        made.network = "west".into();
        made
    };
    let mut web = service("web", &["10.96.0.1/32"]);
    web.waypoint = Some(GatewayAddress {
        destination: GatewayDestination::Address(NetworkAddress::new("west", ip("10.0.9.1"))),
        hbone_mtls_port: HBONE_PORT,
    });
    let s = world(vec![far], vec![web]);
    assert!(matches!(
        send(&s, "10.96.0.1:80").route,
        Route::Refuse(Refusal::OtherNetwork { .. })
    ));
}

#[test]
fn another_network_is_refused_with_its_name() {
    let far = {
        let mut made = endpoint("web-1", &["10.0.1.1"], "web");
        made.network = "west".into();
        made
    };
    let s = world(vec![far], vec![service("web", &["10.96.0.1/32"])]);
    let text = send(&s, "10.96.0.1:80").route.to_string();
    assert!(
        text.contains("1 on another network (not supported yet)"),
        "{text}"
    );
    // The same address on the own network is another thing, and unknown.
    assert!(matches!(
        send(&s, "10.0.1.1:80").route,
        Route::Passthrough(_)
    ));
}

#[test]
fn a_service_hidden_from_the_client_is_as_if_it_were_not_there() {
    let mut web = service("web", &["10.96.0.1/32"]);
    web.visibility = Visibility::Namespace;
    let s = world(vec![endpoint("web-1", &["10.0.1.1"], "web")], vec![web]);
    assert!(matches!(send(&s, "10.96.0.1:80").route, Route::Hbone(_)));
    let stranger = {
        let mut made = client();
        made.namespace = "other".into();
        made
    };
    let out = send_from(&s, &stranger, "10.96.0.1:80", &[]);
    assert_eq!(out.route, Route::Passthrough(at("10.96.0.1:80")));
    assert!(
        out.reasons
            .iter()
            .any(|r| matches!(r, Reason::Hidden { .. }))
    );
}

#[test]
fn a_tunnel_never_leads_to_a_port_of_the_proxy() {
    let mut web = service("web", &["10.96.0.1/32"]);
    web.ports = vec![port(80, 15006), port(15001, 8080)];
    let s = world(vec![endpoint("web-1", &["10.0.1.1"], "web")], vec![web]);
    for port in mesh::address::OWN_PORTS {
        let target = format!("10.0.1.1:{port}");
        assert_eq!(
            send(&s, &target).route,
            Route::Refuse(Refusal::OwnPort(at(&target)))
        );
        let own = format!("10.0.0.1:{port}");
        assert_eq!(
            send(&s, &own).route,
            Route::Refuse(Refusal::OwnPort(at(&own)))
        );
    }
    assert_eq!(
        send(&s, "10.96.0.1:80").route,
        Route::Refuse(Refusal::OwnPort(at("10.0.1.1:15006")))
    );
    // A service may have such a number in front: only the target counts.
    assert_eq!(
        send(&s, "10.96.0.1:15001").route,
        hbone("10.0.1.1:15008", "10.0.1.1:8080", &["web-1"])
    );
    // Outside of the mesh there is no proxy of ours.
    assert!(matches!(
        send(&s, "1.2.3.4:15008").route,
        Route::Passthrough(_)
    ));
}

#[test]
fn addresses_that_mean_something_only_to_their_user_are_refused() {
    let s = world(vec![], vec![service("all", &["0.0.0.0/0", "::/0"])]);
    let local = [
        "127.0.0.1",
        "127.9.9.9",
        "0.0.0.0",
        "0.1.2.3",
        "224.0.0.1",
        "255.255.255.255",
    ];
    for ip in local
        .into_iter()
        .chain(["::1", "::", "ff02::1", "::ffff:127.0.0.1"])
    {
        let destination = std::net::SocketAddr::new(ip.parse().unwrap(), 80).to_string();
        let out = send(&s, &destination);
        assert!(
            matches!(out.route, Route::Refuse(Refusal::LocalAddress(_))),
            "{ip}: {out:?}"
        );
    }
}

#[test]
fn nothing_in_the_mesh_can_claim_link_local_and_metadata_addresses() {
    let all = service("all", &["0.0.0.0/0", "::/0", "169.254.169.254/32"]);
    let thief = endpoint("thief", &["169.254.169.254", "fd00:ec2::254"], "all");
    // Not synced: these are decided without discovery.
    let s = unsynced(vec![thief], vec![all]);
    for destination in [
        "169.254.169.254:80",
        "[fe80::1%3]:80",
        "[fd00:ec2::254]:80",
        "100.100.100.200:80",
    ] {
        let out = send(&s, destination);
        assert_eq!(out.route, Route::Passthrough(at(destination)));
    }
}

#[test]
fn endpoints_at_loopback_or_metadata_addresses_are_never_used() {
    for stolen in ["127.0.0.1", "169.254.169.254", "::1", "fe80::1"] {
        let s = world(
            vec![endpoint("web-1", &[stolen], "web")],
            vec![service("web", &["10.96.0.1/32"])],
        );
        let text = send(&s, "10.96.0.1:80").route.to_string();
        assert!(
            text.contains("1 without a usable address"),
            "{stolen}: {text}"
        );
    }
}

#[test]
fn a_pod_reaches_itself_without_a_tunnel() {
    let me = endpoint("client", &["10.0.0.1"], "web");
    let s = world(vec![me.clone()], vec![service("web", &["10.96.0.1/32"])]);
    let out = send_from(&s, &me, "10.96.0.1:80", &[]);
    assert_eq!(out.route, Route::Plain(at("10.0.0.1:8080")));
    assert_eq!(
        send_from(&s, &me, "10.0.0.1:9", &[]).route,
        Route::Plain(at("10.0.0.1:9"))
    );
}

#[test]
fn a_workload_without_a_valid_identity_is_not_tunnelled_to() {
    let nameless = {
        let mut made = pod("a", &["10.0.1.1"]);
        made.service_account = "".into();
        made
    };
    let s = world(vec![nameless], vec![]);
    assert!(matches!(
        send(&s, "10.0.1.1:80").route,
        Route::Refuse(Refusal::Identity { .. })
    ));
}

#[test]
fn the_most_specific_service_wins() {
    let elsewhere = Service {
        key: ServiceKey {
            namespace: "other".into(),
            ..key("wide")
        },
        ..service("wide", &["10.96.0.0/16"])
    };
    let s = world(
        vec![endpoint("web-1", &["10.0.1.1"], "web")],
        vec![elsewhere, service("web", &["10.96.0.1/32"])],
    );
    assert_eq!(send(&s, "10.96.0.1:80").service, Some(key("web")));
}

#[test]
fn strict_locality_refuses_rather_than_leave_the_node() {
    let mut web = service("web", &["10.96.0.1/32"]);
    web.load_balancing = LoadBalancing {
        routing_preference: vec![mesh::service::LocalityScope::Node],
        mode: LoadBalancingMode::Strict,
        ..LoadBalancing::default()
    };
    let far = {
        let mut made = endpoint("web-1", &["10.0.1.1"], "web");
        made.node = "n2".into();
        made
    };
    let s = world(vec![far], vec![web]);
    let text = send(&s, "10.96.0.1:80").route.to_string();
    assert!(
        text.contains("1 outside of the locality that the service insists on"),
        "{text}"
    );
}
