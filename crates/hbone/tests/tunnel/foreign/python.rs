//! Python's `h2` over Python's `ssl` (OpenSSL) as the other end, in both roles, over TCP on
//! loopback: no code in common with ours.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hbone::tls::Credentials;
use hbone::{Config, Connection, Mono};
use rustls::pki_types::PrivateKeyDer;

use crate::certificates::{Mesh, expected, id};
use crate::driver::{End, Plan};

const SCRIPT: &str = include_str!("peer.py");
const PATIENCE: Duration = Duration::from_secs(60);

fn pem(label: &str, der: &[u8]) -> String {
    pem::encode(&pem::Pem::new(label, der))
}

/// Starts the Python end with its credentials in `dir`.
fn python(dir: &std::path::Path, role: &str, port: u16, credentials: &Credentials) -> Child {
    let PrivateKeyDer::Pkcs8(key) = &credentials.key else {
        panic!("not PKCS 8")
    };
    let leaf = pem("CERTIFICATE", &credentials.chain[0]);
    let files = [
        (
            "leaf.pem",
            leaf + &pem("PRIVATE KEY", key.secret_pkcs8_der()),
        ),
        ("root.pem", pem("CERTIFICATE", &credentials.roots[0])),
        ("peer.py", SCRIPT.to_owned()),
    ];
    for (name, text) in files {
        std::fs::write(dir.join(name), text).unwrap();
    }
    Command::new("/usr/bin/python3")
        .arg(dir.join("peer.py"))
        .args([role, &port.to_string()])
        .current_dir(dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Drives our end over a socket until `done`.
fn drive(end: &mut End, mut socket: TcpStream, done: impl Fn(&End) -> bool) {
    let begin = Instant::now();
    socket
        .set_read_timeout(Some(Duration::from_millis(2)))
        .unwrap();
    let mut buffer = vec![0; 70_000];
    while !done(end) {
        assert!(
            begin.elapsed() < PATIENCE,
            "not done in time: {:?}",
            end.conn
        );
        let now = Mono(Duration::from_secs(1000) + begin.elapsed());
        let mut out = Vec::new();
        end.pump(now);
        while end.conn.poll_transmit(now, &mut out, 50_000) > 0 {
            end.pump(now);
        }
        socket.write_all(&out).unwrap();
        match socket.read(&mut buffer) {
            Ok(0) => end.conn.handle_eof(now),
            Ok(length) => end.conn.handle_input(now, &mut buffer[..length].to_vec()),
            Err(_) => {}
        }
        end.pump(now);
    }
}

fn lines(child: Child) -> Vec<String> {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// One line per stream as Python prints it: authority, hash received, hash sent.
fn line(authority: &str, got: &str, sent: &str) -> String {
    format!("{authority} {got} {sent}")
}

#[test]
fn python_is_served_byte_for_byte() {
    let mesh = Mesh::new();
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let child = python(dir.path(), "client", port, &mesh.credentials(&id("client")));
    let (socket, _) = listener.accept().unwrap();
    let now = Mono(Duration::from_secs(1000));
    let ours = Connection::server(&mesh.server(), &Config::default(), now).unwrap();
    let mut end = End::new(ours, 1);
    for index in 1..=5 {
        let plan = Plan::of(index, 150_000 * index as usize);
        end.plans.insert(format!("10.0.0.1:{index}"), plan);
    }
    drive(&mut end, socket, |end| end.closed.is_some());
    let told = lines(child);
    assert_eq!(told.len(), 5);
    for (flow, request) in end.flows.values().zip(&end.requests) {
        assert!(flow.done() && flow.reset.is_none());
        let wanted = line(&request.authority, &flow.sent.hex(), &flow.got.hex());
        assert!(told.contains(&wanted), "{wanted}\n{told:?}");
    }
    assert_eq!(
        end.requests[0].headers.get("baggage"),
        Some("k8s.cluster.name=Kubernetes")
    );
}

#[test]
fn python_serves_us_byte_for_byte() {
    let mesh = Mesh::new();
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // The server of HTTP/2 may be the one that connects.
    let child = python(dir.path(), "server", port, &mesh.credentials(&id("web")));
    let (socket, _) = listener.accept().unwrap();
    let now = Mono(Duration::from_secs(1000));
    let ours = Connection::client(&mesh.client(), expected(&["web"]), &Config::default(), now);
    let mut end = End::new(ours.unwrap(), 1);
    let handshake = socket.try_clone().unwrap();
    drive(&mut end, handshake, |end| end.peer.is_some());
    for index in 1..=5 {
        end.open(
            &format!("10.0.0.1:{index}"),
            Plan::of(index, 150_000 * index as usize),
        );
    }
    // Python's h2 takes a GOAWAY for the end of everything, so all must be through before.
    let through = |end: &End| end.all_done() && end.conn.open_streams() == 0;
    drive(&mut end, socket.try_clone().unwrap(), through);
    end.conn.drain(now);
    drive(&mut end, socket, |end| end.conn.is_finished());
    let told = lines(child);
    assert_eq!(told.len(), 5);
    for (index, flow) in end.flows.values().enumerate() {
        assert_eq!((flow.status, flow.reset), (Some(200), None));
        let authority = format!("10.0.0.1:{}", index + 1);
        let wanted = line(&authority, &flow.sent.hex(), &flow.got.hex());
        assert!(told.contains(&wanted), "{wanted}\n{told:?}");
    }
}
