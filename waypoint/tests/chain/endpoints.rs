//! Which endpoint takes a connection, and what happens when one does not.

use std::collections::HashMap;
use std::net::TcpListener;

use mesh::workload::{Health, TunnelProtocol};

use crate::app::{accept, expect_reset, talk};
use crate::journal;
use crate::net::serve;
use crate::world::{TCP, World, on_both_back_ends, pod};

/// A second endpoint beside v1.
fn two(world: &World) {
    world.change(|mesh| mesh.insert_workload(pod("v1b", 4, &["tcp", "any", "http"])));
}

/// Where so many connections go that stay open.
fn spread(world: &World, apps: [&TcpListener; 2], count: usize) -> HashMap<usize, usize> {
    for app in apps {
        app.set_nonblocking(true).unwrap();
    }
    let mut clients = Vec::new();
    let mut found = HashMap::new();
    for _ in 0..count {
        clients.push(world.client.connect(TCP).unwrap());
        let deadline = std::time::Instant::now() + crate::net::PATIENCE;
        let (which, far) = loop {
            let accepted = apps.iter().enumerate().find_map(|(number, app)| {
                let (stream, _) = app.accept().ok()?;
                Some((number, stream))
            });
            if let Some(accepted) = accepted {
                break accepted;
            }
            assert!(std::time::Instant::now() < deadline, "no endpoint takes it");
            std::thread::sleep(std::time::Duration::from_millis(1));
        };
        far.set_nonblocking(false).unwrap();
        *found.entry(which).or_default() += 1;
        clients.push(far);
    }
    found
}

#[test]
fn connections_that_stay_go_to_both_of_two_endpoints_alike() {
    on_both_back_ends(|world| {
        two(world);
        let apps = (serve(&world.netns, 2), serve(&world.netns, 4));
        let _servers = (world.server("v1", 2), world.server("v1b", 4));
        let found = spread(world, [&apps.0, &apps.1], 12);
        // All come by one tunnel, so to one worker, which counts what each carries.
        assert_eq!(found, HashMap::from([(0, 6), (1, 6)]));
    });
}

#[test]
fn an_endpoint_that_cannot_be_reached_costs_no_connection() {
    on_both_back_ends(|world| {
        two(world);
        let app = serve(&world.netns, 4);
        let _server = world.server("v1b", 4);
        // Nobody listens for v1 at all.
        for _ in 0..6 {
            let client = world.client.connect(TCP).unwrap();
            talk(&client, &accept(&app), b"moved on");
        }
    });
}

#[test]
fn an_endpoint_whose_proxy_answers_503_is_left_for_another() {
    on_both_back_ends(|world| {
        two(world);
        let app = (serve(&world.netns, 2), serve(&world.netns, 4));
        let (full, _free) = (world.server("v1", 2), world.server("v1b", 4));
        full.refuse(503);
        for _ in 0..6 {
            let client = world.client.connect(TCP).unwrap();
            talk(&client, &accept(&app.1), b"moved on");
        }
    });
}

#[test]
fn when_no_endpoint_can_be_reached_the_client_sees_a_reset_and_the_log_why() {
    on_both_back_ends(|world| {
        let client = world.client.connect(TCP).unwrap();
        expect_reset(&client);
        journal::line(&[
            "connection failed",
            "connecting to 10.98.0.2:15008: connection refused",
        ]);
    });
}

#[test]
fn a_refusal_by_policy_is_not_tried_elsewhere() {
    on_both_back_ends(|world| {
        let _app = serve(&world.netns, 2);
        let server = world.server("v1", 2);
        server.refuse(401);
        expect_reset(&world.client.connect(TCP).unwrap());
        assert_eq!(server.asked(), 1);
        journal::line(&["connection failed", "refused by policy (401)"]);
    });
}

#[test]
fn an_unhealthy_endpoint_gets_nothing_new() {
    on_both_back_ends(|world| {
        two(world);
        let mut sick = pod("v1", 2, &["tcp"]);
        sick.health = Health::Unhealthy;
        world.change(|mesh| mesh.insert_workload(sick));
        let app = serve(&world.netns, 4);
        let (away, _here) = (world.server("v1", 2), world.server("v1b", 4));
        for _ in 0..6 {
            let client = world.client.connect(TCP).unwrap();
            talk(&client, &accept(&app), b"healthy");
        }
        assert_eq!(away.asked(), 0);
    });
}

#[test]
fn an_endpoint_that_speaks_no_hbone_is_reached_in_plain_tcp() {
    on_both_back_ends(|world| {
        let mut plain = pod("v1", 2, &["tcp"]);
        plain.tunnel = TunnelProtocol::None;
        world.change(|mesh| mesh.insert_workload(plain));
        let app = serve(&world.netns, 2);
        let client = world.client.connect(TCP).unwrap();
        talk(&client, &accept(&app), b"plain");
    });
}

#[test]
fn an_endpoint_with_another_identity_than_discovery_says_gets_no_byte() {
    on_both_back_ends(|world| {
        let _app = serve(&world.netns, 2);
        let impostor = world.server("mallory", 2);
        expect_reset(&world.client.connect(TCP).unwrap());
        assert_eq!(impostor.asked(), 0);
    });
}
