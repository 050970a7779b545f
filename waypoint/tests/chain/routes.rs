//! TCPRoutes and TLSRoutes.

use std::io::Write;
use std::sync::Arc;

use mesh::route::book::Attached;
use mesh::route::stream::{StreamBackend, StreamRoute, StreamRule, Streams};
use mesh::route::{HostPattern, ParentKey, RouteKey, RouteKind, ServicePort, Target};

use crate::app::{accept, expect_reset, receive_exactly, talk};
use crate::journal;
use crate::net::{PATIENCE, serve};
use crate::world::{ANY, TCP, World, key, on_both_back_ends};

fn route(kind: RouteKind, hostnames: &[&str], backends: &[(&str, u32)]) -> Arc<StreamRoute> {
    let backend = |(name, weight): &(&str, u32)| StreamBackend {
        target: Target::Service {
            service: key(name),
            port: 80,
        },
        weight: *weight,
    };
    Arc::new(StreamRoute {
        key: RouteKey {
            kind,
            namespace: "shop".into(),
            name: "passage".into(),
        },
        created: None,
        hostnames: hostnames
            .iter()
            .map(|name| HostPattern::parse(name).unwrap())
            .collect(),
        rules: vec![StreamRule {
            place: 0,
            name: None,
            backends: backends.iter().map(backend).collect(),
        }],
    })
}

fn attach(world: &World, name: &str, streams: Streams) {
    let parent = ParentKey::Producer(ServicePort {
        service: key(name),
        port: 80,
    });
    let attached = Attached {
        streams: Arc::new(streams),
        ..Attached::default()
    };
    world.write(|book| book.attach(parent, attached));
    world.settle();
}

#[test]
fn a_tcp_route_leads_elsewhere_and_a_weight_of_0_gets_nothing() {
    on_both_back_ends(|world| {
        let app = serve(&world.netns, 3);
        let (near, _far) = (world.server("v1", 2), world.server("v2", 3));
        let route = route(RouteKind::Tcp, &[], &[("tcp", 0), ("v2", 1)]);
        attach(world, "tcp", Streams::new([route]));
        for _ in 0..6 {
            let client = world.client.connect(TCP).unwrap();
            talk(&client, &accept(&app), b"routed");
        }
        assert_eq!(near.asked(), 0);
        journal::line(&["connection complete", "shop/passage rule 0", "v2.shop"]);
    });
}

#[test]
fn a_route_without_backends_refuses() {
    on_both_back_ends(|world| {
        let server = world.server("v1", 2);
        attach(
            world,
            "tcp",
            Streams::new([route(RouteKind::Tcp, &[], &[])]),
        );
        expect_reset(&world.client.connect(TCP).unwrap());
        assert_eq!(server.asked(), 0);
    });
}

/// A ClientHello of a real client for that name.
fn hello(name: &'static str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(rustls::RootCertStore::empty())
    .with_no_client_auth();
    let name = name.try_into().unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// TLS for `*.v2.example` goes to v2, all else by the TCPRoute.
fn attach_by_name(world: &World) {
    let named = route(RouteKind::Tls, &["*.v2.example"], &[("v2", 1)]);
    let others = route(RouteKind::Tcp, &[], &[("tcp", 1)]);
    attach(world, "any", Streams::new([named, others]));
}

#[test]
fn a_tls_route_goes_by_the_server_name_and_the_hello_arrives_whole() {
    on_both_back_ends(|world| {
        let apps = (serve(&world.netns, 2), serve(&world.netns, 3));
        let _servers = (world.server("v1", 2), world.server("v2", 3));
        attach_by_name(world);
        for (name, app) in [("a.v2.example", &apps.1), ("a.v1.example", &apps.0)] {
            let hello = hello(name);
            let mut client = world.client.connect(ANY).unwrap();
            // In two pieces, with time in between.
            client.write_all(&hello[..7]).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
            client.write_all(&hello[7..]).unwrap();
            let far = accept(app);
            assert_eq!(receive_exactly(&far, hello.len()), hello);
            talk(&client, &far, b"on");
            far.set_read_timeout(Some(PATIENCE)).unwrap();
        }
    });
}

#[test]
fn a_client_that_is_silent_at_first_is_routed_by_the_name_that_it_says_at_last() {
    on_both_back_ends(|world| {
        let apps = (serve(&world.netns, 2), serve(&world.netns, 3));
        let _servers = (world.server("v1", 2), world.server("v2", 3));
        attach_by_name(world);
        for (name, app) in [("a.v2.example", &apps.1), ("a.v1.example", &apps.0)] {
            let hello = hello(name);
            let mut client = world.client.connect(ANY).unwrap();
            // The waypoint has given up to wait: a server that speaks first would be heard by now.
            let unused = accept(&apps.0);
            client.write_all(&hello[..7]).unwrap();
            client.write_all(&hello[7..]).unwrap();
            expect_reset(&unused);
            let far = accept(app);
            assert_eq!(receive_exactly(&far, hello.len()), hello);
            talk(&client, &far, b"on");
        }
    });
}
