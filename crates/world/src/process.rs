//! A process that stays: its log, waiting for a line of it, and its end.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::WorldError;
use crate::interrupt::Interrupt;
use crate::program::tail;

/// Between SIGTERM and SIGKILL, when a handle is dropped; a stop that matters uses `stop`.
const DROP_GRACE: Duration = Duration::from_millis(0);
/// How much of a log an error shows, in bytes.
const LOG_TAIL_BYTES: usize = 3000;

/// A running process of a world. Dropping the handle kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    // Where its part of the log begins: an earlier process of the same name wrote before it.
    log_from: usize,
    pid: i32,
    child: Mutex<Child>,
    interrupt: Interrupt,
}

impl Process {
    pub(crate) fn new(
        name: &str,
        (log, log_from): (PathBuf, usize),
        child: Child,
        interrupt: Interrupt,
    ) -> Self {
        let pid = i32::try_from(child.id()).expect("the kernel's pids fit in an i32");
        Process {
            name: name.to_owned(),
            log,
            log_from,
            pid,
            child: Mutex::new(child),
            interrupt,
        }
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The file that holds its stdout and stderr, after those of earlier processes of its name.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All it wrote so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.log_from..).unwrap_or_default()).into_owned()
    }

    /// Its status if it has ended.
    pub fn ended(&self) -> Option<ExitStatus> {
        let mut child = self
            .child
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        match child.try_wait() {
            Ok(status) => status,
            // ECHILD: somebody else reaped it, so it has ended.
            Err(_) => Some(ExitStatus::from_raw(0)),
        }
    }

    /// Looks until `look` gives something; fails at once when the process ends, with its log.
    pub fn wait_until<T>(
        &self,
        what: &str,
        within: Duration,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T, WorldError> {
        let waited = self.interrupt.wait_for(what, within, || {
            let ended = self.ended();
            match (look(), ended) {
                (Some(found), _) => Ok(Some(found)),
                (None, Some(status)) => Err(self.gone(what, status)),
                (None, None) => Ok(None),
            }
        });
        waited.map_err(|e| match e {
            WorldError::TimedOut { what, after, .. } => {
                let detail = format!("; log of {}:\n{}", self.name, self.log_tail());
                WorldError::TimedOut {
                    what,
                    after,
                    detail,
                }
            }
            other => other,
        })
    }

    /// Waits for a line of the log that contains all the words; gives the line.
    pub fn wait_for_line(&self, words: &[&str], within: Duration) -> Result<String, WorldError> {
        let what = format!("a line of {} with {words:?}", self.name);
        self.wait_until(&what, within, || {
            self.log()
                .lines()
                .find(|line| words.iter().all(|word| line.contains(word)))
                .map(str::to_owned)
        })
    }

    /// Waits until it ends by itself.
    pub fn wait_end(&self, within: Duration) -> Result<ExitStatus, WorldError> {
        let what = format!("{} to end", self.name);
        self.interrupt.wait_for(&what, within, || Ok(self.ended()))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<(), WorldError> {
        if self.ended().is_some() {
            return Ok(());
        }
        kill(Pid::from_raw(self.pid), signal)
            .map_err(|e| WorldError::io(format!("signal {}", self.name))(e.into()))
    }

    /// SIGTERM, then SIGKILL after `grace`; waits for the end and gives the status.
    pub fn stop(&self, grace: Duration) -> Result<ExitStatus, WorldError> {
        self.signal(Signal::SIGTERM)?;
        let end = std::time::Instant::now() + grace;
        while std::time::Instant::now() < end {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        self.signal(Signal::SIGKILL)?;
        let mut child = self
            .child
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        child
            .wait()
            .map_err(WorldError::io(format!("wait for {}", self.name)))
    }

    fn log_tail(&self) -> String {
        tail(self.log().trim_end(), LOG_TAIL_BYTES).to_owned()
    }

    fn gone(&self, what: &str, status: ExitStatus) -> WorldError {
        WorldError::Failed {
            program: self.name.clone(),
            outcome: format!("ended ({status}) before {what}"),
            output: self.log_tail(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Also reaps it. There is nobody left to tell of a failure.
        if self.ended().is_none() {
            let _ = self.stop(DROP_GRACE);
        }
    }
}
