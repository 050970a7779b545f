//! The record of a world on disk, and removing a world by its record.
//!
//! A world that ended well leaves nothing. After a crash the record, the run id in every name and
//! the cgroup tree are enough to remove it: that is what `culvert demo --down` does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use netio::cgroup::Cgroup;
use netio::netns;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::error::WorldError;

/// One directory per world; tmpfs, so that a reboot forgets what a reboot removed.
pub(crate) const WORLDS: &str = "/run/culvert-worlds";
const STATE_FILE: &str = "state.json";
/// How often a directory is removed into which somebody still writes.
const REMOVALS: u32 = 20;

/// Two threads that remove the same world do it one after the other: who comes second finds
/// nothing, and the process does not end before the first is done.
static REMOVING: Mutex<()> = Mutex::new(());

/// A process by pid and start time in clock ticks since boot, so that a reused pid is not taken
/// for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    pub pid: u32,
    pub started_ticks: u64,
    pub name: String,
}

/// What is on disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub id: String,
    /// The process that drops the world at its end.
    pub owner: Recorded,
    /// Left standing on purpose: only `--down` removes it.
    pub kept: bool,
    pub cgroup: PathBuf,
    pub mounts: Vec<PathBuf>,
    pub processes: Vec<Recorded>,
}

/// Writes the record at each change, so that it is true at every moment of a crash.
#[derive(Debug)]
pub(crate) struct Recorder {
    directory: PathBuf,
    state: Mutex<State>,
}

/// A world that was removed, or was left because its owner lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// Nothing of this run id is left.
    Gone(String),
    /// The process with this pid still uses it.
    InUse(String, u32),
}

impl Recorder {
    pub(crate) fn new(id: &str, cgroup: PathBuf) -> Result<Self, WorldError> {
        let directory = Path::new(WORLDS).join(id);
        fs::create_dir_all(&directory)
            .map_err(WorldError::io(format!("make {}", directory.display())))?;
        let pid = std::process::id();
        let owner = Recorded {
            pid,
            started_ticks: start_time(pid),
            name: "owner".to_owned(),
        };
        let state = State {
            id: id.to_owned(),
            owner,
            kept: false,
            cgroup,
            mounts: Vec::new(),
            processes: Vec::new(),
        };
        let recorder = Recorder {
            directory,
            state: Mutex::new(state),
        };
        recorder.change(|_| ())?;
        Ok(recorder)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn mount(&self, path: &Path) -> Result<(), WorldError> {
        self.change(|state| state.mounts.push(path.to_owned()))
    }

    pub(crate) fn process(&self, pid: u32, name: &str, ticks: u64) -> Result<(), WorldError> {
        let recorded = Recorded {
            pid,
            started_ticks: ticks,
            name: name.to_owned(),
        };
        self.change(|state| state.processes.push(recorded))
    }

    pub(crate) fn keep(&self) -> Result<(), WorldError> {
        self.change(|state| state.kept = true)
    }

    pub(crate) fn state(&self) -> State {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn change(&self, change: impl FnOnce(&mut State)) -> Result<(), WorldError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let write = || {
            let new = self.directory.join("state.json.new");
            fs::write(&new, serde_json::to_vec_pretty(&*state)?)?;
            fs::rename(&new, self.directory.join(STATE_FILE))
        };
        write().map_err(WorldError::io("write the record of the world"))
    }
}

/// Which worlds on this machine to remove. One whose owner runs is left alone, unless it was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftovers<'a> {
    /// Those whose owner is gone, but for those that were kept on purpose.
    Abandoned,
    /// Those, and all that were kept.
    All,
    /// The one with this run id.
    One(&'a str),
}

/// Removes worlds that nobody uses, and says which.
pub fn remove_leftovers(which: Leftovers<'_>) -> Result<Vec<Removed>, WorldError> {
    let entries = match fs::read_dir(WORLDS) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(WorldError::io(format!("read {WORLDS}"))(e)),
    };
    let mut removed = Vec::new();
    for entry in entries.flatten() {
        let file = entry.path().join(STATE_FILE);
        // A directory without a record: its owner died before the first write, or just makes it.
        let Ok(bytes) = fs::read(&file) else { continue };
        let state: State = serde_json::from_slice(&bytes)
            .map_err(|e| WorldError::Unreadable(format!("{}: {e}", file.display())))?;
        let wanted = match which {
            Leftovers::Abandoned => !state.kept,
            Leftovers::All => true,
            Leftovers::One(id) => state.id == id,
        };
        if !wanted {
            continue;
        }
        if !state.kept && runs(&state.owner) {
            removed.push(Removed::InUse(state.id.clone(), state.owner.pid));
            continue;
        }
        remove(&state)?;
        removed.push(Removed::Gone(state.id));
    }
    Ok(removed)
}

/// Ends the processes of a world and removes all it made. Goes on after a failure and gives the
/// first one; what is gone is none.
pub(crate) fn remove(state: &State) -> Result<(), WorldError> {
    let _one = REMOVING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut first = None;
    let mut note = |result: Result<(), WorldError>| {
        if let Err(e) = result {
            first.get_or_insert(e);
        }
    };
    for process in state.processes.iter().filter(|process| runs(process)) {
        if let Ok(pid) = i32::try_from(process.pid) {
            // It may end between the look and the signal.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    let cgroup = state.cgroup.display();
    note(remove_cgroup(&state.cgroup).map_err(WorldError::io(format!("remove cgroup {cgroup}"))));
    let prefix = format!("{}-", state.id);
    let names = netns::names().unwrap_or_default();
    for name in names.iter().filter(|name| name.starts_with(&prefix)) {
        let deleted = gone(netns::delete(name));
        note(deleted.map_err(WorldError::io(format!("remove namespace {name}"))));
    }
    for mount in state.mounts.iter().rev().filter(|mount| mount.exists()) {
        match umount2(mount, MntFlags::MNT_DETACH) {
            // EINVAL: not a mount point, recorded but never mounted.
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(e) => note(Err(WorldError::io(format!("unmount {}", mount.display()))(
                e.into(),
            ))),
        }
    }
    let directory = Path::new(WORLDS).join(&state.id);
    // Only without a mount left below it, or the files of that mount would go.
    if first.is_none() {
        first = remove_directory(&directory)
            .map_err(WorldError::io(format!("remove {}", directory.display())))
            .err();
        // Goes only with the last world.
        let _ = fs::remove_dir(WORLDS);
    }
    first.map_or(Ok(()), Err)
}

/// Also when a thread of the owner writes one more file meanwhile.
fn remove_directory(path: &Path) -> io::Result<()> {
    let mut tries = 1;
    loop {
        match gone(fs::remove_dir_all(path)) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty && tries < REMOVALS => {
                tries += 1;
            }
            result => return result,
        }
    }
}

/// What another removed first is removed.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn remove_cgroup(path: &Path) -> io::Result<()> {
    match Cgroup::open(path) {
        Ok(cgroup) => gone(cgroup.remove()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

fn runs(process: &Recorded) -> bool {
    process.started_ticks != 0 && start_time(process.pid) == process.started_ticks
}

/// Field 22 of `/proc/<pid>/stat`; 0 when there is no such process.
pub(crate) fn start_time(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the command in parentheses and may hold blanks.
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(19))
        .and_then(|ticks| ticks.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_pid_is_not_taken_for_the_recorded_process() {
        let pid = std::process::id();
        let ticks = start_time(pid);
        let name = String::new();
        assert!(runs(&Recorded {
            pid,
            started_ticks: ticks,
            name: name.clone()
        }));
        assert!(!runs(&Recorded {
            pid,
            started_ticks: ticks + 1,
            name
        }));
    }
}
