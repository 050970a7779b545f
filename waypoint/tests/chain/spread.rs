//! How the tunnels of clients' proxies are spread over the workers of a waypoint.

use crate::app::{accept, talk};
use crate::net::serve;
use crate::peer::Client;
use crate::world::{TCP, World, on_both_back_ends};

/// Clients, each with a tunnel of its own.
const CLIENTS: usize = 8;

/// What each of the two workers has of a kind.
fn open(world: &World, kind: &str) -> [u64; 2] {
    [0, 1].map(|worker| {
        let line = format!(r#"culvert_worker_open{{worker="{worker}",kind="{kind}"}}"#);
        world.counted(&line)
    })
}

#[test]
fn tunnels_of_clients_are_spread_evenly_over_the_workers() {
    on_both_back_ends(|world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        let client = |_| Client::start(world.backend, &world.netns, &world.ca, "client");
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        let open_one = |client: &Client| {
            let near = client.connect(TCP).unwrap();
            let far = accept(&app);
            talk(&near, &far, b"hello");
            (near, far)
        };
        let connections: Vec<_> = clients.iter().map(open_one).collect();
        // One after the other, so no decision meets another.
        let even = [CLIENTS as u64 / 2; 2];
        assert_eq!(open(world, "tunnel"), even);
        assert_eq!(open(world, "connection"), even);
        drop(connections);
    });
}
