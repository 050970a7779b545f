//! HTTP through the whole chain, the pieces of which http's own tests know.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use carrier::limits::Limits;

use crate::app::{accept, receive_exactly};
use crate::journal;
use crate::net::serve;
use crate::peer::Client;
use crate::world::{ANY, HTTP, on_both_back_ends, with_limits};

pub const ASK: &[u8] = b"GET /a?b HTTP/1.1\r\nHost: web\r\n\r\n";
pub const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

/// The head of a request, up to its empty line.
pub fn head(stream: &TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(receive_exactly(stream, 1));
    }
    String::from_utf8(head).unwrap()
}

#[test]
fn a_request_reaches_the_application_and_its_answer_the_client() {
    on_both_back_ends(|world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        for authority in [HTTP, ANY] {
            let mut client = world.client.connect(authority).unwrap();
            let ask = |client: &mut TcpStream| {
                client.write_all(ASK).unwrap();
                let answered =
                    std::thread::scope(|scope| scope.spawn(|| head(client)).join().unwrap());
                assert!(answered.starts_with("HTTP/1.1 200 OK\r\n"), "{answered}");
                assert_eq!(receive_exactly(client, 2), b"hi");
            };
            std::thread::scope(|scope| {
                let app = scope.spawn(|| {
                    let mut far = accept(&app);
                    for _ in 0..2 {
                        let asked = head(&far);
                        assert!(asked.starts_with("GET /a?b HTTP/1.1\r\n"), "{asked}");
                        assert!(asked.contains("x-forwarded-for: 10.98.0.1"), "{asked}");
                        far.write_all(ANSWER).unwrap();
                    }
                });
                ask(&mut client);
                ask(&mut client);
                app.join().unwrap();
            });
        }
        let line = journal::line(&["request complete", "path=\"/a?b\"", "status=200"]);
        for word in [
            "method=\"GET\"",
            "src.identity=\"spiffe://cluster.local/ns/shop/sa/client\"",
            "dst.workload=\"v1\"",
            "attempts=1",
        ] {
            assert!(line.contains(word), "{word}: {line}");
        }
    });
}

#[test]
fn a_silent_client_that_speaks_http_at_last_is_served_as_http() {
    on_both_back_ends(|world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        let mut client = world.client.connect(ANY).unwrap();
        // The connection that the waypoint makes when it hears nothing.
        let unused = accept(&app);
        client.write_all(ASK).unwrap();
        crate::app::expect_reset(&unused);
        let mut far = accept(&app);
        let asked = head(&far);
        assert!(asked.contains("x-forwarded-for"), "{asked}");
        far.write_all(ANSWER).unwrap();
        assert!(head(&client).starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn past_the_bound_on_connections_to_endpoints_a_request_gets_503_and_the_next_one_is_served() {
    let limits = Limits {
        http_endpoint_connections_per_worker: 1,
        ..Limits::default()
    };
    with_limits(&limits, |world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        // All of a client's tunnel are on one worker.
        let mut first = world.client.connect(HTTP).unwrap();
        first.write_all(ASK).unwrap();
        let mut far = accept(&app);
        head(&far);
        let mut second = world.client.connect(HTTP).unwrap();
        second.write_all(ASK).unwrap();
        let answered = head(&second);
        assert!(answered.starts_with("HTTP/1.1 503 "), "{answered}");
        journal::line(&["request failed", "status=503"]);
        far.write_all(ANSWER).unwrap();
        assert!(head(&first).starts_with("HTTP/1.1 200"));
        // The one connection is kept, and serves the next.
        let mut third = world.client.connect(HTTP).unwrap();
        third.write_all(ASK).unwrap();
        head(&far);
        far.write_all(ANSWER).unwrap();
        assert!(head(&third).starts_with("HTTP/1.1 200"));
    });
}

#[test]
fn a_client_that_shuts_its_side_behind_its_request_is_answered() {
    on_both_back_ends(|world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        let mut client = world.client.connect(HTTP).unwrap();
        client.write_all(ASK).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut far = accept(&app);
        head(&far);
        // By now the end of the client has come.
        world.settle();
        far.write_all(ANSWER).unwrap();
        assert!(head(&client).starts_with("HTTP/1.1 200"));
        assert_eq!(
            crate::app::receive(&client),
            b"hi",
            "and the connection ends"
        );
        journal::line(&["request complete", "status=200"]);
    });
}

/// Asks for that path by that client, and gives both ends back.
fn ask_by(client: &Client, app: &TcpListener, path: &str) -> (TcpStream, TcpStream) {
    let mut near = client.connect(HTTP).unwrap();
    let ask = format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n");
    near.write_all(ask.as_bytes()).unwrap();
    let far = accept(app);
    head(&far);
    (near, far)
}

#[test]
fn a_client_that_breaks_off_takes_its_request_along() {
    on_both_back_ends(|world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        let path = format!("/reset/{}", world.backend);
        let (near, mut far) = ask_by(&world.client, &app, &path);
        crate::app::reset(near);
        // It ends, or is broken off: it was not answered.
        let _ = far.read_to_end(&mut Vec::new());
        journal::line(&[&path, "client_gone"]);
        // Also one that has shut its side before; its proxy goes with it.
        let path = format!("/ended/{}", world.backend);
        let other = Client::start(world.backend, &world.netns, &world.ca, "client");
        let (near, mut far) = ask_by(&other, &app, &path);
        near.shutdown(std::net::Shutdown::Write).unwrap();
        world.settle();
        drop(other);
        let _ = far.read_to_end(&mut Vec::new());
        journal::line(&[&path, "client_gone"]);
    });
}
