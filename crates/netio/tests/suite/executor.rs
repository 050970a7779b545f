//! The executor: timers and channels in both back ends, and scopes that own their tasks.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use netio::executor::{Scope, ScopeFull};
use tokio::io::AsyncReadExt;

use crate::on_both_back_ends;

on_both_back_ends!(
    timers_fire_in_order,
    channels_work_between_tasks_and_threads,
    tokios_own_sockets_work_beside_ours,
    a_scope_refuses_more_tasks_than_its_limit,
    a_finished_task_makes_room_at_once,
    dropping_a_scope_drops_its_tasks,
    joining_waits_for_tasks_that_tasks_started,
    a_panic_is_counted_and_spares_the_others,
    a_spawner_of_a_dropped_scope_refuses,
);

async fn timers_fire_in_order() {
    let scope = Scope::new(3);
    let order = Rc::new(std::cell::RefCell::new(Vec::new()));
    for delay in [30, 10, 20] {
        let order = Rc::clone(&order);
        scope
            .spawn(async move {
                tokio::time::sleep(Duration::from_millis(delay)).await;
                order.borrow_mut().push(delay);
            })
            .unwrap();
    }
    scope.join_all().await;
    assert_eq!(*order.borrow(), [10, 20, 30]);
}

async fn channels_work_between_tasks_and_threads() {
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let thread = std::thread::Builder::new().spawn(move || {
        for number in 0..100 {
            sender.blocking_send(number).unwrap();
        }
    });
    let mut sum = 0;
    while let Some(number) = receiver.recv().await {
        sum += number;
    }
    thread.unwrap().join().unwrap();
    assert_eq!(sum, 4950);
}

async fn tokios_own_sockets_work_beside_ours() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let near = netio::TcpStream::from_std(near).unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    near.write_all(&b"hello"[..]).await.0.unwrap();
    drop(near);
    let mut text = String::new();
    far.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");
}

async fn a_scope_refuses_more_tasks_than_its_limit() {
    let scope = Scope::new(2);
    scope.spawn(std::future::pending()).unwrap();
    scope.spawn(std::future::pending()).unwrap();
    assert_eq!(scope.spawn(async {}), Err(ScopeFull { limit: 2 }));
    assert_eq!(scope.len(), 2);
}

async fn a_finished_task_makes_room_at_once() {
    let scope = Scope::new(1);
    for _ in 0..10 {
        scope.spawn(async {}).unwrap();
        scope.join_all().await;
        assert!(scope.is_empty());
    }
}

struct OnDrop(Rc<Cell<usize>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

async fn dropping_a_scope_drops_its_tasks() {
    let dropped = Rc::new(Cell::new(0));
    let scope = Scope::new(10);
    for _ in 0..10 {
        let guard = OnDrop(Rc::clone(&dropped));
        scope
            .spawn(async move {
                let _guard = guard;
                std::future::pending().await
            })
            .unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(scope);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(dropped.get(), 10);
}

async fn joining_waits_for_tasks_that_tasks_started() {
    let scope = Scope::new(10);
    let done = Rc::new(Cell::new(0));
    let (spawner, count) = (scope.spawner(), Rc::clone(&done));
    scope
        .spawn(async move {
            for delay in 1..=5 {
                let count = Rc::clone(&count);
                spawner
                    .spawn(async move {
                        tokio::time::sleep(Duration::from_millis(delay)).await;
                        count.set(count.get() + 1);
                    })
                    .unwrap();
            }
        })
        .unwrap();
    scope.join_all().await;
    assert_eq!(done.get(), 5);
}

async fn a_panic_is_counted_and_spares_the_others() {
    let scope = Scope::new(2);
    let done = Rc::new(Cell::new(false));
    let flag = Rc::clone(&done);
    scope.spawn(async { panic!("a task's own fault") }).unwrap();
    scope
        .spawn(async move {
            tokio::task::yield_now().await;
            flag.set(true);
        })
        .unwrap();
    scope.join_all().await;
    assert_eq!((scope.panicked(), done.get()), (1, true));
}

async fn a_spawner_of_a_dropped_scope_refuses() {
    let spawner = Scope::new(1).spawner();
    assert_eq!(spawner.spawn(async {}), Err(ScopeFull { limit: 0 }));
}

#[test]
fn the_ring_back_end_really_uses_its_ring() {
    crate::run(netio::Backend::IoUring, async {
        let before = submitted();
        let (client, server) = crate::pair().await;
        let scope = Scope::new(1);
        scope
            .spawn(async move { drop(server.read(Vec::with_capacity(1)).await) })
            .unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
        client.write_all(&b"x"[..]).await.0.unwrap();
        scope.join_all().await;
        assert!(submitted() > before);
    });
}

/// Entries that the rings of this process have taken, of this thread and of tests beside it.
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
