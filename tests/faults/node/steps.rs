//! Stopping an unchanged agent between two steps: its log goes into a pipe that holds one line.
//!
//! A pipe of one page in packet mode (pipe(7), O_DIRECT) takes one write. While it is full, the
//! agent stands in its next log line, and that is the line of the step it has just done. Reading
//! one line lets it go exactly one step on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::ensure;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use world::Process;

use super::ground::COMES_WITHIN;

/// The smallest pipe there is.
const PAGE_BYTES: usize = 4096;
/// Opens the pipe in packet mode as stderr and becomes the program that follows.
const STARTER: &str = "\
import fcntl, os, sys
pipe = os.open(sys.argv[1], os.O_WRONLY)
fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_DIRECT)
os.dup2(pipe, 2)
os.execv(sys.argv[2], sys.argv[2:])
";

/// The pipe.
pub struct Steps {
    pipe: File,
    path: PathBuf,
    lines: Vec<String>,
}

impl Steps {
    /// Makes the pipe.
    pub fn make(path: &Path) -> anyhow::Result<Self> {
        // That of an agent before.
        let _ = fs::remove_file(path);
        mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        // With both ends it opens at once, and never tells of an end.
        let pipe = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(path)?;
        let size = fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PAGE_BYTES as i32))?;
        ensure!(size == PAGE_BYTES as i32, "a pipe of {size} bytes");
        Ok(Steps {
            pipe,
            path: path.to_owned(),
            lines: Vec::new(),
        })
    }

    /// Words that start a program with the pipe as its stderr.
    pub fn starter(&self) -> Vec<std::ffi::OsString> {
        let words = ["python3".into(), "-c".into(), STARTER.into()];
        words
            .into_iter()
            .chain([self.path.clone().into()])
            .collect()
    }

    /// Takes lines until `done`.
    pub fn flow(&mut self, mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            let over = done();
            while let Some(line) = self.take()? {
                self.lines.push(line);
            }
            if over {
                return Ok(());
            }
            ensure!(start.elapsed() < COMES_WITHIN, "the agent does not go on");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// The steps in the lines that were taken; forgets them.
    pub fn heard(&mut self) -> Vec<String> {
        let step = |line: String| Some(line.split_once("step=\"")?.1.split_once('"')?.0.to_owned());
        std::mem::take(&mut self.lines)
            .into_iter()
            .filter_map(step)
            .collect()
    }

    /// From now on the agent stops after the next step.
    pub fn hold(&mut self) -> anyhow::Result<()> {
        // A whole page: nothing is joined to it.
        self.pipe.write_all(&[b'.'; PAGE_BYTES])?;
        Ok(())
    }

    /// Lets the agent, which stands after a step, do one more.
    pub fn one_more(&mut self, agent: &Process) -> anyhow::Result<()> {
        self.wait_standing(agent)?;
        ensure!(self.take()?.is_some(), "the pipe is empty");
        wait("the line of the step before", || self.is_full())
    }

    /// Waits until the agent stands in its log line.
    pub fn wait_standing(&self, agent: &Process) -> anyhow::Result<()> {
        wait(
            "the agent to stand",
            || Ok(self.is_full()? && stands(agent)),
        )
    }

    fn is_full(&self) -> anyhow::Result<bool> {
        let mut poll = [nix::poll::PollFd::new(
            std::os::fd::AsFd::as_fd(&self.pipe),
            nix::poll::PollFlags::POLLIN,
        )];
        Ok(nix::poll::poll(&mut poll, nix::poll::PollTimeout::ZERO)? > 0)
    }

    fn take(&mut self) -> anyhow::Result<Option<String>> {
        let mut line = [0; PAGE_BYTES];
        match self.pipe.read(&mut line) {
            Ok(count) => Ok(Some(String::from_utf8_lossy(&line[..count]).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Steps")
            .field(&self.pipe.as_raw_fd())
            .finish()
    }
}

/// Whether a thread of it sleeps in write(2) to descriptor 2.
fn stands(agent: &Process) -> bool {
    let wanted = format!("{} 0x2 ", nix::libc::SYS_write);
    let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", agent.pid())) else {
        return false;
    };
    tasks.flatten().any(|task| {
        let call = fs::read_to_string(task.path().join("syscall"));
        call.is_ok_and(|call| call.starts_with(&wanted))
    })
}

fn wait(what: &str, mut look: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let start = Instant::now();
    while !look()? {
        ensure!(start.elapsed() < COMES_WITHIN, "waited for {what}");
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    Ok(())
}
