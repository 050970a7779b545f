//! The end of a worker: nothing new is taken, what is open ends in its own time, and what is left
//! at the deadline is ended.

use std::rc::Rc;
use std::time::Duration;

use carrier::tunnel::Tunnel;
use hbone::ErrorCode;
use netio::time::{Instant, sleep, timeout_at};
use tokio::sync::watch;

use super::Worker;
use crate::connection::{Ended, Shared};

/// How long the tasks of connections that were accepted last have to begin.
const LAST_ACCEPTED: Duration = Duration::from_millis(20);

/// How long connections that were ended by force have to leave their records.
const DRAIN_RECORDS: Duration = Duration::from_millis(500);

/// How long before the deadline idle connections are ended: for the time that a client which asks
/// at that very moment takes to be answered.
const LAST_CALL: Duration = Duration::from_secs(2);

/// How often it is looked whether everything has ended.
const LOOK: Duration = Duration::from_millis(20);

/// A connection that moved nothing for so long at its deadline is quiet.
const QUIET: Duration = Duration::from_millis(200);

/// How long both sides of a connection that was closed may take to close it too.
const CLOSE_WAIT: Duration = Duration::from_secs(1);

impl Worker {
    /// Begins when there is a deadline, and ends when all has ended or is ended by force.
    pub(super) async fn drain(self: &Rc<Self>, mut deadlines: watch::Receiver<Option<Instant>>) {
        let ordered = deadlines.wait_for(Option::is_some).await.is_ok();
        if !ordered {
            return;
        }
        self.stop_taking();
        // The tasks of what was accepted a moment ago have not begun yet.
        sleep(LAST_ACCEPTED).await;
        loop {
            let deadline = *deadlines.borrow_and_update();
            let Some(deadline) = deadline.filter(|deadline| Instant::now() < *deadline) else {
                break;
            };
            let last_call = deadline.checked_sub(LAST_CALL);
            let until = last_call.filter(|at| *at > Instant::now() && !self.closing.is_cancelled());
            if until.is_none() {
                self.closing.cancel();
            }
            tokio::select! {
                () = self.emptied(until.unwrap_or(deadline)) => {}
                _ = deadlines.changed() => {}
            }
            if self.is_empty() {
                return;
            }
        }
        self.closing.cancel();
        let closed = self.close_quiet().await;
        let left = self.live.all();
        for connection in &left {
            connection.end(Ended::DrainDeadline);
        }
        for tunnel in self.all_tunnels() {
            tunnel.close(ErrorCode::NO_ERROR);
        }
        let reset = left.len();
        if closed + reset > 0 {
            tracing::warn!(closed, reset, "the drain deadline is over");
            self.metrics.count_cut(closed as u64, reset as u64);
        }
        self.emptied(Instant::now() + DRAIN_RECORDS).await;
    }

    fn stop_taking(&self) {
        self.is_draining.set(true);
        self.draining.cancel();
        let tunnels = self.tunnels.all();
        let established = |tunnel: &&Rc<Tunnel>| tunnel.is_established();
        tunnels
            .iter()
            .filter(established)
            .for_each(|tunnel| tunnel.drain());
    }

    fn all_tunnels(&self) -> Vec<Rc<Tunnel>> {
        let mut all = self.tunnels.all();
        all.extend(self.upstream_tunnels.all());
        all
    }

    fn is_empty(&self) -> bool {
        self.live.is_empty() && self.all_tunnels().iter().all(|tunnel| tunnel.is_over())
    }

    /// Waits until all has ended, and lets tunnels go that carry nothing any more.
    async fn emptied(&self, deadline: Instant) {
        let look = async {
            while !self.is_empty() {
                // Ours are needed as long as clients have something to ask.
                let ours = if self.live.is_empty() {
                    self.upstream_tunnels.all()
                } else {
                    Vec::new()
                };
                for tunnel in self.tunnels.all().into_iter().chain(ours) {
                    if tunnel.is_established() && tunnel.streams() == 0 {
                        tunnel.drain();
                    }
                }
                sleep(LOOK).await;
            }
        };
        // What is left then is ended by force.
        let _ = timeout_at(deadline, look).await;
    }

    /// Closes connections of which nothing is on its way, and waits a moment for both sides to
    /// agree. Says how many have; the others are left. No byte is cut off by it.
    async fn close_quiet(&self) -> usize {
        let all = self.live.all();
        let before: Vec<_> = all.iter().map(|one| one.moved_bytes()).collect();
        sleep(QUIET).await;
        let is_listed = |connection: &Shared| self.live.contains(connection);
        let quiet = all.iter().zip(before).filter(|(now, moved)| {
            is_listed(now) && now.pulse.is_quiet() && now.moved_bytes() == *moved
        });
        let closing: Vec<_> = quiet.map(|(connection, _)| connection).collect();
        for connection in &closing {
            connection.close(Ended::DrainDeadline);
        }
        let open = || closing.iter().filter(|it| is_listed(it)).count();
        let deadline = Instant::now() + CLOSE_WAIT;
        while open() > 0 && Instant::now() < deadline {
            sleep(LOOK).await;
        }
        closing.len() - open()
    }
}
