//! The end of a waypoint: what is under way ends in its own time.

use std::io::Write;

use crate::app::{accept, receive, talk};
use crate::net::{PATIENCE, serve};
use crate::world::{TCP, World, on_both_back_ends};

/// Begins a drain that may take so long.
fn drain(world: &World, within: std::time::Duration) {
    world.runtime.block_on(world.proxy.workers.drain(within));
}

#[test]
fn open_connections_outlive_the_beginning_of_a_drain_and_lose_no_byte() {
    on_both_back_ends(|world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        let client = world.client.connect(TCP).unwrap();
        let far = accept(&app);
        talk(&client, &far, b"before");
        drain(world, PATIENCE);
        std::thread::sleep(std::time::Duration::from_millis(200));
        talk(&client, &far, b"meanwhile");
        crate::app::send(&client, b"last");
        assert_eq!(receive(&far), b"last");
        crate::app::send(&far, b"bye");
        assert_eq!(receive(&client), b"bye");
        world.runtime.block_on(async {
            while let Some(ended) = world.proxy.threads.next().await {
                ended.unwrap();
            }
        });
    });
}

#[test]
fn what_is_quiet_at_the_deadline_is_closed_and_not_reset() {
    on_both_back_ends(|world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        let mut client = world.client.connect(TCP).unwrap();
        let far = accept(&app);
        talk(&client, &far, b"before");
        drain(world, std::time::Duration::from_millis(100));
        assert_eq!(receive(&client), b"", "an end, no reset");
        assert_eq!(receive(&far), b"");
        // Its own end may come too late to be heard.
        let _ = client.flush();
    });
}
