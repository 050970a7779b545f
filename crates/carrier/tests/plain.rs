//! The relay between two sockets, on both back ends: with epoll its bulk goes through pipes.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on is meant to panic"
)]

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use carrier::relay::buffer::Buffers;
use carrier::relay::{Counts, End, Parts, Pulse, RelayError, relay};
use netio::executor::Scope;
use netio::{Backend, TcpListener, TcpStream};
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

/// Relays to receivers that take nothing.
const STUCK: usize = 3;

/// A hang is a failure, not a wait for the harness.
const HANG: Duration = Duration::from_secs(60);

const TOTAL_BYTES: usize = 16 << 20;

async fn pair() -> (Rc<TcpStream>, Rc<TcpStream>) {
    let listener = TcpListener::from_std(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let listener = listener.unwrap();
    let near = std::net::TcpStream::connect(listener.local_addr()).unwrap();
    let far = listener.accept().await.unwrap();
    (Rc::new(TcpStream::from_std(near).unwrap()), Rc::new(far))
}

fn noise(seed: u64) -> Vec<u8> {
    let mut data = vec![0; TOTAL_BYTES];
    StdRng::seed_from_u64(seed).fill_bytes(&mut data);
    data
}

async fn read_to_end(stream: &TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let (result, buffer) = stream.read(Vec::with_capacity(64 << 10)).await;
        if result.unwrap() == 0 {
            return all;
        }
        all.extend_from_slice(&buffer);
    }
}

async fn send(stream: Rc<TcpStream>, data: Vec<u8>) {
    stream.write_all(data).await.0.unwrap();
    stream.shutdown_write().unwrap();
}

/// What a relay did.
struct Relayed {
    result: Result<(), RelayError>,
    up_bytes: u64,
    down_bytes: u64,
}

async fn relayed(near: Rc<TcpStream>, far: Rc<TcpStream>, buffers: Rc<Buffers>) -> Relayed {
    let (near, far) = (End::Tcp(near), End::Tcp(far));
    let (pulse, up, down) = (Pulse::default(), Cell::new(0), Cell::new(0));
    let counts = Counts {
        pulse: &pulse,
        up_bytes: &up,
        down_bytes: &down,
    };
    let parts = Parts {
        near: &near,
        far: &far,
        counts,
        buffers: &buffers,
    };
    let result = relay(parts).await;
    Relayed {
        result,
        up_bytes: up.get(),
        down_bytes: down.get(),
    }
}

fn on_both_back_ends(test: impl AsyncFn()) {
    for backend in [Backend::Epoll, Backend::IoUring] {
        let test = async {
            netio::time::timeout(HANG, test()).await.expect("it hangs");
        };
        netio::executor::run(backend, test).unwrap();
    }
}

#[test]
fn bulk_both_ways_arrives_whole_and_is_counted() {
    on_both_back_ends(async || {
        let (client, near) = pair().await;
        let (far, server) = pair().await;
        let buffers = Rc::new(Buffers::default());
        let outcome = Rc::new(Cell::new(None));
        let scope = Scope::new(4 * STUCK);
        let (told, kept) = (Rc::clone(&outcome), Rc::clone(&buffers));
        scope
            .spawn(async move { told.set(Some(relayed(near, far, kept).await)) })
            .unwrap();
        scope.spawn(send(Rc::clone(&client), noise(1))).unwrap();
        scope.spawn(send(Rc::clone(&server), noise(2))).unwrap();
        scope
            .spawn(async move { assert!(read_to_end(&server).await == noise(1)) })
            .unwrap();
        assert!(read_to_end(&client).await == noise(2));
        scope.join_all().await;
        assert_eq!(scope.panicked(), 0);
        let outcome: Relayed = outcome.take().unwrap();
        outcome.result.unwrap();
        let total = TOTAL_BYTES as u64;
        assert_eq!((outcome.up_bytes, outcome.down_bytes), (total, total));
    });
}

#[test]
fn relays_that_are_dropped_with_full_pipes_leave_no_byte_of_theirs_to_others() {
    on_both_back_ends(async || {
        let buffers = Rc::new(Buffers::default());
        for _ in 0..3 {
            let scope = Scope::new(4 * STUCK);
            let mut held = Vec::new();
            for _ in 0..STUCK {
                let (client, near) = pair().await;
                let (far, server) = pair().await;
                let kept = Rc::clone(&buffers);
                scope
                    .spawn(async move {
                        relayed(near, far, kept).await;
                    })
                    .unwrap();
                scope.spawn(send(Rc::clone(&client), noise(3))).unwrap();
                held.push((client, server));
            }
            // It moves although the others do not, and with pipes that were theirs before.
            let (client, near) = pair().await;
            let (far, server) = pair().await;
            let kept = Rc::clone(&buffers);
            scope
                .spawn(async move { relayed(near, far, kept).await.result.unwrap() })
                .unwrap();
            scope.spawn(send(client, noise(4))).unwrap();
            assert!(read_to_end(&server).await == noise(4));
        }
    });
}
