//! What the waypoint takes, and what it refuses, with which words.

use std::net::TcpStream;
use std::time::Instant;

use carrier::limits::Limits;
use mesh::service::AppProtocol;

use crate::app::{accept, noise, receive, receive_exactly, send, talk};
use crate::journal;
use crate::net::{PATIENCE, serve};
use crate::peer::{CLIENT, Client, Refused, Seen};
use crate::world::{HTTP, TCP, World, identity, on_both_back_ends, service, with_limits};

fn refused(world: &World, authority: &str) -> (u16, String) {
    world.client.connect(authority).unwrap_err()
}

#[test]
fn bytes_pass_both_ways_and_so_does_a_half_close() {
    on_both_back_ends(|world| {
        let (app, server) = (serve(&world.netns, 2), world.server("v1", 2));
        let client = world.client.connect(TCP).unwrap();
        let far = accept(&app);
        talk(&client, &far, b"hello");
        let (up, down) = (noise(1, 3_000_000), noise(2, 2_000_000));
        let check = |stream: &TcpStream, theirs: &[u8], own: &[u8]| {
            std::thread::scope(|scope| {
                scope.spawn(|| send(stream, own));
                assert!(receive(stream) == theirs);
            });
        };
        std::thread::scope(|scope| {
            scope.spawn(|| check(&far, &up, &down));
            check(&client, &down, &up);
        });
        let seen = server.seen.lock().unwrap();
        let expected = Seen {
            authority: "10.98.0.2:8080".to_owned(),
            client: Some(CLIENT.parse().unwrap()),
            peer: identity("waypoint"),
        };
        assert_eq!(*seen, [expected]);
        let line = journal::line(&["connection complete", "bytes_recv=2000005"]);
        for word in [
            "bytes_sent=3000005",
            "src.identity=\"spiffe://cluster.local/ns/shop/sa/client\"",
            "dst.service=\"tcp.shop.svc.cluster.local\"",
            "dst.workload=\"v1\"",
            "direction=\"waypoint\"",
        ] {
            assert!(line.contains(word), "{word}: {line}");
        }
    });
}

#[test]
fn an_application_that_speaks_first_is_heard() {
    on_both_back_ends(|world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        let client = world.client.connect(TCP).unwrap();
        talk(&accept(&app), &client, b"220 welcome");
    });
}

#[test]
fn what_is_not_bound_is_refused_with_403_and_a_reason() {
    on_both_back_ends(|world| {
        let server = world.server("v1", 2);
        for (authority, why) in [
            ("127.0.0.1:80", "no address that a waypoint connects to"),
            ("169.254.169.254:80", "no address that a waypoint connects"),
            ("[::1]:15000", "no address that a waypoint connects to"),
            ("10.98.0.9:15008", "is the waypoint itself"),
            ("10.98.0.2:8080", "not bound to this waypoint"),
            ("10.98.0.2:15008", "belongs to the proxies"),
            ("10.96.0.9:80", "not bound to this waypoint"),
            ("10.96.0.77:80", "no open relay"),
            ("10.96.0.1:81", "has no port 81"),
            ("bare.shop.svc.cluster.local:80", "not bound"),
            ("example.com:80", "no service has the host name"),
        ] {
            let (status, reason) = refused(world, authority);
            assert_eq!(status, 403, "{authority}: {reason}");
            assert!(reason.contains(why), "{authority}: {reason}");
        }
        let (status, reason) = refused(world, "nothing");
        assert_eq!(status, 400, "{reason}");
        assert_eq!(server.asked(), 0);
        journal::line(&["connection failed", "10.96.0.77:80", "no open relay"]);
    });
}

#[test]
fn a_service_is_taken_by_its_host_name_too() {
    on_both_back_ends(|world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        let authority = "tcp.shop.svc.cluster.local:80";
        let client = world.client.connect(authority).unwrap();
        talk(&client, &accept(&app), b"by name");
    });
}

/// Asks again until it goes so: the workers hear of a change in their own time.
fn until(world: &World, authority: &str, is_so: impl Fn(&Result<TcpStream, Refused>) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let outcome = world.client.connect(authority);
        if is_so(&outcome) {
            return;
        }
        assert!(Instant::now() < deadline, "{outcome:?}");
    }
}

#[test]
fn clients_of_one_identity_do_not_keep_the_others_out() {
    let limits = Limits {
        connections_per_peer: 2,
        ..Limits::default()
    };
    with_limits(&limits, |world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        let held: Vec<_> = (0..2)
            .map(|_| (world.client.connect(TCP).unwrap(), accept(&app)))
            .collect();
        let (status, why) = refused(world, TCP);
        assert_eq!(status, 503, "{why}");
        assert!(why.contains("connections of this client"), "{why}");
        let other = Client::start(world.backend, &world.netns, &world.ca, "other");
        let client = other.connect(TCP).unwrap();
        talk(&client, &accept(&app), b"another one");
        journal::line(&["connection failed", "connections of this client"]);
        drop(held);
        until(world, TCP, Result::is_ok);
    });
}

#[test]
fn a_service_that_is_taken_away_ends_its_http_in_order_and_leaves_streams_alone() {
    on_both_back_ends(|world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        let stream = world.client.connect(TCP).unwrap();
        let stream_far = accept(&app);
        talk(&stream, &stream_far, b"before");
        let client = world.client.connect(HTTP).unwrap();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
        let ask = b"GET / HTTP/1.1\r\nHost: web\r\n\r\n";
        std::io::Write::write_all(&mut &client, ask).unwrap();
        let far = accept(&app);
        assert_eq!(receive_exactly(&far, 4), b"GET ");
        std::io::Write::write_all(&mut &far, answer).unwrap();
        assert_eq!(receive_exactly(&client, 15), b"HTTP/1.1 200 OK");
        for (name, host, protocol) in [
            ("http", 2, AppProtocol::Http11),
            ("tcp", 1, AppProtocol::Tcp),
        ] {
            let mut away = service(name, host, protocol);
            away.waypoint = None;
            world.change(|mesh| mesh.insert_service(away));
        }
        // An end, not a reset.
        assert!(receive(&client).ends_with(b"hi"));
        until(
            world,
            HTTP,
            |it| matches!(it, Err((403, why)) if why.contains("not bound")),
        );
        talk(&stream, &stream_far, b"after");
        let back = service("http", 2, AppProtocol::Http11);
        world.change(|mesh| mesh.insert_service(back));
        until(world, HTTP, Result::is_ok);
    });
}
