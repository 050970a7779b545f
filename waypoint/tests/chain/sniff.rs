//! Ports that do not say what they carry.

use std::io::Write;

use crate::app::{accept, receive_exactly, talk};
use crate::journal;
use crate::net::serve;
use crate::world::{ANY, on_both_back_ends};

#[test]
fn bytes_that_are_no_http_pass_as_they_are() {
    on_both_back_ends(|world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        for word in [&b"SET key value\r\n"[..], b"\0\x01binary", b"GET key\r\n"] {
            let mut client = world.client.connect(ANY).unwrap();
            client.write_all(word).unwrap();
            let far = accept(&app);
            assert_eq!(receive_exactly(&far, word.len()), word);
            talk(&client, &far, b"more");
        }
    });
}

#[test]
fn a_server_that_speaks_first_is_heard_though_nobody_knows_the_protocol() {
    on_both_back_ends(|world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        let client = world.client.connect(ANY).unwrap();
        let far = accept(&app);
        talk(&far, &client, b"220 smtp");
        talk(&client, &far, b"EHLO x");
    });
}

#[test]
fn a_silent_client_that_says_no_http_at_last_passes() {
    on_both_back_ends(|world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        let client = world.client.connect(ANY).unwrap();
        // The endpoint is connected by the waypoint's own decision.
        let far = accept(&app);
        talk(&client, &far, b"late");
        drop((client, far));
        journal::line(&["connection complete", "dst.workload=\"v1\"", "bytes_sent=4"]);
    });
}

#[test]
fn a_client_that_ends_without_a_word_ends_at_the_server() {
    on_both_back_ends(|world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        let client = world.client.connect(ANY).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut far = accept(&app);
        assert_eq!(crate::app::receive(&far), b"");
        far.write_all(b"bye").unwrap();
        drop(far);
        assert_eq!(crate::app::receive(&client), b"bye");
    });
}
