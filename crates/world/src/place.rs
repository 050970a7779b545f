//! Where a program runs: a network namespace and a cgroup of a world.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use netio::cgroup::Cgroup;
use netio::command::Placement;
use netio::netns::Netns;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::ending::making;
use crate::error::WorldError;
use crate::interrupt::Interrupt;
use crate::process::Process;
use crate::program::{Output, Program};
use crate::requirements;
use crate::state::{Recorder, start_time};

/// A network namespace with a cgroup: starts programs in both.
#[derive(Clone, Debug)]
pub struct Place {
    pub(crate) name: String,
    pub(crate) netns: PathBuf,
    pub(crate) cgroup: PathBuf,
    pub(crate) logs: PathBuf,
    pub(crate) interrupt: Interrupt,
    pub(crate) recorder: Arc<Recorder>,
}

impl Place {
    /// The name of the node, pod or machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Path of the network namespace, below `/run/netns`.
    pub fn netns(&self) -> &Path {
        &self.netns
    }

    /// The cgroup2 directory that its processes start in.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The flag that ends every wait of this world.
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// The same namespace with a cgroup below this one.
    pub fn with_cgroup(&self, below: &str) -> Result<Place, WorldError> {
        let cgroup = self.cgroup.join(below);
        make_cgroup(&cgroup)?;
        Ok(Place {
            cgroup,
            ..self.clone()
        })
    }

    /// Runs a program to its end, or kills it and its children when its time is over.
    pub fn run(&self, program: &Program) -> Result<Output, WorldError> {
        self.interrupt.check()?;
        let start = Instant::now();
        let files = || Ok((tempfile::tempfile()?, tempfile::tempfile()?));
        let (mut stdout, mut stderr) =
            files().map_err(WorldError::io("make files for a program's output"))?;
        let mut child = self.spawn(program, &stdout, &stderr)?;
        let (status, timed_out) = loop {
            let ended = child
                .try_wait()
                .map_err(WorldError::io("wait for a program"))?;
            if let Some(status) = ended {
                break (status, false);
            }
            if start.elapsed() >= program.limit || self.interrupt.is_raised() {
                kill_group(&child);
                let status = child.wait().map_err(WorldError::io("wait for a program"))?;
                break (status, true);
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        };
        self.interrupt.check()?;
        Ok(Output {
            status,
            stdout: read_back(&mut stdout)?,
            stderr: String::from_utf8_lossy(&read_back(&mut stderr)?).into_owned(),
            timed_out,
            took: start.elapsed(),
            program: program.shown(),
        })
    }

    /// Runs a program and gives its stdout as text; an error unless it ended with status 0.
    pub fn text(&self, program: &Program) -> Result<String, WorldError> {
        Ok(self.run(program)?.success()?.text())
    }

    /// Starts a program that stays. `name` names it in messages and its log file.
    pub fn start(&self, name: &str, program: &Program) -> Result<Process, WorldError> {
        self.interrupt.check()?;
        let log = self.logs.join(format!("{}.{name}.log", self.name));
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(WorldError::io(format!("open {}", log.display())))?;
        let from = file
            .metadata()
            .map_err(WorldError::io("measure a log"))?
            .len();
        let child = self.spawn(program, &file, &file)?;
        self.recorder
            .process(child.id(), name, start_time(child.id()))?;
        let name = format!("{name} on {}", self.name);
        Ok(Process::new(
            &name,
            (log, from.try_into().unwrap_or(usize::MAX)),
            child,
            self.interrupt.clone(),
        ))
    }

    fn spawn(&self, program: &Program, out: &File, err: &File) -> Result<Child, WorldError> {
        let (name, arguments) = program.words.split_first().expect("a program has a name");
        let mut command = Command::new(name);
        if program.clear_env {
            command.env_clear();
        }
        command
            .args(arguments)
            .env("PATH", requirements::search_path())
            .envs(program.env.iter().map(|(key, value)| (key, value)))
            .stdin(input(&program.stdin)?)
            .stdout(out.try_clone().map_err(WorldError::io("duplicate a log"))?)
            .stderr(err.try_clone().map_err(WorldError::io("duplicate a log"))?)
            // A Ctrl-C of the terminal goes to the demo alone, which then ends them in order.
            .process_group(0);
        let what = format!("start {} on {}", program.shown(), self.name);
        let _making = making()?;
        let mut start = || {
            let netns = Netns::open(&self.netns)?;
            let place = Placement {
                netns: Some(&netns),
                cgroup: Some(&self.cgroup),
                ..Placement::default()
            };
            place.apply(&mut command)?;
            command.spawn()
        };
        start().map_err(WorldError::io(what))
    }
}

/// Makes a directory of the cgroup tree, with its parents.
pub(crate) fn make_cgroup(path: &Path) -> Result<(), WorldError> {
    let what = format!("make cgroup {}", path.display());
    let _making = making()?;
    Cgroup::create(path).map(drop).map_err(WorldError::io(what))
}

fn input(bytes: &[u8]) -> Result<Stdio, WorldError> {
    if bytes.is_empty() {
        return Ok(Stdio::null());
    }
    let write = || {
        let mut file = tempfile::tempfile()?;
        file.write_all(bytes)?;
        file.rewind()?;
        io::Result::Ok(file)
    };
    Ok(write()
        .map_err(WorldError::io("write a program's input"))?
        .into())
}

fn read_back(file: &mut File) -> Result<Vec<u8>, WorldError> {
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.read_to_end(&mut bytes))
        .map_err(WorldError::io("read a program's output"))?;
    Ok(bytes)
}

fn kill_group(child: &Child) {
    // The child leads a group of its own (process_group above). It may be gone already.
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
}
