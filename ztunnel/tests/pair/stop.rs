//! The end of a proxy and of a pod.

use std::time::Duration;

use ztunnel::pod::PodUid;

use crate::app::{accept, expect_reset, receive, send, talk};
use crate::journal::line;
use crate::net::PATIENCE;
use crate::world::{Node, World, config, on_both_back_ends, patiently_on_both_back_ends};

#[test]
fn a_connection_may_end_by_itself_while_the_proxy_drains() {
    on_both_back_ends(|world| {
        let listener = world.server.serve(false);
        let client = world.client.connect(world.server.address(false));
        let server = accept(&listener);
        talk(&client, &server, b"before");
        let ended = std::thread::scope(|scope| {
            let World {
                runtime, near, far, ..
            } = world;
            let talking = scope.spawn(|| {
                // It may come before the drain begins; mostly it does not.
                std::thread::sleep(Duration::from_millis(100));
                talk(&client, &server, b"while it drains");
                send(&client, b"last");
                let upwards = receive(&server);
                send(&server, b"words");
                (upwards, receive(&client))
            });
            // Long enough for what lives: a slow machine must not cut it off.
            runtime.block_on(async {
                near.stop_within(PATIENCE).await;
                far.stop_within(PATIENCE).await;
            });
            talking.join().unwrap()
        });
        assert_eq!(ended, (b"last".to_vec(), b"words".to_vec()));
    });
}

#[test]
fn what_is_quiet_at_the_deadline_is_closed() {
    // Not reset, however long the applications take to hear of it.
    patiently_on_both_back_ends(|world| {
        let listener = world.server.serve(false);
        let client = world.client.connect(world.server.address(false));
        let server = accept(&listener);
        talk(&client, &server, b"before");
        let source = format!("src.addr={}", client.local_addr().unwrap());
        let ends = std::thread::scope(|scope| {
            // As applications do: each closes when it hears that the other has.
            let ends = [client, server].map(|stream| scope.spawn(move || receive(&stream)));
            world.stop();
            ends.map(|end| end.join().unwrap())
        });
        assert_eq!(ends, [Vec::<u8>::new(), Vec::new()]);
        line(&["connection failed", &source, "the drain deadline is over"]);
    });
}

#[test]
fn what_waits_for_an_answer_at_the_deadline_is_reset() {
    on_both_back_ends(|world| {
        let listener = world.server.serve(false);
        let client = world.client.connect(world.server.address(false));
        let server = accept(&listener);
        send(&client, b"question");
        assert_eq!(receive(&server), b"question");
        world.stop();
        expect_reset(&client);
        let source = format!("src.addr={}", client.local_addr().unwrap());
        line(&["connection failed", &source, "the drain deadline is over"]);
    });
}

#[test]
fn connections_of_a_pod_that_is_gone_end_and_those_of_others_do_not() {
    on_both_back_ends(|mut world| {
        let other = world.near_pod("other", 7);
        let listener = world.server.serve(false);
        let to = world.server.address(false);
        let client = world.client.connect(to);
        let server = accept(&listener);
        let other_client = other.connect(to);
        let other_server = accept(&listener);
        talk(&client, &server, b"word");
        let gone = PodUid("uid-client".into());
        world
            .runtime
            .block_on(world.near.proxy.pods.delete(&gone))
            .unwrap();
        expect_reset(&client);
        expect_reset(&server);
        talk(&other_client, &other_server, b"word");
        world.stop();
    });
}

#[test]
fn live_connections_are_shown() {
    on_both_back_ends(|world| {
        let listener = world.server.serve(false);
        let client = world.client.connect(world.server.address(false));
        let server = accept(&listener);
        talk(&client, &server, b"word");
        let near = world.runtime.block_on(world.near.proxy.workers.dump());
        let far = world.runtime.block_on(world.far.proxy.workers.dump());
        assert_eq!((near.len(), far.len()), (1, 1));
        assert_eq!(near[0].pod, PodUid("uid-client".into()));
        assert_eq!(far[0].direction, ztunnel::connection::Direction::Inbound);
        drop((client, server));
        world.stop();
    });
}

#[test]
fn a_successor_takes_over_without_a_failed_connection() {
    on_both_back_ends(|world| {
        let World {
            runtime,
            ca,
            snapshots,
            client,
            server,
            near,
            far,
            backend,
            net,
        } = world;
        let listener = server.serve(false);
        let to = server.address(false);
        let live = client.connect(to);
        let live_server = accept(&listener);
        talk(&live, &live_server, b"before");
        // Both have the same listeners, as the agent would hand them.
        let _context = runtime.enter();
        let mut next = Node::start((backend, 2), config(), snapshots.subscribe(), &ca);
        let same = far
            .handed
            .iter()
            .map(|fd| fd.try_clone().unwrap())
            .collect();
        runtime.block_on(next.add_with("server", &server, same));
        drop(_context);
        std::thread::scope(|scope| {
            // Long enough for what lives: a slow machine must not cut it off.
            let stopping = scope.spawn(|| runtime.block_on(far.stop_within(PATIENCE)));
            let mut made = 0;
            while !stopping.is_finished() || made < 50 {
                let client = client.connect(to);
                let server = accept(&listener);
                talk(&client, &server, b"new");
                made += 1;
                if made == 20 {
                    talk(&live, &live_server, b"while it drains");
                    send(&live, b"");
                    send(&live_server, b"");
                    assert_eq!((receive(&live), receive(&live_server)), (vec![], vec![]));
                }
            }
        });
        runtime.block_on(async {
            near.stop().await;
            next.stop().await;
        });
        drop(net);
    });
}
