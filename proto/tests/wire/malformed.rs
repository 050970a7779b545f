//! Every way in which a workload or service can be wrong is told with resource and field.

use mesh::address::HBONE_PORT;
use mesh::service::GatewayDestination;
use prost::Message;
use proto::decode::{self, Problem};
use proto::wire::workload as wire;
use proto::{DecodeError, Resource};
use wire::address::Type;

pub fn workload() -> wire::Workload {
    wire::Workload {
        uid: "Kubernetes//Pod/shop/web".into(),
        name: "web".into(),
        namespace: "shop".into(),
        addresses: vec![vec![10, 0, 0, 1]],
        ..wire::Workload::default()
    }
}

fn service() -> wire::Service {
    wire::Service {
        namespace: "shop".into(),
        hostname: "web.shop.svc.cluster.local".into(),
        ..wire::Service::default()
    }
}

fn read(content: Type) -> Result<Resource, DecodeError> {
    decode::address(
        &wire::Address {
            r#type: Some(content),
        }
        .encode_to_vec(),
    )
}

/// What is said of a workload after `spoil`.
fn of_workload(spoil: impl FnOnce(&mut wire::Workload)) -> String {
    let mut message = workload();
    spoil(&mut message);
    read(Type::Workload(message)).unwrap_err().to_string()
}

fn of_service(spoil: impl FnOnce(&mut wire::Service)) -> String {
    let mut message = service();
    spoil(&mut message);
    read(Type::Service(message)).unwrap_err().to_string()
}

fn waypoint(
    destination: Option<wire::gateway_address::Destination>,
    port: u32,
) -> wire::GatewayAddress {
    wire::GatewayAddress {
        destination,
        hbone_mtls_port: port,
    }
}

fn by_name(namespace: &str, hostname: &str) -> Option<wire::gateway_address::Destination> {
    Some(wire::gateway_address::Destination::Hostname(
        wire::NamespacedHostname {
            namespace: namespace.into(),
            hostname: hostname.into(),
        },
    ))
}

fn by_address(address: &[u8], length: Option<u32>) -> Option<wire::gateway_address::Destination> {
    let network = String::new();
    Some(wire::gateway_address::Destination::Address(
        wire::NetworkAddress {
            network,
            address: address.to_vec(),
            length,
        },
    ))
}

#[test]
fn defaults_fill_what_is_empty() {
    let Ok(Resource::Workload(w)) = read(Type::Workload(workload())) else {
        panic!()
    };
    assert_eq!(&*w.trust_domain, "cluster.local");
    assert_eq!(&*w.service_account, "default");
    assert_eq!(&*w.cluster, "Kubernetes");
    assert_eq!(&*w.canonical_revision, "latest");
    assert_eq!(w.capacity, 1);
    assert_eq!(
        w.identity().unwrap().to_string(),
        "spiffe://cluster.local/ns/shop/sa/default"
    );
    let mut message = service();
    message.waypoint = Some(waypoint(by_name("shop", "wp"), 0));
    let Ok(Resource::Service(s)) = read(Type::Service(message)) else {
        panic!()
    };
    assert_eq!(s.waypoint.unwrap().hbone_mtls_port, HBONE_PORT);
}

#[test]
fn a_capacity_of_zero_is_not_the_default() {
    let message = wire::Workload {
        capacity: Some(0),
        ..workload()
    };
    let Ok(Resource::Workload(w)) = read(Type::Workload(message)) else {
        panic!()
    };
    assert_eq!(w.capacity, 0);
}

#[test]
fn an_address_without_content_is_refused() {
    let error = decode::address(&[]).unwrap_err();
    assert_eq!(error.to_string(), "address: type: is absent or empty");
}

#[test]
fn what_is_no_protobuf_is_refused() {
    for bytes in [&[0xff][..], &[0x0a, 0x05, 0x00], &[0x0a, 0x02, 0x0a, 0x7f]] {
        let error = decode::address(bytes).unwrap_err();
        assert!(matches!(error.problem, Problem::Protobuf(_)), "{error}");
    }
}

#[test]
fn a_workload_is_told_by_its_uid_and_a_service_by_its_name() {
    let text = of_workload(|w| w.addresses = vec![vec![10, 0, 0, 1], vec![1, 2, 3, 4, 5]]);
    assert_eq!(
        text,
        "workload `Kubernetes//Pod/shop/web`: addresses[1]: 5 bytes are no IP address"
    );
    let text = of_service(|s| {
        s.ports = vec![wire::Port {
            service_port: 70000,
            ..port()
        }]
    });
    assert_eq!(
        text,
        "service `shop/web.shop.svc.cluster.local`: ports[0].service_port: 70000 is no port"
    );
}

fn port() -> wire::Port {
    wire::Port {
        service_port: 80,
        target_port: 8080,
        app_protocol: 0,
    }
}

#[test]
fn every_wrong_field_of_a_workload_is_named() {
    let list = |port| wire::PortList { ports: vec![port] };
    type Spoil = Box<dyn FnOnce(&mut wire::Workload)>;
    let cases: Vec<(&str, Spoil)> = vec![
        ("uid: is absent", Box::new(|w| w.uid.clear())),
        ("namespace: is absent", Box::new(|w| w.namespace.clear())),
        (
            "addresses[0]: 0 bytes",
            Box::new(|w| w.addresses = vec![vec![]]),
        ),
        (
            "addresses[0]: 17 bytes",
            Box::new(|w| w.addresses = vec![vec![0; 17]]),
        ),
        (
            "tunnel_protocol: LEGACY_ISTIO_MTLS is not",
            Box::new(|w| w.tunnel_protocol = 2),
        ),
        (
            "tunnel_protocol: 9 is no value",
            Box::new(|w| w.tunnel_protocol = 9),
        ),
        (
            "workload_type: -1 is no value",
            Box::new(|w| w.workload_type = -1),
        ),
        ("status: 2 is no value", Box::new(|w| w.status = 2)),
        (
            "network_mode: 7 is no value",
            Box::new(|w| w.network_mode = 7),
        ),
        (
            "identity: namespace `a b`",
            Box::new(|w| w.namespace = "a b".into()),
        ),
        (
            "identity: trust domain `a/b`",
            Box::new(|w| w.trust_domain = "a/b".into()),
        ),
        (
            "identity: service account `..`",
            Box::new(|w| w.service_account = "..".into()),
        ),
        (
            "authorization_policies[1]: `x` is not of the form namespace/name",
            Box::new(|w| w.authorization_policies = vec!["a/b".into(), "x".into()]),
        ),
        (
            "services[web]: `web` is not of the form namespace/hostname",
            Box::new(move |w| drop(w.services.insert("web".into(), list(port())))),
        ),
        (
            "services[a/b].ports[0].service_port: 0 is no port",
            Box::new(move |w| {
                let port = wire::Port {
                    service_port: 0,
                    ..port()
                };
                w.services.insert("a/b".into(), list(port));
            }),
        ),
        (
            "services[a/b].ports[0].target_port: 65536 is no port",
            Box::new(move |w| {
                let port = wire::Port {
                    target_port: 65536,
                    ..port()
                };
                w.services.insert("a/b".into(), list(port));
            }),
        ),
        (
            "services[a/b].ports[0].app_protocol: 6 is no value",
            Box::new(move |w| {
                let port = wire::Port {
                    app_protocol: 6,
                    ..port()
                };
                w.services.insert("a/b".into(), list(port));
            }),
        ),
        (
            "application_tunnel.protocol: 2 is no value",
            Box::new(|w| {
                let protocol = 2;
                w.application_tunnel = Some(wire::ApplicationTunnel { protocol, port: 0 });
            }),
        ),
        (
            "application_tunnel.port: 99999 is no port",
            Box::new(|w| {
                let port = 99999;
                w.application_tunnel = Some(wire::ApplicationTunnel { protocol: 1, port });
            }),
        ),
        (
            "waypoint.destination: is absent",
            Box::new(|w| w.waypoint = Some(waypoint(None, 0))),
        ),
        (
            "network_gateway.destination: is absent",
            Box::new(|w| w.network_gateway = Some(waypoint(None, 0))),
        ),
    ];
    for (expected, spoil) in cases {
        let text = of_workload(spoil);
        assert!(
            text.starts_with("workload `") && text.contains(expected),
            "{text}"
        );
    }
}

#[test]
fn every_wrong_field_of_a_service_is_named() {
    let address = |address: &[u8], length| wire::NetworkAddress {
        network: String::new(),
        address: address.to_vec(),
        length,
    };
    let weighted = |destination| wire::WeightedWaypoint {
        destination,
        weight: 1,
    };
    let balancing = wire::LoadBalancing::default;
    type Spoil = Box<dyn FnOnce(&mut wire::Service)>;
    let cases: Vec<(&str, Spoil)> = vec![
        ("namespace: is absent", Box::new(|s| s.namespace.clear())),
        ("hostname: is absent", Box::new(|s| s.hostname.clear())),
        (
            "addresses[0].address: 3 bytes",
            Box::new(move |s| s.addresses = vec![address(&[1, 2, 3], None)]),
        ),
        (
            "addresses[0].length: a prefix of 33 bits",
            Box::new(move |s| s.addresses = vec![address(&[1, 2, 3, 4], Some(33))]),
        ),
        (
            "addresses[0].length: a prefix of 129 bits",
            Box::new(move |s| s.addresses = vec![address(&[0; 16], Some(129))]),
        ),
        (
            "addresses[0].length: a prefix of 4294967295 bits",
            Box::new(move |s| s.addresses = vec![address(&[0; 16], Some(u32::MAX))]),
        ),
        (
            "subject_alt_names[1]: `spiffe://td/ns/x` is not of the form",
            Box::new(|s| {
                s.subject_alt_names =
                    vec!["spiffe://td/ns/x/sa/y".into(), "spiffe://td/ns/x".into()];
            }),
        ),
        (
            "waypoint.destination: is absent",
            Box::new(|s| s.waypoint = Some(waypoint(None, 0))),
        ),
        (
            "waypoint.hostname.namespace: is absent",
            Box::new(|s| s.waypoint = Some(waypoint(by_name("", "x"), 0))),
        ),
        (
            "waypoint.hostname.hostname: is absent",
            Box::new(|s| s.waypoint = Some(waypoint(by_name("x", ""), 0))),
        ),
        (
            "waypoint.address.address: 2 bytes",
            Box::new(|s| s.waypoint = Some(waypoint(by_address(&[1, 2], None), 0))),
        ),
        (
            "waypoint.address: a range of addresses is not supported",
            Box::new(|s| s.waypoint = Some(waypoint(by_address(&[1, 2, 3, 4], Some(24)), 0))),
        ),
        (
            "waypoint.hbone_mtls_port: 70000 is no port",
            Box::new(|s| s.waypoint = Some(waypoint(by_name("x", "y"), 70000))),
        ),
        (
            "weighted_waypoints[0].destination: is absent",
            Box::new(move |s| s.weighted_waypoints = vec![weighted(None)]),
        ),
        (
            "weighted_waypoints[0].destination.destination: is absent",
            Box::new(move |s| s.weighted_waypoints = vec![weighted(Some(waypoint(None, 0)))]),
        ),
        (
            "load_balancing.routing_preference[0]: UNSPECIFIED_SCOPE is not supported",
            Box::new(move |s| {
                s.load_balancing = Some(wire::LoadBalancing {
                    routing_preference: vec![0],
                    ..balancing()
                });
            }),
        ),
        (
            "load_balancing.routing_preference[1]: 7 is no value",
            Box::new(move |s| {
                s.load_balancing = Some(wire::LoadBalancing {
                    routing_preference: vec![1, 7],
                    ..balancing()
                });
            }),
        ),
        (
            "load_balancing.mode: 4 is no value",
            Box::new(move |s| {
                s.load_balancing = Some(wire::LoadBalancing {
                    mode: 4,
                    ..balancing()
                });
            }),
        ),
        (
            "load_balancing.health_policy: 2 is no value",
            Box::new(move |s| {
                s.load_balancing = Some(wire::LoadBalancing {
                    health_policy: 2,
                    ..balancing()
                });
            }),
        ),
        (
            "ip_families: 4 is no value",
            Box::new(|s| s.ip_families = 4),
        ),
        ("visibility: 2 is no value", Box::new(|s| s.visibility = 2)),
    ];
    for (expected, spoil) in cases {
        let text = of_service(spoil);
        assert!(
            text.starts_with("service `") && text.contains(expected),
            "{text}"
        );
    }
}

#[test]
fn names_that_no_tunnel_peer_shows_are_left_out_of_a_service() {
    let mut message = service();
    message.subject_alt_names = vec!["db.example.com".into(), "spiffe://td/ns/a/sa/b".into()];
    let Ok(Resource::Service(s)) = read(Type::Service(message)) else {
        panic!()
    };
    assert_eq!(s.subject_alt_names.len(), 1);
}

#[test]
fn ipv4_mapped_addresses_become_ipv4() {
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3];
    let mut message = workload();
    message.addresses = vec![mapped.to_vec()];
    message.waypoint = Some(waypoint(by_address(&mapped, None), 0));
    let Ok(Resource::Workload(w)) = read(Type::Workload(message)) else {
        panic!()
    };
    assert_eq!(w.addresses[0].to_string(), "10.1.2.3");
    let GatewayDestination::Address(address) = w.waypoint.clone().unwrap().destination else {
        panic!()
    };
    assert_eq!(address.to_string(), "/10.1.2.3");
    let range = |length| {
        let mut message = service();
        let (network, address) = (String::new(), mapped.to_vec());
        message.addresses = vec![wire::NetworkAddress {
            network,
            address,
            length,
        }];
        let Ok(Resource::Service(s)) = read(Type::Service(message)) else {
            panic!()
        };
        s.addresses[0].cidr.to_string()
    };
    assert_eq!(range(None), "10.1.2.3/32");
    assert_eq!(range(Some(112)), "10.1.0.0/16");
    assert_eq!(range(Some(64)), "::/64");
}

#[test]
fn a_resource_must_have_the_name_of_its_content() {
    let Ok(resource) = read(Type::Workload(workload())) else {
        panic!()
    };
    let mut message = proto::encode::discovered(&resource, "1");
    assert!(decode::discovered(&message).is_ok());
    assert_eq!(message.aliases, ["/10.0.0.1"]);
    message.name = "Kubernetes//Pod/shop/other".into();
    let text = decode::discovered(&message).unwrap_err().to_string();
    assert!(
        text.starts_with("resource `Kubernetes//Pod/shop/other`: name: "),
        "{text}"
    );
    message.resource = None;
    let text = decode::discovered(&message).unwrap_err().to_string();
    assert!(text.ends_with("resource: is absent or empty"), "{text}");
}

#[test]
fn a_type_that_is_not_ours_is_refused() {
    let text = decode::resource("type.googleapis.com/x", &[])
        .unwrap_err()
        .to_string();
    assert_eq!(
        text,
        "resource: type_url: `type.googleapis.com/x` is not of the form a known type"
    );
}
