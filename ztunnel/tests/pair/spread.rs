//! How connections and tunnels are spread over the workers of a node.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use carrier::limits::Limits;
use netio::Backend;

use crate::app::{accept, receive_exactly};
use crate::net::PATIENCE;
use crate::world::{Node, World};

/// Connections that are opened at once, and stay.
const BURST: usize = 64;

/// What each worker of a node has of a kind.
fn open(node: &Node, kind: &str, workers: usize) -> Vec<u64> {
    let of = |worker| {
        let line = format!(r#"culvert_worker_open{{worker="{worker}",kind="{kind}"}}"#);
        node.counted(&line)
    };
    (0..workers).map(of).collect()
}

/// Each of the others may have decided by counts that were right a moment ago: one more for each.
fn assert_even(counts: &[u64], what: &str) {
    let (most, least) = (counts.iter().max().unwrap(), counts.iter().min().unwrap());
    assert!(most - least <= counts.len() as u64, "{what}: {counts:?}");
}

#[test]
fn a_burst_of_long_connections_is_spread_evenly_over_the_workers_of_both_nodes() {
    for backend in [Backend::Epoll, Backend::IoUring] {
        for workers in [2, 4] {
            eprintln!("back end {backend}, {workers} workers");
            let world = World::with(backend, workers, Limits::default());
            let listener = world.server.serve(false);
            let connect = |_| world.client.connect(world.server.address(false));
            let clients: Vec<TcpStream> = (0..BURST).map(connect).collect();
            let servers: Vec<_> = clients.iter().map(|_| accept(&listener)).collect();
            let near = open(&world.near, "connection", workers);
            assert_eq!(near.iter().sum::<u64>(), BURST as u64, "{near:?}");
            assert_even(&near, "connections of the near node");
            let tunnels = open(&world.far, "tunnel", workers);
            assert!(tunnels.iter().sum::<u64>() >= workers as u64, "{tunnels:?}");
            assert_even(&tunnels, "tunnels of the far node");
            let far = open(&world.far, "connection", workers);
            assert_eq!(far.iter().sum::<u64>(), BURST as u64, "{far:?}");
            work(&clients, &servers);
            drop((clients, servers));
            all_end(&world.near, workers);
            all_end(&world.far, workers);
            world.stop();
        }
    }
}

/// They carry bytes both ways, wherever they are served.
fn work(clients: &[TcpStream], servers: &[TcpStream]) {
    for (number, mut client) in clients.iter().enumerate() {
        client.write_all(&number.to_be_bytes()).unwrap();
    }
    // In which order they came the server does not know.
    for mut server in servers {
        let word = receive_exactly(server, size_of::<usize>());
        server.write_all(&word).unwrap();
    }
    for (number, client) in clients.iter().enumerate() {
        let word = receive_exactly(client, size_of::<usize>());
        assert_eq!(word, number.to_be_bytes());
    }
}

/// Nothing is counted for ever.
fn all_end(node: &Node, workers: usize) {
    let deadline = Instant::now() + PATIENCE;
    while open(node, "connection", workers)
        .iter()
        .any(|count| *count > 0)
    {
        assert!(Instant::now() < deadline, "connections are counted on");
        std::thread::sleep(Duration::from_millis(5));
    }
}
