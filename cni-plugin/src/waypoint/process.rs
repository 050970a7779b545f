//! The process of a waypoint: started in its namespace and its cgroup, or found there again by an
//! agent that starts. Being in that cgroup is what makes a process the instance's own.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ::process::otlp;
use netio::cgroup::Cgroup;
use netio::command::Placement;
use netio::netns::Netns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{sleep, timeout};

use super::Settings;
use super::made::locate;
use super::record::Record;

/// How often an end of the process is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// What of the agent's own environment a waypoint sees.
const PASSED_ON: [&str; 4] = ["PATH", "RUST_LOG", "RUST_BACKTRACE", "LOG_FORMAT"];

/// The same, with what says where and what it traces: a header for the collector may be a secret,
/// which no argument is.
fn passed_on() -> impl Iterator<Item = (&'static str, OsString)> {
    let keys = PASSED_ON.into_iter().chain(otlp::VARIABLES);
    keys.filter_map(|key| Some((key, std::env::var_os(key)?)))
}

/// A process, by pid and start time, so that a pid that was given away again is not taken for it.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    started: u64,
    /// There when this agent started it: it must be reaped.
    child: Option<Child>,
}

impl Process {
    /// The one that runs in the cgroup, if any: left by an agent that went.
    pub fn adopt(cgroup: &Path) -> Option<Self> {
        let pids = Cgroup::open(cgroup).ok()?.pids().ok()?;
        let found = pids
            .into_iter()
            .filter_map(|pid| Some((pid, start_time(pid)?)));
        // The oldest: a child of its own would be younger.
        let (pid, started) = found.min_by_key(|(_, started)| *started)?;
        Some(Self {
            pid,
            started,
            child: None,
        })
    }

    /// Starts the waypoint of a record in its namespace. It is no child in any other sense than
    /// that it must be reaped: neither the agent's end nor a signal of its terminal reaches it.
    ///
    /// # Errors
    /// When the program, the log file or the cgroup is not to be had.
    pub fn start(settings: &Settings, record: &Record, netns: &Netns) -> io::Result<Self> {
        let program = locate(settings);
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{}: {error}", program.display()))
        };
        let cgroup = Cgroup::create(settings.cgroup.join(&record.sandbox))?;
        let mut command = Command::new(&program);
        command
            .args(arguments(settings, record))
            .env_clear()
            .envs(passed_on())
            .stdin(Stdio::null())
            .process_group(0);
        if let Some(log) = log_file(settings, record)? {
            command.stdout(log.try_clone()?).stderr(log);
        }
        Placement {
            netns: Some(netns),
            cgroup: Some(cgroup.path()),
            ..Placement::default()
        }
        .apply(&mut command)?;
        let child = command.spawn().map_err(named)?;
        let pid = child.id();
        Ok(Self {
            pid,
            started: start_time(pid).unwrap_or_default(),
            child: Some(child),
        })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, when it has.
    pub fn ended(&mut self) -> Option<String> {
        match &mut self.child {
            Some(child) => match child.try_wait() {
                Ok(status) => status.map(|status| status.to_string()),
                Err(error) => Some(format!("it cannot be waited for: {error}")),
            },
            None => (start_time(self.pid) != Some(self.started)).then(|| "it is gone".to_owned()),
        }
    }

    /// Waits for its end; how it ended.
    pub async fn end(&mut self) -> String {
        loop {
            match self.ended() {
                Some(how) => return how,
                None => sleep(LOOK).await,
            }
        }
    }

    /// Waits for its end, no longer than that; whether it has.
    pub async fn wait(&mut self, within: Duration) -> bool {
        timeout(within, self.end()).await.is_ok()
    }

    /// Asks it to drain and end.
    pub fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
    }

    /// Ends it with all that runs in its cgroup; it alone when that is not to be had.
    pub fn kill(&mut self, cgroup: &Path) {
        if let Err(error) = Cgroup::open(cgroup).and_then(|cgroup| cgroup.kill()) {
            tracing::warn!(pid = self.pid, %error, "the cgroup of a waypoint cannot be ended");
        }
        self.signal(Signal::SIGKILL);
    }

    fn signal(&mut self, signal: Signal) {
        if self.ended().is_some() {
            return;
        }
        if let Ok(pid) = i32::try_from(self.pid) {
            // It may end between the look and the signal.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

fn arguments(settings: &Settings, record: &Record) -> Vec<String> {
    let replica = &record.replica;
    let own = [
        (
            "--gateway",
            format!("{}/{}", replica.namespace, replica.gateway),
        ),
        ("--pod-name", record.name()),
        ("--pod-uid", record.uid.clone()),
        ("--pod-namespace", replica.namespace.clone()),
        ("--service-account", replica.service_account.clone()),
        ("--trust-domain", replica.trust_domain.clone()),
    ];
    let own = own
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value]);
    own.chain(settings.arguments.iter().cloned()).collect()
}

fn log_file(settings: &Settings, record: &Record) -> io::Result<Option<File>> {
    let Some(directory) = &settings.log_dir else {
        return Ok(None);
    };
    let path = directory.join(format!("{}.log", record.sandbox));
    let open = || {
        fs::create_dir_all(directory)?;
        OpenOptions::new().create(true).append(true).open(&path)
    };
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    open().map(Some).map_err(named)
}

/// Field 22 of `/proc/<pid>/stat`, in ticks; None when there is no such process, or only its entry
/// that nobody has reaped.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold blanks.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    match fields.first() {
        Some(&"Z" | &"X") => None,
        _ => fields.get(19)?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ended_is_noticed_whoever_started_it() {
        let child = Command::new("sleep").arg("600").spawn().unwrap();
        let (pid, started) = (child.id(), start_time(child.id()).unwrap());
        let mut own = Process {
            pid,
            started,
            child: Some(child),
        };
        let mut adopted = Process {
            pid,
            started,
            child: None,
        };
        assert_eq!((own.ended(), adopted.ended()), (None, None));
        adopted.terminate();
        let mut other = Process {
            started: started + 1,
            ..adopted
        };
        assert!(other.ended().is_some(), "another process with that pid");
        let how = loop {
            match own.ended() {
                Some(how) => break how,
                None => std::thread::yield_now(),
            }
        };
        assert!(how.contains("signal: 15"), "{how}");
        other.started = started;
        assert!(other.ended().is_some());
    }

    #[tokio::test]
    async fn a_process_that_will_not_end_is_killed_and_reaped_also_without_its_cgroup() {
        let script = "trap '' TERM; echo deaf; while :; do sleep 1; done";
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = [0; 5];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        let mut process = Process {
            pid: child.id(),
            started: start_time(child.id()).unwrap(),
            child: Some(child),
        };
        process.terminate();
        assert!(!process.wait(LOOK * 2).await);
        process.kill(Path::new("/no/such/cgroup"));
        assert!(process.wait(Duration::from_secs(60)).await);
        let entry = Path::new("/proc").join(process.pid().to_string());
        assert!(!entry.exists(), "a zombie is left");
    }

    #[test]
    fn it_is_told_who_it_is_before_what_all_are_told() {
        let base = tempfile::tempdir().unwrap();
        let settings = super::super::tests::settings(base.path());
        let replica = super::super::tests::replica("gate", 1);
        let record = Record::new(replica, 17, "culvert-", String::new());
        let arguments = arguments(&settings, &record).join(" ");
        assert!(
            arguments.starts_with("--gateway shop/gate --pod-name gate-17 --pod-uid "),
            "{arguments}"
        );
        assert!(
            arguments.ends_with(&settings.arguments.join(" ")),
            "{arguments}"
        );
    }
}
