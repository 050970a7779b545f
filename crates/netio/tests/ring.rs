//! What only a ring has to promise, in a process of its own: the counts are the whole process's.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "tests: named by what they show, and meant to panic"
)]

use std::future::Future;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use netio::executor::{self, Scope};
use netio::time::{sleep, timeout};
use netio::{Backend, TcpListener, TcpStream};

/// One test at a time: they count what belongs to the process.
static ALONE: Mutex<()> = Mutex::new(());

const HANG: Duration = Duration::from_secs(100);

fn run(test: impl Future<Output = ()>) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let test = async { timeout(HANG, test).await.expect("the test hangs") };
    executor::run(Backend::IoUring, test).unwrap();
}

async fn pair() -> (Rc<TcpStream>, Rc<TcpStream>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = TcpListener::from_std(listener).unwrap();
    pair_by(&listener).await
}

async fn pair_by(listener: &TcpListener) -> (Rc<TcpStream>, Rc<TcpStream>) {
    let near = std::net::TcpStream::connect(listener.local_addr()).unwrap();
    let far = listener.accept().await.unwrap();
    (Rc::new(TcpStream::from_std(near).unwrap()), Rc::new(far))
}

#[test]
fn the_ring_back_end_really_uses_its_ring() {
    run(async {
        let before = submitted();
        let (client, server) = pair().await;
        let scope = Scope::new(1);
        scope
            .spawn(async move { drop(server.read(Vec::with_capacity(1)).await) })
            .unwrap();
        sleep(Duration::from_millis(5)).await;
        client.write_all(&b"x"[..]).await.0.unwrap();
        scope.join_all().await;
        assert!(submitted() > before);
    });
}

/// Entries that the rings of this process have taken.
fn submitted() -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if target.to_string_lossy().contains("io_uring") {
            let number = entry.file_name().into_string().unwrap();
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"));
            let info = info.unwrap_or_default();
            let tail = info.lines().find_map(|line| line.strip_prefix("SqTail:"));
            sum += tail.map_or(0, |text| text.trim().parse().unwrap());
        }
    }
    sum
}
