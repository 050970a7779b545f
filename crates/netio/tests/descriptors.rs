//! No descriptor outlives its stream: counted in a process of its own, because the count is the
//! whole process's.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "tests: named by what they show, and meant to panic"
)]

use std::time::Duration;

use netio::executor::{self, Scope};
use netio::{Backend, TcpListener, TcpStream};

const ROUNDS: usize = 50;

#[test]
fn no_descriptor_outlives_its_stream_however_it_ended() {
    for backend in [Backend::IoUring, Backend::Epoll] {
        // The first executor of a process makes what the process makes once.
        executor::run(backend, async {}).unwrap();
        // And the first entering of a namespace opens the directory by which its thread comes back.
        netio::netns::Netns::current()
            .unwrap()
            .enter(|| ())
            .unwrap();
        let before = open_descriptors();
        executor::run(backend, async {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let listener = TcpListener::from_std(listener).unwrap();
            // The first connection makes what the runtime makes once.
            end_one(&listener, 0).await;
            let idle = open_descriptors();
            for round in 0..ROUNDS {
                end_one(&listener, round).await;
            }
            closed_down_to(idle, backend).await;
            connect_in_turn().await;
            closed_down_to(idle, backend).await;
            connect_in_turn().await;
        })
        .unwrap();
        assert_eq!(open_descriptors(), before, "{backend}: after the executor");
        end_an_executor_with_waiting_tasks(backend);
        assert_eq!(
            open_descriptors(),
            before,
            "{backend}: after tasks that were left"
        );
    }
}

/// Waits until no more are open; never fewer, as what was open is.
async fn closed_down_to(idle: usize, backend: Backend) {
    let soon = std::time::Instant::now() + Duration::from_secs(60);
    while open_descriptors() != idle {
        assert!(
            std::time::Instant::now() < soon,
            "{backend}: sockets are kept"
        );
        netio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Connects out of one namespace make sockets ahead; none is left a moment later, or after the
/// executor.
async fn connect_in_turn() {
    use netio::socket::{Source, Upstream, connect};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let netns = netio::netns::Netns::current().unwrap();
    let upstream = Upstream {
        netns: &netns,
        destination: listener.local_addr().unwrap(),
        mark: 0,
        source: Source::Own,
    };
    for _ in 0..40 {
        connect(&upstream, Duration::from_secs(9)).await.unwrap();
        listener.accept().unwrap();
    }
}

fn end_an_executor_with_waiting_tasks(backend: Backend) {
    executor::run(backend, async {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let scope = Scope::new(20);
        for _ in 0..10 {
            let client = std::net::TcpStream::connect(listener.local_addr()).unwrap();
            let client = TcpStream::from_std(client).unwrap();
            let server = listener.accept().await.unwrap();
            scope
                .spawn(async move { drop(client.read(Vec::with_capacity(9)).await) })
                .unwrap();
            scope
                .spawn(async move { drop(server.readable().await) })
                .unwrap();
        }
        settle().await;
        // Neither joined nor dropped in time: the executor has to end them.
        std::mem::forget(scope);
    })
    .unwrap();
}

/// Makes a connection, lets one end wait in the way that `kind` chooses, and drops both ends.
async fn end_one(listener: &TcpListener, kind: usize) {
    let client = std::net::TcpStream::connect(listener.local_addr()).unwrap();
    let client = TcpStream::from_std(client).unwrap();
    let server = listener.accept().await.unwrap();
    let scope = Scope::new(1);
    let waiting = async move {
        match kind % 5 {
            0 => drop(server.read(Vec::with_capacity(10)).await),
            1 => drop(server.readable().await),
            2 => drop(server.write_all(vec![0; 64 << 20]).await),
            3 => {
                server.set_reset_on_close().unwrap();
                drop(server.read(Vec::with_capacity(10)).await);
            }
            _ => {
                let read = server.read(Vec::with_capacity(10));
                drop(netio::time::timeout(Duration::from_millis(1), read).await);
            }
        }
    };
    scope.spawn(waiting).unwrap();
    settle().await;
    // The task is aborted while it waits; the other end stays open until that is done, so that only
    // the abort can have ended the operation.
    scope.abort_all();
    scope.join_all().await;
    settle().await;
    drop(client);
}

/// Enough turns for completions to come back.
async fn settle() {
    netio::time::sleep(Duration::from_millis(3)).await;
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
