//! One ztunnel takes over from another: real processes, no control plane, no CA.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use netio::seqpacket::Listener;
use ztunnel::handover::HandoverError;
use ztunnel::handover::predecessor::Predecessor;

use crate::app::{accept, receive, receive_exactly, talk};
use crate::net::PATIENCE;
use crate::site::{Process, Site};

/// Swaps of each back end.
const SWAPS: usize = 10;

/// Connections that must be made while one process takes over from another.
const PER_SWAP: usize = 100;

/// Answers with what it is sent, each connection for itself, until `is_over`.
fn echo<'s>(scope: &'s std::thread::Scope<'s, '_>, listener: &TcpListener, is_over: &AtomicBool) {
    listener.set_nonblocking(true).unwrap();
    while !is_over.load(Ordering::Acquire) {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        scope.spawn(move || {
            let copied = std::io::copy(&mut &stream, &mut &stream);
            if copied.is_ok() {
                // The client may be gone already.
                let _ = stream.shutdown(Shutdown::Write);
            }
        });
    }
}

fn say(mut stream: &TcpStream, word: &[u8]) {
    std::io::Write::write_all(&mut stream, word).unwrap();
    assert_eq!(receive_exactly(stream, word.len()), word);
}

/// Short connections, one after the other. A failed one fails the test.
fn load(site: &Site, is_over: &AtomicBool, made: &AtomicUsize) {
    while !is_over.load(Ordering::Acquire) {
        let client = site.client.connect(site.server.address(false));
        say(&client, b"a short connection");
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(receive(&client), b"");
        made.fetch_add(1, Ordering::AcqRel);
    }
}

/// Ends the load, also when the test fails.
struct Over<'a> {
    is_over: &'a AtomicBool,
    echo_is_over: &'a AtomicBool,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        self.echo_is_over.store(true, Ordering::Release);
    }
}

fn swaps_under_load(io: &str) {
    let site = Site::new();
    site.serve_first_state();
    let mut current = site.start(io);
    current.wait_ready();
    let listeners = [false, true].map(|ipv6| site.server.serve(ipv6));
    let (is_over, echo_is_over) = (AtomicBool::new(false), AtomicBool::new(false));
    let made = AtomicUsize::new(0);
    let mut before: Vec<Process> = Vec::new();
    std::thread::scope(|scope| {
        let _over = Over {
            is_over: &is_over,
            echo_is_over: &echo_is_over,
        };
        for listener in &listeners {
            scope.spawn(|| echo(scope, listener, &echo_is_over));
        }
        let loads = [(); 2].map(|()| scope.spawn(|| load(&site, &is_over, &made)));
        let mut long_lived = Vec::new();
        for swap in 0..SWAPS {
            let client = site.client.connect(site.server.address(swap % 2 == 1));
            say(&client, b"before");
            long_lived.push(client);
            let begun = made.load(Ordering::Acquire);
            let next = site.start(io);
            next.wait_ready();
            // It was told that it is replaced: its readiness is not served any more.
            current.wait("replaced", |page| page.is_none());
            let deadline = Instant::now() + PATIENCE;
            while made.load(Ordering::Acquire) < begun + PER_SWAP {
                assert!(Instant::now() < deadline, "the load stands still");
                std::thread::sleep(Duration::from_millis(5));
            }
            before.push(std::mem::replace(&mut current, next));
            for client in &long_lived {
                say(client, b"kept");
            }
        }
        for client in long_lived {
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(receive(&client), b"");
        }
        // With their last connection the old ones end, well.
        for process in &mut before {
            assert_eq!(process.ended().code(), Some(0), "{}", process.log());
        }
        is_over.store(true, Ordering::Release);
        // Before the echo ends: their last connections are to be served too.
        for load in loads {
            load.join().unwrap();
        }
    });
    current.terminate();
    assert_eq!(current.ended().code(), Some(0), "{}", current.log());
    eprintln!("{io}: {} connections", made.load(Ordering::Acquire));
    site.stop();
}

#[test]
fn ten_swaps_fail_no_connection_on_epoll_without_control_plane_and_ca() {
    swaps_under_load("epoll");
}

#[test]
fn ten_swaps_fail_no_connection_on_io_uring_without_control_plane_and_ca() {
    swaps_under_load("io_uring");
}

#[test]
fn without_predecessor_and_ca_it_is_not_ready_and_connections_wait_for_the_next() {
    let site = Site::new();
    let first = site.start("auto");
    site.wait_acked(1);
    let page = first.readiness().unwrap();
    assert!(page.starts_with("HTTP/1.1 503"), "{page}");
    assert!(
        page.contains("certificates: ") && page.contains("addresses: "),
        "{page}"
    );
    let listener = site.server.serve(false);
    let waiting = site.client.connect(site.server.address(false));
    // Had it been accepted, it would break with the process that accepted it.
    drop(first);
    site.serve_first_state();
    let mut second = site.start("auto");
    let server = accept(&listener);
    talk(&waiting, &server, b"patience");
    drop((waiting, server));
    second.terminate();
    assert_eq!(second.ended().code(), Some(0), "{}", second.log());
    site.stop();
}

#[test]
fn sigterm_shortens_the_drain_of_a_swap() {
    let site = Site::new();
    site.serve_first_state();
    let mut old = site.start("auto");
    old.wait_ready();
    let listener = site.server.serve(false);
    let client = site.client.connect(site.server.address(false));
    let server = accept(&listener);
    talk(&client, &server, b"before");
    let new = site.start("auto");
    new.wait_ready();
    old.wait("replaced", |page| page.is_none());
    talk(&client, &server, b"kept");
    old.terminate();
    // --termination-deadline, not --drain-deadline.
    assert_eq!(old.ended().code(), Some(0), "{}", old.log());
    assert!(
        old.log().contains("the drain is shortened"),
        "{}",
        old.log()
    );
    // Nothing was on its way.
    assert_eq!(receive(&client), b"");
    site.stop();
}

#[test]
fn a_state_of_another_format_is_refused() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("handover.sock");
    runtime.block_on(async {
        assert!(Predecessor::find(&path).unwrap().is_none(), "nobody");
        let listener = Listener::bind(&path).unwrap();
        let successor = Predecessor::find(&path).unwrap().unwrap();
        let conn = listener.accept().await.unwrap();
        let (state, ()) = futures::join!(successor.state(), async {
            conn.recv(1024, 0).await.unwrap();
            let word = br#"{"format":2,"word":"state","bytes":1,"version":"9"}"#;
            conn.send(word, &[]).await.unwrap();
        });
        assert!(matches!(
            state.err(),
            Some(HandoverError::OtherFormat { found: 2 })
        ));
    });
}

/// The binary with these words, and what it said on both outputs.
fn told(words: &[&str]) -> (bool, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ztunnel"))
        .args(words)
        .env_remove("ZTUNNEL_LIMITS")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn the_binary_prints_its_limits_and_refuses_a_file_with_all_its_mistakes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("limits.yaml");
    let file = path.to_str().unwrap();
    let (well, page) = told(&["limits"]);
    assert!(
        well && page.contains("\nbuffered_per_worker: 128MiB\n"),
        "{page}"
    );
    std::fs::write(
        &path,
        page.replace("handshakes_per_worker: 512", "handshakes_per_worker: 300"),
    )
    .unwrap();
    let (well, page) = told(&["limits", "--limits", file]);
    assert!(
        well && page.contains("\nhandshakes_per_worker: 300\n"),
        "{page}"
    );
    std::fs::write(&path, "open_files: 1\nstreams: 5\n").unwrap();
    let needed = [
        "--node-name",
        "n",
        "--xds-address",
        "https://[::1]:9",
        "--ca-address",
    ];
    let rest = [
        "https://[::1]:9",
        "--root-cert",
        "/x",
        "--token-file",
        "/x",
        "--limits",
        file,
    ];
    let (well, said) = told(&[&needed[..], &rest].concat());
    assert!(!well, "it starts: {said}");
    for part in [
        file,
        "unknown field `streams`",
        "open_files: 1 is not from 64",
    ] {
        assert!(said.contains(part), "no `{part}` in {said}");
    }
}
