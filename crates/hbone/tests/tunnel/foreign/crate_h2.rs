//! The `h2` crate as the other end, in both roles, over a TLS stack driven by tokio-rustls' peer:
//! rustls' buffered connection. Our end runs in a task that moves bytes between it and an in-memory
//! pipe.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use hbone::{Config, Connection, Mono};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use rustls::version::TLS13;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::tls::Buffered;
use crate::certificates::{Mesh, expected, id};
use crate::dice::{Dice, Sum};
use crate::driver::{End, Plan};

const PATIENCE: Duration = Duration::from_secs(60);

/// Our end as a task: ciphertext in and out of a pipe, applications as in the simulated tests.
/// Looks up every few milliseconds for what the test did meanwhile.
async fn serve(end: Rc<RefCell<End>>, pipe: DuplexStream) {
    let (mut read, mut write) = tokio::io::split(pipe);
    let (mut received, mut out) = (Vec::new(), Vec::new());
    let now = Mono(Duration::from_secs(1000));
    loop {
        if out.is_empty() {
            let mut end = end.borrow_mut();
            end.pump(now);
            while end.conn.poll_transmit(now, &mut out, 50_000) > 0 {
                end.pump(now);
            }
        }
        if out.is_empty() && end.borrow().conn.is_finished() {
            return;
        }
        let ended = tokio::select! {
            written = write.write(&out), if !out.is_empty() => {
                written.map(|n| drop(out.drain(..n))).is_err()
            }
            read = read.read_buf(&mut received) => {
                end.borrow_mut().conn.handle_input(now, &mut received);
                read.is_ok_and(|n| n == 0)
            }
            () = tokio::time::sleep(Duration::from_millis(3)) => false,
        };
        if ended {
            end.borrow_mut().conn.handle_eof(now);
            end.borrow_mut().pump(now);
            return;
        }
    }
}

/// The foreign end's TLS as a task: plaintext pipe on one side, ciphertext pipe on the other.
async fn wrap(mut tls: Buffered, plain: DuplexStream, cipher: DuplexStream) {
    let (mut plain_in, mut plain_out) = tokio::io::split(plain);
    let (mut cipher_in, mut cipher_out) = tokio::io::split(cipher);
    let (mut clear, mut wire) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let (mut up, mut down) = (Vec::new(), Vec::new());
    let mut plain_open = true;
    loop {
        while tls.0.wants_write() {
            tls.0.write_tls(&mut up).unwrap();
        }
        let ready = !tls.0.is_handshaking() && plain_open && up.len() < 100_000;
        let ended = tokio::select! {
            n = cipher_out.write(&up), if !up.is_empty() => n.map(|n| drop(up.drain(..n))).is_err(),
            n = plain_out.write(&down), if !down.is_empty() => {
                n.map(|n| drop(down.drain(..n))).is_err()
            }
            n = cipher_in.read(&mut wire), if down.len() < 100_000 => {
                let n = n.unwrap_or(0);
                open(&mut tls, &wire[..n], &mut down);
                n == 0
            }
            n = plain_in.read(&mut clear), if ready => {
                match n.unwrap_or(0) {
                    0 => {
                        tls.0.send_close_notify();
                        plain_open = false;
                    }
                    n => tls.0.writer().write_all(&clear[..n]).unwrap(),
                }
                false
            }
        };
        if ended {
            return;
        }
    }
}

fn open(tls: &mut Buffered, mut bytes: &[u8], out: &mut Vec<u8>) {
    while !bytes.is_empty() {
        tls.0.read_tls(&mut bytes).unwrap();
        let state = tls.0.process_new_packets().unwrap();
        let mut data = vec![0; state.plaintext_bytes_to_read()];
        tls.0.reader().read_exact(&mut data).unwrap();
        out.extend_from_slice(&data);
    }
}

fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let local = LocalSet::new();
    runtime.block_on(local.run_until(async {
        timeout(PATIENCE, test).await.expect("not done in time");
    }));
}

/// Sends as h2 wants it: capacity first.
async fn send(mut stream: SendStream<Bytes>, seed: u64, bytes: usize) -> String {
    let mut dice = Dice::new(seed);
    let mut sum = Sum::new();
    let mut left = bytes;
    while left > 0 {
        stream.reserve_capacity(left.min(100_000));
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx))
            .await
            .unwrap()
            .unwrap();
        let data = dice.bytes(room.min(left));
        sum.add(&data);
        left -= data.len();
        stream.send_data(data.into(), false).unwrap();
    }
    stream.send_data(Bytes::new(), true).unwrap();
    sum.hex()
}

async fn receive(mut stream: RecvStream) -> String {
    let mut sum = Sum::new();
    while let Some(data) = stream.data().await {
        let data = data.unwrap();
        sum.add(&data);
        stream.flow_control().release_capacity(data.len()).unwrap();
    }
    sum.hex()
}

/// What a plan of ours sends: the driver makes it in one go, whatever it writes at once.
fn sent_by(end: &Rc<RefCell<End>>, index: usize) -> (String, String) {
    let end = end.borrow();
    let flow = end.flows.values().nth(index).unwrap();
    assert_eq!(flow.reset, None);
    (flow.sent.hex(), flow.got.hex())
}

/// Waits for our end.
async fn until(end: &Rc<RefCell<End>>, done: impl Fn(&End) -> bool) {
    while !done(&end.borrow()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn spawn(set: &mut tokio::task::JoinSet<()>, task: impl Future<Output = ()> + 'static) {
    set.spawn_local(task);
}

#[test]
fn the_h2_crate_is_served_byte_for_byte() {
    run(async {
        let mesh = Mesh::new();
        let now = Mono(Duration::from_secs(1000));
        let ours = Connection::server(&mesh.server(), &Config::default(), now).unwrap();
        let end = Rc::new(RefCell::new(End::new(ours, 1)));
        for port in 0..8 {
            let plan = Plan::of(port, 300_000 * port as usize);
            end.borrow_mut()
                .plans
                .insert(format!("10.0.0.1:{}", port + 1), plan);
        }
        let tls = Buffered::client(&[&TLS13], &[b"h2"], Some(&mesh.credentials(&id("client"))));
        let (plain, cipher, wire) = pipes();
        let mut tasks = tokio::task::JoinSet::new();
        spawn(&mut tasks, serve(end.clone(), wire));
        spawn(&mut tasks, wrap(tls, plain.1, cipher));
        // As the stock peer is set up.
        let (client, connection) = h2::client::Builder::new()
            .initial_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .max_frame_size(1 << 20)
            .max_header_list_size(16 << 10)
            .max_send_buffer_size(4 << 20)
            .enable_push(false)
            .handshake::<_, Bytes>(plain.0)
            .await
            .unwrap();
        spawn(&mut tasks, async { connection.await.unwrap() });
        let mut client = client.ready().await.unwrap();
        let mut transfers = Vec::new();
        for port in 0..8_u64 {
            let request = Request::builder()
                .method(Method::CONNECT)
                .uri(format!("10.0.0.1:{}", port + 1))
                .header("baggage", "k8s.cluster.name=Kubernetes")
                .body(())
                .unwrap();
            let (response, stream) = client.send_request(request, false).unwrap();
            client = client.ready().await.unwrap();
            transfers.push(async move {
                let response = response.await.unwrap();
                assert_eq!(response.status(), StatusCode::OK);
                assert_eq!(response.headers()["baggage"], "service.name=web");
                let up = send(stream, 90 + port, 400_000);
                futures::join!(up, receive(response.into_body()))
            });
        }
        let hashes = futures::future::join_all(transfers).await;
        until(&end, End::all_done).await;
        for (index, (up, down)) in hashes.into_iter().enumerate() {
            let (sent, got) = sent_by(&end, index);
            assert_eq!((up, down), (got, sent), "stream {index}");
        }
        let requests = end.borrow().requests.len();
        assert_eq!(requests, 8);
        assert_eq!(
            end.borrow().requests[0].headers.get("baggage"),
            Some("k8s.cluster.name=Kubernetes")
        );
    });
}

#[test]
fn the_h2_crate_serves_us_byte_for_byte() {
    run(async {
        let mesh = Mesh::new();
        let now = Mono(Duration::from_secs(1000));
        let ours = Connection::client(&mesh.client(), expected(&["web"]), &Config::default(), now);
        let end = Rc::new(RefCell::new(End::new(ours.unwrap(), 1)));
        let tls = Buffered::server(&[&TLS13], &[b"h2"], &mesh.credentials(&id("web")));
        let (plain, cipher, wire) = pipes();
        let mut tasks = tokio::task::JoinSet::new();
        spawn(&mut tasks, serve(end.clone(), wire));
        spawn(&mut tasks, wrap(tls, plain.1, cipher));
        let handshake = h2::server::Builder::new()
            .initial_window_size(65_535)
            .max_frame_size(16_384)
            .max_concurrent_streams(200)
            .handshake::<_, Bytes>(plain.0);
        let mut server = handshake.await.unwrap();
        let opener = end.clone();
        spawn(&mut tasks, async move {
            until(&opener, |end| end.peer.is_some()).await;
            for port in 1..=8 {
                opener
                    .borrow_mut()
                    .open(&format!("10.0.0.1:{port}"), Plan::of(port, 400_000));
            }
        });
        let (done, mut results) = tokio::sync::mpsc::channel(8);
        let mut relays = tokio::task::JoinSet::new();
        let accept = async {
            while let Some(request) = server.accept().await {
                let (request, mut respond) = request.unwrap();
                assert_eq!(request.method(), Method::CONNECT);
                let port = request.uri().authority().unwrap().port_u16().unwrap();
                let response = Response::builder()
                    .header("baggage", "a=b")
                    .body(())
                    .unwrap();
                let stream = respond.send_response(response, false).unwrap();
                let done = done.clone();
                spawn(&mut relays, async move {
                    let down = send(stream, u64::from(port), 300_000 * usize::from(port - 1));
                    let both = futures::join!(receive(request.into_body()), down);
                    done.send((port, both)).await.unwrap();
                });
            }
        };
        let check = async {
            for _ in 0..8 {
                let (port, (up, down)) = results.recv().await.unwrap();
                let done = |end: &End| {
                    end.flows
                        .values()
                        .nth(usize::from(port) - 1)
                        .unwrap()
                        .done()
                };
                until(&end, done).await;
                let (sent, got) = sent_by(&end, usize::from(port) - 1);
                assert_eq!((up, down), (sent, got), "port {port}");
            }
        };
        tokio::select! {
            () = accept => panic!("the connection ended too early"),
            () = check => {}
        }
        assert_eq!(end.borrow().closed, None);
        // The foreign server drains, and we follow.
        server.graceful_shutdown();
        let drained = until(&end, |end| end.closed.is_some());
        tokio::select! {
            () = async { while server.accept().await.is_some() {} drained.await } => {}
        }
        assert_eq!(end.borrow().closed, Some(hbone::CloseReason::Drained));
    });
}

#[test]
fn the_h2_crate_understands_refusals_resets_and_our_drain() {
    run(async {
        let mesh = Mesh::new();
        let now = Mono(Duration::from_secs(1000));
        let ours = Connection::server(&mesh.server(), &Config::default(), now).unwrap();
        let end = Rc::new(RefCell::new(End::new(ours, 1)));
        let mut reset = Plan::of(1, 5_000_000);
        reset.reset_after = Some(1000);
        end.borrow_mut().plans.insert("10.0.0.1:1".into(), reset);
        let tls = Buffered::client(&[&TLS13], &[b"h2"], Some(&mesh.credentials(&id("client"))));
        let (plain, cipher, wire) = pipes();
        let mut tasks = tokio::task::JoinSet::new();
        spawn(&mut tasks, serve(end.clone(), wire));
        spawn(&mut tasks, wrap(tls, plain.1, cipher));
        let (client, connection) = h2::client::handshake(plain.0).await.unwrap();
        let (ended, end_of_connection) = tokio::sync::oneshot::channel();
        spawn(&mut tasks, async { ended.send(connection.await).unwrap() });
        let mut client = client.ready().await.unwrap();
        let connect = |to: &str| {
            Request::builder()
                .method(Method::CONNECT)
                .uri(to)
                .body(())
                .unwrap()
        };
        // Not there: 503 of the application.
        let (response, _stream) = client.send_request(connect("10.0.0.1:9"), false).unwrap();
        assert_eq!(
            response.await.unwrap().status(),
            StatusCode::SERVICE_UNAVAILABLE
        );
        // Not CONNECT: 400 of the codec.
        let get = Request::builder()
            .uri("http://10.0.0.1:1/")
            .body(())
            .unwrap();
        let (response, _) = client.send_request(get, true).unwrap();
        assert_eq!(response.await.unwrap().status(), StatusCode::BAD_REQUEST);
        // Reset in the middle.
        let (response, mut stream) = client.send_request(connect("10.0.0.1:1"), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        stream.send_data(Bytes::from(vec![1; 2000]), false).unwrap();
        let reason = loop {
            match body.data().await {
                Some(Ok(data)) => body.flow_control().release_capacity(data.len()).unwrap(),
                Some(Err(error)) => break error.reason(),
                None => panic!("ended without a reset"),
            }
        };
        assert_eq!(reason, Some(h2::Reason::CANCEL));
        // Trailers are taken for the end.
        end.borrow_mut()
            .plans
            .insert("10.0.0.1:2".into(), Plan::of(5, 10));
        let (response, mut stream) = client.send_request(connect("10.0.0.1:2"), false).unwrap();
        let body = response.await.unwrap().into_body();
        stream
            .send_data(Bytes::from_static(b"before trailers"), false)
            .unwrap();
        stream.send_trailers(HeaderMap::new()).unwrap();
        assert_eq!(receive(body).await, sent_by(&end, 1).0);
        end.borrow_mut().conn.drain(now);
        assert!(end_of_connection.await.unwrap().is_ok());
        assert_eq!(end.borrow().closed, Some(hbone::CloseReason::Drained));
    });
}

type Pipes = ((DuplexStream, DuplexStream), DuplexStream, DuplexStream);

/// Plaintext between the foreign codec and its TLS, ciphertext between that and us; small, so that
/// both ends meet back-pressure.
fn pipes() -> Pipes {
    let (cipher, wire) = tokio::io::duplex(37_000);
    (tokio::io::duplex(23_000), cipher, wire)
}
