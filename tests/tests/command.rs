//! `culvert demo` as a command: what it leaves behind after each way to end.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use scenarios::{run, scenario};
use world::stack::Binaries;
use world::{Interrupt, Leftovers, remove_leftovers};

/// The command ends within this after a signal: it stops processes and removes namespaces.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    run(
        Bed::new,
        vec![
            scenario(
                "Ctrl-C while the mesh is up leaves nothing and gives 130",
                ctrl_c,
            ),
            scenario("SIGKILL leaves a world, which --down removes", crash),
            scenario("--keep leaves a working mesh, which --down removes", keep),
            scenario(
                "a missing program is an error that names it and leaves nothing",
                missing,
            ),
        ],
    )
}

struct Bed {
    culvert: PathBuf,
    report: PathBuf,
}

impl Bed {
    fn new() -> anyhow::Result<Self> {
        let culvert = Binaries::of_this_build()?.path("culvert");
        ensure!(culvert.is_file(), "{} is not built", culvert.display());
        let directory = std::env::temp_dir().join(format!("culvert-demo-{}", std::process::id()));
        Ok(Bed {
            culvert,
            report: directory.join("report.json"),
        })
    }

    /// Starts the demo and waits until it says that it does `step`.
    fn demo(&self, step: &str, more: &[&str]) -> anyhow::Result<Demo> {
        let mut child = Command::new(&self.culvert)
            .args(["demo", "--io=epoll", "--report"])
            .arg(&self.report)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stderr = BufReader::new(child.stderr.take().context("piped")?);
        let mut id = None;
        let mut said = String::new();
        loop {
            let mut line = String::new();
            ensure!(
                stderr.read_line(&mut line)? > 0,
                "it ended before {step:?}:\n{said}"
            );
            said.push_str(&line);
            if let Some((_, world)) = line.split_once(", world ") {
                id = Some(world.trim().to_owned());
            }
            if line.contains(step) {
                let id = id.context("the run id is told first")?;
                return Ok(Demo {
                    child,
                    id,
                    _stderr: stderr,
                });
            }
        }
    }

    fn down(&self, id: &str) -> anyhow::Result<()> {
        let status = Command::new(&self.culvert)
            .args(["demo", &format!("--down={id}")])
            .stdout(Stdio::null())
            .status()?;
        ensure!(status.success(), "--down gave {status}");
        Ok(())
    }
}

/// A running demo.
struct Demo {
    child: Child,
    id: String,
    // Kept open: what it says at its end must not meet a closed pipe.
    _stderr: BufReader<ChildStderr>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.report.parent().map(fs::remove_dir_all);
        // What a failed scenario left: its owner is gone.
        let _ = remove_leftovers(Leftovers::Abandoned);
    }
}

/// Everything of a world carries its id: namespaces, directory, mounts, cgroup, command lines.
fn traces(id: &str) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for directory in [
        "/run/netns",
        "/run/culvert-worlds",
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/unified",
    ] {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path().to_string_lossy().into_owned();
            found.extend(path.contains(id).then_some(path));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(id))
            .map(str::to_owned),
    );
    for entry in fs::read_dir("/proc")?.flatten() {
        // A process may go while we look.
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let own = entry.file_name().to_string_lossy() == std::process::id().to_string();
        found.extend((command.contains(id) && !own).then_some(command));
    }
    Ok(found)
}

fn gone(id: &str) -> anyhow::Result<()> {
    let left = traces(id)?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    Ok(())
}

/// The exit code, or an error when it does not end.
fn end(child: &mut Child) -> anyhow::Result<Option<i32>> {
    let wait = Interrupt::default().wait_for("the demo to end", ENDS_WITHIN, || {
        Ok(child.try_wait().ok().flatten())
    });
    if wait.is_err() {
        child.kill()?;
    }
    Ok(wait?.code())
}

fn signal(child: &Child, name: &str) -> anyhow::Result<()> {
    let status = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status()?;
    ensure!(status.success(), "kill gave {status}");
    Ok(())
}

fn ctrl_c(bed: &mut Bed) -> anyhow::Result<()> {
    let Demo {
        mut child,
        id,
        _stderr,
    } = bed.demo("outside the mesh", &[])?;
    ensure!(
        !traces(&id)?.is_empty(),
        "nothing was there: this proves nothing"
    );
    signal(&child, "INT")?;
    let code = end(&mut child)?;
    ensure!(code == Some(130), "exit code {code:?}");
    gone(&id)
}

fn crash(bed: &mut Bed) -> anyhow::Result<()> {
    let Demo {
        mut child,
        id,
        _stderr,
    } = bed.demo("outside the mesh", &[])?;
    signal(&child, "KILL")?;
    child.wait()?;
    ensure!(
        !traces(&id)?.is_empty(),
        "nothing was left: this proves nothing"
    );
    bed.down(&id)?;
    gone(&id)
}

fn keep(bed: &mut Bed) -> anyhow::Result<()> {
    let Demo {
        mut child,
        id,
        _stderr,
    } = bed.demo("iperf3", &["--keep"])?;
    let answered = kept_mesh_answers(&mut child);
    // Also when it did not answer: nobody else would remove it.
    bed.down(&id)?;
    answered?;
    gone(&id)
}

fn kept_mesh_answers(child: &mut Child) -> anyhow::Result<()> {
    let code = end(child)?;
    let mut said = String::new();
    child
        .stdout
        .take()
        .context("piped")?
        .read_to_string(&mut said)?;
    ensure!(code == Some(0), "exit code {code:?}:\n{said}");
    let enter = said
        .lines()
        .find_map(|line| line.trim().strip_prefix("in the client:"));
    let enter = enter.with_context(|| format!("it does not say how to enter a pod:\n{said}"))?;
    let answer = Command::new("sh").args(["-c", enter]).output()?;
    let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
    ensure!(
        answer.contains("web-v"),
        "the kept mesh does not answer: {answer:?}"
    );
    Ok(())
}

fn missing(bed: &mut Bed) -> anyhow::Result<()> {
    // A copy beside which there are no other programs.
    let directory = bed.report.parent().context("it has one")?.join("alone");
    fs::create_dir_all(&directory)?;
    let alone = directory.join("culvert");
    fs::copy(&bed.culvert, &alone)?;
    let output = Command::new(&alone)
        .args(["demo", "--report"])
        .arg(&bed.report)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(2), "{}: {said}", output.status);
    ensure!(said.contains("culvertd is not built"), "{said}");
    let id = said
        .split(", world ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    gone(id.context("the run id is told first")?)
}
