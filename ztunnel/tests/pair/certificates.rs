//! The end of a certificate that a tunnel was made with.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use netio::Backend;

use crate::app::{accept, receive, send, talk};
use crate::ca::Ca;
use crate::journal::line_beside;
use crate::net::{PATIENCE, PodNet};
use crate::world::{World, config};

/// Long enough for a renewal at half of it on a busy machine.
const LIFE: Duration = Duration::from_secs(8);

#[test]
fn a_tunnel_whose_certificate_has_ended_keeps_its_connections_and_takes_no_new_ones() {
    for backend in [Backend::Epoll, Backend::IoUring] {
        eprintln!("back end {backend}");
        let world = World::under(Ca::for_only(LIFE), backend, 1, config());
        let listener = world.server.serve(false);
        let to = world.server.address(false);
        let live = world.client.connect(to);
        let live_server = accept(&listener);
        talk(&live, &live_server, b"before");
        assert_eq!(tunnels(&world.client), 1);
        // As long as the certificate is valid, new connections share its tunnel.
        let deadline = Instant::now() + LIFE + PATIENCE;
        while tunnels(&world.client) < 2 {
            assert!(
                Instant::now() < deadline,
                "new connections stay in the old tunnel"
            );
            std::thread::sleep(Duration::from_millis(100));
            whole(&world.client.connect(to), &accept(&listener));
        }
        // With the live connection in it, and perhaps one of those in between.
        line_beside(&["a certificate of a tunnel has ended"], &["streams=0"]);
        talk(&live, &live_server, b"after the end of the certificate");
        whole(&live, &live_server);
        // Tunnels without streams go with their certificates too, long before they are idle for
        // too long.
        let deadline = Instant::now() + PATIENCE;
        while tunnels(&world.client) > 0 {
            assert!(Instant::now() < deadline, "a tunnel stays");
            std::thread::sleep(Duration::from_millis(50));
        }
        world.stop();
    }
}

/// A last word, and the end of both directions.
fn whole(client: &TcpStream, server: &TcpStream) {
    talk(client, server, b"word");
    send(client, b"");
    send(server, b"");
    assert_eq!((receive(client), receive(server)), (vec![], vec![]));
}

fn tunnels(pod: &PodNet) -> usize {
    pod.established_to(15008)
}
