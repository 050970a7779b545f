//! `culvert demo`: a mesh in network namespaces, what it shows, and the report.
//!
//! The same mesh and checks are the scenarios of the package `scenarios`.

pub mod access_log;
pub mod check;
mod error;
pub mod live;
pub mod manifest;
pub mod mesh;
mod progress;
pub mod report;
pub mod rulesets;
pub mod servers;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use world::{Interrupt, Leftovers, Removed, World};

pub use error::DemoError;
pub use mesh::Mesh;
pub use progress::{Progress, Silent};
pub use report::{BackEnd, Claim, Finding, Measurement, Report};

/// Time that processes get to end by themselves when the world is taken down.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// `--down` without an id. No run id looks like it.
const ALL_WORLDS: &str = "all";

/// Which back ends of ztunnel run the scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Io {
    /// First io_uring, then epoll, each in a world of its own.
    Both,
    /// io_uring alone.
    IoUring,
    /// epoll alone.
    Epoll,
}

/// Arguments of `culvert demo`.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Leave the (last) world up and say how to enter a pod.
    #[arg(long)]
    keep: bool,
    /// Remove what --keep or a crash left, all or the one with this id, and do nothing else.
    #[arg(long, value_name = "ID", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = ALL_WORLDS, conflicts_with = "keep")]
    down: Option<String>,
    /// Which back ends of ztunnel run the scenario.
    #[arg(long, value_enum, default_value = "both")]
    io: Io,
    /// Where the report goes; the logs go beside it.
    #[arg(long, default_value = "target/demo/report.json")]
    report: PathBuf,
}

impl Io {
    fn names(self) -> &'static [&'static str] {
        match self {
            Io::Both => &["io_uring", "epoll"],
            Io::IoUring => &["io_uring"],
            Io::Epoll => &["epoll"],
        }
    }
}

/// Runs the command; `Ok(false)` when the demo showed something that should not be.
pub fn run(options: &Options, interrupt: &Interrupt) -> Result<bool, DemoError> {
    if let Some(id) = &options.down {
        return down(id);
    }
    world::remove_leftovers(Leftovers::Abandoned)?;
    let progress = progress::for_terminal();
    let report = both_back_ends(options, interrupt, progress.as_ref());
    progress.done();
    let (report, kept) = report?;
    println!("{}", report.table());
    // The last thing to be read, and above what may still fail.
    if let Some(kept) = kept {
        println!("{kept}");
    }
    write(&options.report, &report.json())?;
    println!("report: {}", options.report.display());
    let wrong = report.wrong(options.io == Io::Both);
    if !wrong.is_empty() {
        eprintln!("not shown: {}", wrong.join(", "));
    }
    Ok(wrong.is_empty())
}

fn both_back_ends(
    options: &Options,
    interrupt: &Interrupt,
    progress: &dyn Progress,
) -> Result<(Report, Option<String>), DemoError> {
    let start = Instant::now();
    let mut report = Report::default();
    let mut kept = None;
    let names = options.io.names();
    for (index, io) in names.iter().enumerate() {
        let keep = options.keep && index + 1 == names.len();
        let logs = beside(&options.report, &format!("logs-{io}"));
        let ending = Ending { keep, logs };
        let (back_end, way_in) = one_back_end(io, interrupt, progress, &ending)?;
        report.add(io, back_end);
        kept = way_in;
    }
    report.finish(start.elapsed());
    Ok((report, kept))
}

/// What happens when a back end's scenario is over.
struct Ending {
    keep: bool,
    logs: PathBuf,
}

/// What was found, and how to enter the world when it is kept.
fn one_back_end(
    io: &str,
    interrupt: &Interrupt,
    progress: &dyn Progress,
    ending: &Ending,
) -> Result<(BackEnd, Option<String>), DemoError> {
    let start = Instant::now();
    let mut world = World::with_interrupt(interrupt.clone())?;
    progress.chapter(io, &world.id());
    // Whatever happens: the logs say why.
    world.save_logs_to(ending.logs.clone());
    let mesh = Mesh::up(world, io, progress)?;
    let up = start.elapsed();
    let mut back_end = check::everything(&mesh, progress)?;
    back_end.measure("up", up.as_secs_f64(), "s");
    if ending.keep {
        return Ok((back_end, Some(mesh.keep()?)));
    }
    progress.step("take the mesh down");
    let start = Instant::now();
    mesh.down(STOP_GRACE)?;
    back_end.measure("down", start.elapsed().as_secs_f64(), "s");
    Ok((back_end, None))
}

fn down(id: &str) -> Result<bool, DemoError> {
    let which = if id == ALL_WORLDS {
        Leftovers::All
    } else {
        Leftovers::One(id)
    };
    let removed = world::remove_leftovers(which)?;
    match which {
        Leftovers::One(id) if removed.is_empty() => println!("no world {id} is there"),
        _ if removed.is_empty() => println!("no world is there"),
        _ => {}
    }
    for world in &removed {
        match world {
            Removed::Gone(id) => println!("{id}: removed"),
            Removed::InUse(id, pid) => println!("{id}: in use by process {pid}, left alone"),
        }
    }
    // What was asked for is still there: not done.
    Ok(!removed
        .iter()
        .any(|world| matches!(world, Removed::InUse(..))))
}

fn beside(report: &Path, name: &str) -> PathBuf {
    report.parent().unwrap_or(Path::new(".")).join(name)
}

fn write(path: &Path, text: &str) -> Result<(), DemoError> {
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))
        .and_then(|()| fs::write(path, text))
        .map_err(|source| DemoError::Write {
            path: path.to_owned(),
            source,
        })
}
