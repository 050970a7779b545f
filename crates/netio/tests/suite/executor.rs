//! The executor: timers and channels in both back ends, and scopes that own their tasks.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::on_both_back_ends;
use netio::executor::{Scope, ScopeFull};

on_both_back_ends!(
    timers_fire_in_order,
    channels_work_between_tasks_and_threads,
    a_timer_that_is_dropped_and_one_that_waits_for_ever_keep_nobody_waiting,
    a_thread_that_is_woken_while_it_falls_asleep_wakes,
    yielding_lets_every_other_task_run,
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
    // One moment for all: a machine that stalls between their first turns changes no order.
    let start = netio::time::Instant::now();
    for delay in [30, 10, 20] {
        let order = Rc::clone(&order);
        scope
            .spawn(async move {
                netio::time::sleep_until(start + Duration::from_millis(delay)).await;
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

async fn a_timer_that_is_dropped_and_one_that_waits_for_ever_keep_nobody_waiting() {
    let never = netio::time::sleep(Duration::MAX);
    let mut never = std::pin::pin!(never);
    for _ in 0..3 {
        let waited = netio::time::timeout(Duration::from_millis(1), never.as_mut()).await;
        assert_eq!(waited, Err(netio::time::Elapsed));
    }
    let in_time = netio::time::timeout(Duration::from_secs(50), async { 7 }).await;
    assert_eq!(in_time, Ok(7));
    let past = netio::time::Instant::now();
    assert!(
        netio::time::timeout_at(past, std::future::pending::<()>())
            .await
            .is_err()
    );
}

/// Wakes that cross the moment in which a thread goes to sleep must not be lost.
async fn a_thread_that_is_woken_while_it_falls_asleep_wakes() {
    let (ping, mut pinged) = tokio::sync::mpsc::channel(1);
    let (pong, mut ponged) = tokio::sync::mpsc::channel(1);
    let thread = std::thread::Builder::new().spawn(move || {
        while let Some(number) = ponged.blocking_recv() {
            let number: u32 = number;
            // Now at once, now when the executor sleeps for sure.
            if number.is_multiple_of(64) {
                std::thread::sleep(Duration::from_millis(1));
            }
            if ping.blocking_send(number).is_err() {
                return;
            }
        }
    });
    for number in 0..5000 {
        pong.send(number).await.unwrap();
        assert_eq!(pinged.recv().await, Some(number));
    }
    drop(pong);
    thread.unwrap().join().unwrap();
}

async fn yielding_lets_every_other_task_run() {
    let scope = Scope::new(2);
    let turns = Rc::new(Cell::new(0));
    let count = Rc::clone(&turns);
    scope
        .spawn(async move {
            loop {
                count.set(count.get() + 1);
                netio::executor::yield_now().await;
            }
        })
        .unwrap();
    // A timer and a socket beside a task that is always ready.
    netio::time::sleep(Duration::from_millis(2)).await;
    let (client, server) = crate::pair().await;
    client.write_all(&b"x"[..]).await.0.unwrap();
    assert_eq!(server.read(Vec::with_capacity(9)).await.0.unwrap(), 1);
    assert!(turns.get() > 1);
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
    netio::time::sleep(Duration::from_millis(1)).await;
    drop(scope);
    netio::time::sleep(Duration::from_millis(1)).await;
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
                        netio::time::sleep(Duration::from_millis(delay)).await;
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
            netio::executor::yield_now().await;
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
