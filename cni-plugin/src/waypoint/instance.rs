//! The life of one instance, a task of its own:
//!
//! ```text
//! sandbox -> process -> ready -> advertised ... told to drain -> withdrawn -> SIGTERM -> gone
//!               ^ ended: again after a pause
//! ```
//!
//! An agent that starts again enters where its predecessor was: a sandbox that has a result is
//! taken as it is, a process in its cgroup is taken over. An agent that stops leaves all running.

use std::io;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use netio::cgroup::Cgroup;
use netio::netns::Netns;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::process::Process;
use super::record::Record;
use super::{Settings, Surroundings, made, probe, sandbox};

/// Pause between two questions whether it is ready, before the first yes.
const PROBE_FIRST: Duration = Duration::from_millis(200);
/// The same after it.
const PROBE_THEN: Duration = Duration::from_secs(1);
/// Before that, a process that is not ready only starts, which is no problem to tell of.
const STARTS_WITHIN: Duration = Duration::from_secs(2);
/// So many times no after a yes makes it not ready: one lost answer is no outage.
const MISSES: u32 = 3;
/// Reports that wait for the acknowledgement of all proxies, 5 s each, until a ready instance
/// counts as known also without it: one proxy that is stuck must not hold up a replacement.
const ADVERTISE_ATTEMPTS: u32 = 3;
/// Shortest and longest pause before something that failed is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// A process that ran for so long did not end from what ended it before.
const SETTLED: Duration = Duration::from_secs(60);
/// Longest wait for the end of a process that was killed: it may write a core dump first.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// Attempts at DEL before the namespace is removed without it.
const DEL_ATTEMPTS: u32 = 5;

/// One instance.
pub struct Instance {
    surroundings: Surroundings,
    record: Record,
    told: watch::Receiver<bool>,
}

enum Watched {
    Ended(String),
    /// It runs, and its namespace has no name any more.
    Homeless,
    Drain,
}

impl Instance {
    /// The instance of a record that is kept and shown.
    pub fn new(surroundings: Surroundings, record: Record, told: watch::Receiver<bool>) -> Self {
        Self {
            surroundings,
            record,
            told,
        }
    }

    /// Runs until it is told to drain and has gone, or until the agent stops.
    pub async fn run(mut self) {
        let stop = self.surroundings.tasks.stop();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.live() => {}
        }
    }

    async fn live(&mut self) {
        let process = self.supervise().await;
        self.withdraw().await;
        if let Some(process) = process {
            self.end(process).await;
        }
        self.clear().await;
        let waypoints = &self.surroundings.waypoints;
        waypoints.shown().remove(&self.record.uid);
        self.surroundings.reporter.changed();
        let sandbox = &self.record.sandbox;
        tracing::info!(pod = self.record.name(), sandbox, "the waypoint is gone");
    }

    /// Makes the sandbox unless it is there; false when it is told to drain before.
    async fn has_sandbox(&mut self) -> bool {
        if self.record.added.is_some() && sandbox::netns(&self.record).is_some() {
            return true;
        }
        let mut pauses = pauses();
        while !self.drains() {
            // What an agent left half made, or the last attempt here, or a reboot. Its addresses
            // may be another's by now.
            if self.record.added.is_some() || sandbox::netns(&self.record).is_some() {
                self.is_not_ready();
                self.change(|shown| shown.ips.clear());
                self.remove_sandbox().await;
            }
            let made = self.blocking(sandbox::make).await;
            match made {
                Ok(result) => {
                    self.record.added = Some(result);
                    self.keep();
                    self.problem(String::new());
                    return true;
                }
                Err(error) => self.problem(error.to_string()),
            }
            self.pause(pauses.next().unwrap_or(PAUSES.1)).await;
        }
        false
    }

    /// Keeps a process running until it is told to drain; gives the one that runs then.
    async fn supervise(&mut self) -> Option<Process> {
        let mut restarts = pauses();
        while self.has_sandbox().await && !self.drains() {
            let began = Instant::now();
            let why = match self.process() {
                Err(problem) => problem,
                Ok(mut process) => match self.watch(&mut process).await {
                    Watched::Drain => return Some(process),
                    Watched::Ended(how) => format!("it ended: {how}"),
                    Watched::Homeless => {
                        self.kill(process).await;
                        "its network namespace is gone".to_owned()
                    }
                },
            };
            if began.elapsed() > SETTLED {
                restarts = pauses();
            }
            self.is_not_ready();
            let pause = restarts.next().unwrap_or(PAUSES.1);
            tracing::warn!(
                pod = self.record.name(),
                why,
                ?pause,
                "the waypoint starts again"
            );
            self.problem(why);
            self.pause(pause).await;
        }
        Process::adopt(&self.cgroup())
    }

    /// The process that runs, or a new one.
    fn process(&mut self) -> Result<Process, String> {
        if let Some(process) = Process::adopt(&self.cgroup()) {
            let pod = self.record.name();
            tracing::info!(pod, pid = process.pid(), "the waypoint runs already");
            return Ok(process);
        }
        self.is_not_ready();
        let netns = sandbox::netns(&self.record).ok_or("its network namespace is gone")?;
        let settings = self.settings();
        let made_of = made::Binary::look(settings);
        let made_of = made_of.map(|binary| binary.made_of(&self.record.replica, settings));
        let process = Process::start(settings, &self.record, &netns);
        let process = process.map_err(|error| format!("it could not be started: {error}"))?;
        let pod = self.record.name();
        tracing::info!(pod, pid = process.pid(), "the waypoint was started");
        if let Some(made_of) = made_of.filter(|made_of| *made_of != self.record.made_of) {
            self.record.made_of = made_of;
            self.keep();
        }
        Ok(process)
    }

    async fn watch(&mut self, process: &mut Process) -> Watched {
        let mut told = self.told.clone();
        let told = async {
            // Its sender goes with what is shown, which only this task removes.
            let _ = told.wait_for(|drain| *drain).await;
        };
        tokio::select! {
            how = process.end() => Watched::Ended(how),
            () = told => Watched::Drain,
            () = self.follow_readiness() => Watched::Homeless,
        }
    }

    /// Ends only when there is no namespace to ask in.
    async fn follow_readiness(&self) {
        let Some(netns) = sandbox::netns(&self.record) else {
            return;
        };
        // One that another agent found ready is so until it says no as often as any.
        let was_ready = self.change(|shown| shown.record.ready) == Some(true);
        let mut misses = if was_ready { 0 } else { MISSES };
        let began = Instant::now();
        loop {
            match ask(netns.clone()).await {
                Ok(()) => {
                    misses = 0;
                    self.is_ready().await;
                }
                Err(why) => {
                    misses = misses.saturating_add(1);
                    if misses >= MISSES {
                        self.is_not_ready();
                        let only_starts = began.elapsed() < STARTS_WITHIN;
                        self.problem(if only_starts { String::new() } else { why });
                    }
                }
            }
            sleep(if misses < MISSES {
                PROBE_THEN
            } else {
                PROBE_FIRST
            })
            .await;
        }
    }

    /// Makes it known that it is ready, once.
    async fn is_ready(&self) {
        self.change(|shown| (shown.record.ready, shown.problem) = (true, String::new()));
        if self.change(|shown| shown.advertised) == Some(false) {
            self.save();
            tracing::info!(pod = self.record.name(), "the waypoint is ready");
            for _ in 0..ADVERTISE_ATTEMPTS {
                if self.surroundings.reporter.now(true).await {
                    break;
                }
            }
            self.change(|shown| shown.advertised = true);
        }
    }

    fn is_not_ready(&self) {
        let was = self.change(|shown| {
            shown.advertised = false;
            std::mem::take(&mut shown.record.ready)
        });
        if was == Some(true) {
            self.save();
        }
    }

    /// Makes known that it gets no new connections.
    async fn withdraw(&mut self) {
        self.record.draining = true;
        self.keep();
        let known = self.change(|shown| shown.record.ready) == Some(true);
        let acked = self.surroundings.reporter.now(known).await;
        tracing::info!(pod = self.record.name(), acked, "the waypoint is withdrawn");
    }

    async fn end(&self, mut process: Process) {
        process.terminate();
        if !process.wait(self.settings().drain_deadline).await {
            tracing::warn!(pod = self.record.name(), "the waypoint did not end in time");
            self.kill(process).await;
        }
    }

    /// What is left of it after that is met again when its cgroup is removed.
    async fn kill(&self, mut process: Process) {
        process.kill(&self.cgroup());
        if !process.wait(GONE_WITHIN).await {
            let (pod, pid) = (self.record.name(), process.pid());
            tracing::error!(pod, pid, "the waypoint was killed and does not end");
        }
    }

    /// Removes all that it had, its record last.
    async fn clear(&mut self) {
        let mut pauses = pauses();
        loop {
            self.remove_sandbox().await;
            let removed = self
                .surroundings
                .waypoints
                .inner
                .store
                .remove(&self.record.uid);
            match removed {
                Ok(()) => return,
                Err(error) => self.problem(error.to_string()),
            }
            sleep(pauses.next().unwrap_or(PAUSES.1)).await;
        }
    }

    /// Removes cgroup and sandbox. A chain that refuses for long loses the sandbox anyway, with a
    /// word about what may remain.
    async fn remove_sandbox(&mut self) {
        let path = self.cgroup();
        let mut pauses = pauses();
        for attempt in 1..=DEL_ATTEMPTS {
            let cgroup = path.clone();
            let removed = self.blocking(move |settings, record| {
                remove_cgroup(&cgroup).map_err(sandbox::SandboxError::Netns)?;
                sandbox::remove(settings, record)
            });
            let Err(error) = removed.await else {
                self.record.added = None;
                return;
            };
            let pod = self.record.name();
            tracing::warn!(pod, attempt, %error, "the waypoint's sandbox could not be removed");
            self.problem(error.to_string());
            sleep(pauses.next().unwrap_or(PAUSES.1)).await;
        }
        let removed = sandbox::remove_netns(&self.record);
        let pod = self.record.name();
        tracing::error!(
            pod,
            container_id = self.record.container_id,
            ?removed,
            "the waypoint's sandbox was given up; what the CNI chain keeps of it may remain"
        );
        self.record.added = None;
    }

    async fn blocking<T: Send + 'static, E: From<io::Error> + Send + 'static>(
        &self,
        work: impl FnOnce(&Settings, &Record) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E> {
        let (waypoints, record) = (self.surroundings.waypoints.clone(), self.record.clone());
        let work = move || work(&waypoints.inner.settings, &record);
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(io::Error::other(error).into()),
        }
    }

    /// Sleeps, or ends early when it is told to drain.
    async fn pause(&self, pause: Duration) {
        let mut told = self.told.clone();
        tokio::select! {
            () = sleep(pause) => {}
            _ = told.wait_for(|drain| *drain) => {}
        }
    }

    fn drains(&self) -> bool {
        *self.told.borrow()
    }

    fn settings(&self) -> &Settings {
        &self.surroundings.waypoints.inner.settings
    }

    fn cgroup(&self) -> std::path::PathBuf {
        self.settings().cgroup.join(&self.record.sandbox)
    }

    /// Shows the record and writes it.
    fn keep(&self) {
        self.change(|shown| {
            let ready = shown.record.ready;
            shown.record = self.record.clone();
            shown.record.ready = ready;
            shown.ips = sandbox::addresses(&self.record);
        });
        self.save();
    }

    /// Writes what is shown.
    fn save(&self) {
        let Some(record) = self.change(|shown| shown.record.clone()) else {
            return;
        };
        if let Err(error) = self.surroundings.waypoints.inner.store.save(&record) {
            tracing::warn!(%error, "the record of a waypoint could not be renewed");
        }
    }

    fn problem(&self, problem: String) {
        self.change(|shown| shown.problem = problem);
    }

    /// Changes what others see, and reports soon when that is another picture.
    fn change<T>(&self, change: impl FnOnce(&mut super::Shown) -> T) -> Option<T> {
        let mut all = self.surroundings.waypoints.shown();
        let shown = all.get_mut(&self.record.uid)?;
        let picture = |shown: &super::Shown| {
            let record = &shown.record;
            (
                record.ready,
                shown.problem.clone(),
                shown.ips.clone(),
                record.draining,
            )
        };
        let before = picture(shown);
        let result = change(shown);
        if picture(shown) != before {
            self.surroundings.reporter.changed();
        }
        Some(result)
    }
}

fn pauses() -> impl Iterator<Item = Duration> + Send {
    let builder = ExponentialBuilder::default()
        .with_jitter()
        .without_max_times();
    builder
        .with_min_delay(PAUSES.0)
        .with_max_delay(PAUSES.1)
        .build()
}

async fn ask(netns: Netns) -> Result<(), String> {
    let asked = tokio::task::spawn_blocking(move || probe::ready(&netns)).await;
    asked.unwrap_or_else(|error| Err(error.to_string()))
}

fn remove_cgroup(path: &std::path::Path) -> io::Result<()> {
    match Cgroup::open(path) {
        Ok(cgroup) => cgroup.remove(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
