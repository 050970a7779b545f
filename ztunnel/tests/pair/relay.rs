//! Bytes and ends, through the pair and past it.

use std::io::Write;

use mesh::workload::TunnelProtocol;

use crate::app::{accept, expect_reset, noise, receive, receive_exactly, reset, send, talk};
use crate::journal::line;
use crate::world::{World, endpoint_of_service, on_both_back_ends, service, workload, workload_at};

/// More than all windows and buffers on the way hold.
const MUCH: usize = 24 * 1024 * 1024;

#[test]
fn bytes_arrive_exactly_in_both_directions_at_once_and_half_close_passes() {
    on_both_back_ends(|world| {
        for ipv6 in [false, true] {
            let listener = world.server.serve(ipv6);
            let client = world.client.connect(world.server.address(ipv6));
            let server = accept(&listener);
            let (up, down) = (noise(1, MUCH), noise(2, MUCH));
            std::thread::scope(|scope| {
                scope.spawn(|| send(&client, &up));
                scope.spawn(|| send(&server, &down));
                scope.spawn(|| assert!(receive(&server) == up, "upwards"));
                scope.spawn(|| assert!(receive(&client) == down, "downwards"));
            });
            let source = format!("src.addr={}", client.local_addr().unwrap());
            let out = line(&["connection complete", &source, "direction=\"outbound\""]);
            for word in [
                "src.identity=\"spiffe://cluster.local/ns/shop/sa/client\"",
                "dst.identity=\"spiffe://cluster.local/ns/shop/sa/server\"",
                "dst.workload=\"server\"",
                &format!("dst.hbone_addr=\"{}\"", world.server.address(ipv6)),
                &format!("bytes_sent={MUCH} bytes_recv={MUCH}"),
            ] {
                assert!(out.contains(word), "no {word} in {out}");
            }
        }
        world.stop();
    });
}

#[test]
fn the_server_sees_the_address_of_the_client_pod() {
    on_both_back_ends(|world| {
        for ipv6 in [false, true] {
            let listener = world.server.serve(ipv6);
            let client = world.client.connect(world.server.address(ipv6));
            let server = accept(&listener);
            assert_eq!(
                server.peer_addr().unwrap().ip(),
                world.client.address(ipv6).ip()
            );
            assert_eq!(server.local_addr().unwrap(), world.server.address(ipv6));
            talk(&client, &server, b"word");
        }
        world.stop();
    });
}

#[test]
fn a_half_closed_connection_goes_on_in_the_other_direction() {
    on_both_back_ends(|world| {
        let listener = world.server.serve(false);
        let client = world.client.connect(world.server.address(false));
        let server = accept(&listener);
        send(&client, b"the whole question");
        assert_eq!(receive(&server), b"the whole question");
        let answer = noise(3, 300_000);
        send(&server, &answer);
        assert!(receive(&client) == answer);
        world.stop();
    });
}

#[test]
fn a_reset_of_either_application_reaches_the_other() {
    on_both_back_ends(|world| {
        let listener = world.server.serve(false);
        let pair = || {
            let client = world.client.connect(world.server.address(false));
            let server = accept(&listener);
            talk(&client, &server, b"word");
            (client, server)
        };
        let (client, server) = pair();
        reset(client);
        expect_reset(&server);
        let (client, server) = pair();
        reset(server);
        expect_reset(&client);
        world.stop();
    });
}

#[test]
fn a_closed_port_behind_the_peer_is_a_reset() {
    on_both_back_ends(|world| {
        let source = world.client.expect_refusal(world.server.address(false));
        let out = line(&["connection failed", &source, "direction=\"outbound\""]);
        assert!(out.contains("(503)"), "{out}");
        world.stop();
    });
}

#[test]
fn a_server_that_speaks_first_is_heard_outside_of_the_mesh_and_inside() {
    on_both_back_ends(|mut world| {
        let outside = world.net.pod("outside", 9);
        for pod in [&outside, &world.server] {
            let listener = pod.serve(false);
            let client = world.client.connect(pod.address(false));
            let mut server = accept(&listener);
            server.write_all(b"220 ready").unwrap();
            assert_eq!(receive_exactly(&client, 9), b"220 ready");
            talk(&client, &server, b"word");
        }
        world.stop();
    });
}

#[test]
fn a_workload_without_hbone_is_reached_in_plain_tcp() {
    on_both_back_ends(|mut world| {
        let legacy = world.net.pod("legacy", 9);
        world.push(|s| s.insert_workload(workload("legacy", &legacy, TunnelProtocol::None)));
        let listener = legacy.serve(true);
        let client = world.client.connect(legacy.address(true));
        let server = accept(&listener);
        assert_eq!(
            server.peer_addr().unwrap().ip(),
            world.client.address(true).ip()
        );
        talk(&client, &server, b"word");
        drop((client, server));
        world.stop();
    });
}

#[test]
fn plaintext_from_outside_reaches_the_application_with_its_source_kept() {
    on_both_back_ends(|mut world| {
        let outside = world.net.pod("outside", 9);
        for ipv6 in [false, true] {
            let listener = world.server.serve(ipv6);
            let client = outside.connect_plainly(world.server.address(ipv6));
            let server = accept(&listener);
            assert_eq!(server.peer_addr().unwrap().ip(), outside.address(ipv6).ip());
            talk(&client, &server, b"word");
            send(&client, b"");
            assert_eq!(receive(&server), b"");
            send(&server, b"bye");
            assert_eq!(receive(&client), b"bye");
            let source = format!("src.addr={}", client.local_addr().unwrap());
            let inside = line(&["connection complete", &source, "direction=\"inbound\""]);
            assert!(inside.contains("bytes_sent=7 bytes_recv=4"), "{inside}");
        }
        world.stop();
    });
}

#[test]
fn another_endpoint_is_tried_when_the_first_refuses() {
    on_both_back_ends(|mut world| {
        // An address without a proxy: its port 15008 is closed.
        let dead = world.net.pod("dead", 9);
        let (web, address) = service();
        world.push(|s| {
            s.insert_service(web);
            let server = workload("server", &world.server, TunnelProtocol::Hbone);
            s.insert_workload(endpoint_of_service(server));
            let dead = workload_at("dead", &[dead.v4.into()], TunnelProtocol::Hbone);
            s.insert_workload(endpoint_of_service(dead));
        });
        let listener = world.server.serve(false);
        for _ in 0..20 {
            let client = world.client.connect(address);
            let server = accept(&listener);
            talk(&client, &server, b"word");
        }
        world.stop();
    });
}

#[test]
fn many_connections_share_tunnels_and_none_is_lost() {
    on_both_back_ends(|world| {
        let listener = world.server.serve(false);
        let pairs: Vec<_> = (0..150)
            .map(|_| {
                let client = world.client.connect(world.server.address(false));
                (client, accept(&listener))
            })
            .collect();
        for (number, (client, _)) in pairs.iter().enumerate() {
            let mut client = client;
            client.write_all(&(number as u32).to_le_bytes()).unwrap();
        }
        // Each of the two workers has 75 of them on average, and 100 fit into one tunnel.
        let tunnels = world.client.established_to(15008);
        assert!((1..=4).contains(&tunnels), "{tunnels} tunnels");
        // Accepted in the order in which they were made, since each waited for its accept.
        for (number, (_, server)) in pairs.iter().enumerate() {
            assert_eq!(receive_exactly(server, 4), (number as u32).to_le_bytes());
        }
        drop(pairs);
        world.stop();
    });
}

#[test]
fn a_slow_reader_stops_the_sender_and_loses_nothing() {
    on_both_back_ends(|world: World| {
        let listener = world.server.serve(false);
        let client = world.client.connect(world.server.address(false));
        let server = accept(&listener);
        client.set_nonblocking(true).unwrap();
        let bytes = noise(4, 1 << 20);
        // Until nothing more goes in for a while: all windows on the way are full.
        let (mut sent, mut quiet) = (0_usize, 0);
        while quiet < 25 {
            let part = &bytes[sent % bytes.len()..];
            match (&client).write(part) {
                Ok(count) => (sent, quiet) = (sent + count, 0),
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                    quiet += 1;
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
            }
            assert!(
                sent < 200 << 20,
                "{sent} bytes went into a connection that nobody reads"
            );
        }
        client.set_nonblocking(false).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let received = receive(&server);
        assert_eq!(received.len(), sent);
        for (number, part) in received.chunks(bytes.len()).enumerate() {
            assert!(*part == bytes[..part.len()], "MiB {number}");
        }
        world.stop();
    });
}

#[test]
fn a_source_address_that_is_not_the_pods_is_refused() {
    on_both_back_ends(|mut world| {
        let stranger = world.near_pod("stranger", 7);
        // Discovery says that the pod has another address than the one it uses.
        let elsewhere = [[10, 99, 0, 77].into()];
        world.push(|s| {
            s.insert_workload(workload_at("stranger", &elsewhere, TunnelProtocol::Hbone))
        });
        let source = stranger.expect_refusal(world.server.address(false));
        let out = line(&["connection failed", &source]);
        assert!(
            out.contains(&format!("{} is not an address of the pod", stranger.v4)),
            "{out}"
        );
        world.stop();
    });
}

#[test]
fn a_connection_per_question_from_many_threads_is_answered_each_time() {
    on_both_back_ends(|world| {
        let listener = world.server.serve(false);
        let answer = || {
            let server = accept(&listener);
            let question = receive_exactly(&server, 100);
            (&server).write_all(&question).unwrap();
            send(&server, b"end");
            assert_eq!(receive(&server), b"");
        };
        let ask = |seed| {
            let client = world.client.connect(world.server.address(false));
            let question = noise(seed, 100);
            (&client).write_all(&question).unwrap();
            assert_eq!(receive_exactly(&client, 100), question);
            send(&client, b"");
            assert_eq!(receive(&client), b"end");
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..250).for_each(|_| answer()));
                scope.spawn(|| (0..250).for_each(ask));
            }
        });
        world.stop();
    });
}
