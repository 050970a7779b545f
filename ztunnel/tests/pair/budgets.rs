//! Past a limit new work is refused with a reason, and what exists goes on; nobody can take all.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use carrier::limits::Limits;
use hbone::CloseReason;

use crate::app::{accept, expect_reset, noise, receive, talk};
use crate::journal::line;
use crate::net::{PATIENCE, PodNet};
use crate::raw::Peer;
use crate::world::{World, identity, limited_on_both_back_ends};

/// Half handshakes beyond the limit.
const REFUSED: usize = 24;

fn hbone(world: &World) -> SocketAddr {
    SocketAddr::new(world.server.v4.into(), 15008)
}

/// A peer of that service account with a tunnel to the server's pod.
fn peer(world: &World, account: &str) -> Peer {
    let mut peer = begun(world, account);
    peer.establish().unwrap();
    peer
}

fn begun(world: &World, account: &str) -> Peer {
    let id = format!("spiffe://cluster.local/ns/shop/sa/{account}");
    let credentials = world.ca.credentials(&id, |_| {});
    let socket = world.client.connect_plainly(hbone(world));
    Peer::client(socket, &credentials, &[identity("server")])
}

fn reached(world: &World, limit: &str, fate: &str) -> u64 {
    let start = format!(r#"culvert_limit_reached_total{{limit="{limit}",fate="{fate}"}}"#);
    world.far.counted(&start)
}

/// A connection of `pod` to the server through both proxies, that works.
fn works(world: &World, pod: &PodNet) {
    let listener = world.server.serve(false);
    let client = pod.connect(world.server.address(false));
    let server = accept(&listener);
    talk(&client, &server, b"goes on");
}

#[test]
fn half_handshakes_of_one_address_are_bounded_and_leave_the_others_room() {
    let limits = Limits {
        handshakes_per_worker: 64,
        handshakes_per_address: 8,
        ..Limits::default()
    };
    limited_on_both_back_ends(limits, |mut world| {
        let honest = world.near_pod("honest", 7);
        let half: Vec<_> = (0..8)
            .map(|_| world.client.connect_plainly(hbone(&world)))
            .collect();
        // All within the time that a handshake may take, or the half ones would end.
        let refused: Vec<_> = (0..REFUSED)
            .map(|_| world.client.expect_plain_refusal(hbone(&world)))
            .collect();
        let source = &refused[REFUSED - 1];
        let why = "limit reached: TLS handshakes in flight of this peer address";
        line(&["connection failed", source, why]);
        works(&world, &honest);
        assert_eq!(
            reached(&world, "handshakes_per_address", "refused"),
            REFUSED as u64
        );
        assert_eq!(reached(&world, "handshakes_per_worker", "evicted"), 0);
        drop(half);
        world.stop();
    });
}

#[test]
fn where_half_handshakes_have_taken_all_the_oldest_of_the_greediest_makes_room() {
    let limits = Limits {
        handshakes_per_worker: 8,
        handshakes_per_address: 8,
        ..Limits::default()
    };
    limited_on_both_back_ends(limits, |mut world| {
        let honest = world.near_pod("honest", 7);
        let half: Vec<_> = (0..8)
            .map(|_| world.client.connect_plainly(hbone(&world)))
            .collect();
        works(&world, &honest);
        expect_reset(&half[0]);
        let source = format!("src.addr={}", half[0].local_addr().unwrap());
        line(&["connection failed", &source, "made room for another"]);
        assert_eq!(reached(&world, "handshakes_per_worker", "evicted"), 1);
        world.stop();
    });
}

#[test]
fn a_tunnel_without_streams_makes_room_for_another_of_its_peer() {
    let limits = Limits {
        inbound_tunnels_per_peer: 2,
        ..Limits::default()
    };
    limited_on_both_back_ends(limits, |world| {
        let listener = world.server.serve(false);
        let to = world.server.address(false).to_string();
        let mut busy = peer(&world, "greedy");
        assert_eq!(busy.ask(&to), Ok(200));
        let mut other = peer(&world, "other");
        let mut idle = peer(&world, "greedy");
        let mut third = peer(&world, "greedy");
        idle.let_go();
        for peer in [&mut busy, &mut third, &mut other] {
            assert_eq!(peer.ask(&to), Ok(200));
        }
        assert_eq!(reached(&world, "inbound_tunnels_per_peer", "evicted"), 1);
        (0..4).for_each(|_| drop(accept(&listener)));
        world.stop();
    });
}

#[test]
fn where_all_tunnels_of_a_pod_are_in_use_a_new_one_is_refused_and_they_go_on() {
    let limits = Limits {
        inbound_tunnels_per_pod: 2,
        ..Limits::default()
    };
    limited_on_both_back_ends(limits, |world| {
        let listener = world.server.serve(false);
        let to = world.server.address(false).to_string();
        let mut busy = ["one", "two"].map(|name| peer(&world, name));
        for peer in &mut busy {
            assert_eq!(peer.ask(&to), Ok(200));
        }
        let mut late = begun(&world, "late");
        let outcome = late.establish().and_then(|()| late.ask(&to));
        assert!(
            matches!(
                outcome,
                Err(CloseReason::ByPeer { .. } | CloseReason::Eof { .. })
            ),
            "{outcome:?}"
        );
        let id = "src.identity=\"spiffe://cluster.local/ns/shop/sa/late\"";
        line(&[
            "connection failed",
            id,
            "limit reached: inbound tunnels of this pod",
        ]);
        for peer in &mut busy {
            assert_eq!(peer.ask(&to), Ok(200));
        }
        assert_eq!(reached(&world, "inbound_tunnels_per_pod", "refused"), 1);
        (0..4).for_each(|_| drop(accept(&listener)));
        world.stop();
    });
}

/// Whether a connection arrives, and works; it is reset otherwise.
fn arrives(pod: &PodNet, to: SocketAddr, listener: &TcpListener) -> bool {
    let Ok(client) = pod.try_connect(to) else {
        return false;
    };
    client.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Ok((server, _)) = listener.accept() {
            for stream in [&client, &server] {
                stream.set_nonblocking(false).unwrap();
            }
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            talk(&client, &server, b"room again");
            return true;
        }
        match (&client).read(&mut [0]) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            _ => return false,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("it neither arrives nor is refused");
}

#[test]
fn a_pod_past_its_connections_is_refused_more_and_keeps_those_it_has() {
    let limits = Limits {
        connections_per_pod: 2,
        ..Limits::default()
    };
    limited_on_both_back_ends(limits, |mut world| {
        let other = world.near_pod("other", 7);
        let to = world.server.address(false);
        let listener = world.server.serve(false);
        let kept: Vec<_> = (0..2)
            .map(|_| {
                let client = world.client.connect(to);
                (client, accept(&listener))
            })
            .collect();
        let source = world.client.expect_refusal(to);
        let why = "limit reached: connections of this pod on this worker";
        line(&["connection failed", &source, why, "direction=\"outbound\""]);
        // The other pod has its own share here, but the server's pod has used up its own.
        let source = other.expect_refusal(to);
        line(&[
            "connection failed",
            &source,
            "(503)",
            "direction=\"outbound\"",
        ]);
        for (client, server) in &kept {
            talk(client, server, b"still here");
        }
        assert_eq!(reached(&world, "connections_per_pod", "refused"), 1);
        drop(kept);
        let deadline = Instant::now() + PATIENCE;
        listener.set_nonblocking(true).unwrap();
        // As soon as one has ended there is room again.
        while !arrives(&world.client, to, &listener) {
            assert!(Instant::now() < deadline, "no room came back");
        }
        world.stop();
    });
}

#[test]
fn streams_that_nobody_reads_fill_the_budget_and_no_more_and_all_arrives_in_the_end() {
    const MIB: usize = 1 << 20;
    let limits = Limits {
        stream_window: MIB,
        stream_window_max: MIB,
        tunnel_window: MIB,
        tunnel_backlog: MIB,
        buffered_per_worker: MIB,
        ..Limits::default()
    };
    limited_on_both_back_ends(limits, |world| {
        let listener = world.server.serve(false);
        // Small buffers of the kernel on both ends of the application's connections: what nobody
        // reads stays in the proxy.
        let small = || std::fs::write("/proc/sys/net/ipv4/tcp_wmem", "4096 16384 65536");
        world.server.netns.enter(small).unwrap().unwrap();
        let small = socket2::SockRef::from(&listener);
        small.set_recv_buffer_size(64 * 1024).unwrap();
        let to = world.server.address(false).to_string();
        let mut late = peer(&world, "late");
        let data = noise(3, 24 * MIB);
        let mut stalled: Vec<_> = (0..4)
            .map(|n| {
                let mut peer = peer(&world, &format!("stalled-{n}"));
                let (status, stream) = peer.open(&to).unwrap();
                assert_eq!(status, 200);
                (peer, stream, 0, accept(&listener))
            })
            .collect();
        let deadline = Instant::now() + 6 * PATIENCE;
        while late.probe(&to) != Ok(503) {
            assert!(Instant::now() < deadline, "the budget is never reached");
            drop(accept(&listener));
            for (peer, stream, sent, _) in &mut stalled {
                *sent += peer.push(*stream, &data[*sent..], Duration::from_millis(100));
            }
        }
        let id = "src.identity=\"spiffe://cluster.local/ns/shop/sa/late\"";
        line(&[
            "connection failed",
            id,
            "limit reached: bytes buffered by this worker",
        ]);
        assert!(reached(&world, "buffered_per_worker", "refused") >= 1);
        let all: usize = stalled.iter().map(|(_, _, sent, _)| sent).sum();
        assert!(all < 4 * data.len(), "the peers are not held back");
        // The applications begin to read.
        std::thread::scope(|scope| {
            for (mut peer, stream, mut sent, server) in stalled.drain(..) {
                let data = &data;
                let read = scope.spawn(move || receive(&server));
                scope.spawn(move || {
                    while sent < data.len() {
                        sent += peer.push(stream, &data[sent..], PATIENCE);
                    }
                    peer.finish(stream);
                    let received = read.join().unwrap();
                    assert!(
                        received == *data,
                        "{} bytes arrived changed",
                        received.len()
                    );
                });
            }
        });
        let deadline = Instant::now() + 6 * PATIENCE;
        while late.probe(&to) != Ok(200) {
            assert!(Instant::now() < deadline, "the budget is not given back");
        }
        drop(accept(&listener));
        world.stop();
    });
}

#[test]
fn bytes_of_an_open_connection_are_counted_before_it_ends() {
    let world = World::with(netio::Backend::Epoll, 1, Limits::default());
    let listener = world.server.serve(false);
    let client = world.client.connect(world.server.address(false));
    let server = accept(&listener);
    talk(&client, &server, b"twelve bytes");
    let deadline = Instant::now() + 4 * PATIENCE;
    let sent = || world.near.counted("istio_tcp_sent_bytes_total");
    while sent() != 12 {
        assert!(Instant::now() < deadline, "{} bytes", sent());
        std::thread::sleep(Duration::from_millis(100));
    }
    talk(&client, &server, b"more");
    drop(client);
    assert_eq!((&server).read(&mut [0]).unwrap(), 0);
    drop(server);
    let deadline = Instant::now() + 6 * PATIENCE;
    while sent() != 16 {
        assert!(Instant::now() < deadline, "{} bytes", sent());
        std::thread::sleep(Duration::from_millis(10));
    }
    world.stop();
}
