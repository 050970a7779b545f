//! CPU of a relay between two sockets, for `docs/decisions/0006-splice.md`: one worker thread
//! relays bulk over loopback, other threads send and receive. Only epoll has pipes.
//!
//! `cargo run --release -p carrier --example plain -- 4`: connections, 1 by default.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement that cannot be made may panic; the load's threads end with it"
)]

use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use carrier::relay::buffer::Buffers;
use carrier::relay::{Counts, End, Parts, Pulse, relay};
use netio::Backend;
use netio::executor::Scope;

/// How long each connection sends.
const TIME: Duration = Duration::from_secs(3);

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (near, listener.accept().unwrap().0)
}

/// CPU of this thread so far, seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn send(mut client: TcpStream) {
    let block = vec![7; 128 << 10];
    let until = Instant::now() + TIME;
    while Instant::now() < until {
        client.write_all(&block).unwrap();
    }
    client.shutdown(Shutdown::Write).unwrap();
}

fn receive(mut server: TcpStream) {
    let mut block = vec![0; 128 << 10];
    while server.read(&mut block).unwrap() > 0 {}
    server.shutdown(Shutdown::Write).unwrap();
}

async fn carry(near: TcpStream, far: TcpStream, buffers: Rc<Buffers>, moved: Rc<Cell<u64>>) {
    let end = |socket| End::Tcp(Rc::new(netio::TcpStream::from_std(socket).unwrap()));
    let (near, far) = (end(near), end(far));
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
    relay(parts).await.unwrap();
    moved.set(moved.get() + up.get());
}

async fn measure(name: &'static str, connections: usize) {
    let (buffers, moved) = (Rc::new(Buffers::default()), Rc::new(Cell::new(0)));
    let done = Rc::new(Cell::new(0));
    let scope = Scope::new(connections);
    let (before, began) = (cpu(), Instant::now());
    for _ in 0..connections {
        let (client, near) = pair();
        let (far, server) = pair();
        std::thread::spawn(|| send(client));
        std::thread::spawn(|| receive(server));
        let carried = carry(near, far, Rc::clone(&buffers), Rc::clone(&moved));
        let done = Rc::clone(&done);
        scope
            .spawn(async move {
                carried.await;
                done.set(done.get() + 1);
            })
            .unwrap();
    }
    while done.get() < connections {
        netio::time::sleep(Duration::from_millis(10)).await;
    }
    let gigabytes = f64::from(u32::try_from(moved.get() >> 20).unwrap()) / 953.67;
    let (spent, took) = (cpu() - before, began.elapsed().as_secs_f64());
    println!(
        "{name}: {:.3} CPU-s/GB, {:.1} Gbit/s",
        spent / gigabytes,
        gigabytes * 8.0 / took
    );
}

fn main() {
    let connections = std::env::args().nth(1).map_or(1, |n| n.parse().unwrap());
    for _ in 0..3 {
        for (name, backend) in [("epoll", Backend::Epoll), ("io_uring", Backend::IoUring)] {
            netio::executor::run(backend, measure(name, connections)).unwrap();
        }
    }
}
