//! Mixed load for minutes, with enrolments, swaps and restarts at random from a seed.
//!
//! In the first quarter everything happens to everything. After it the agent of node-1, the proxy
//! of node-2 and the control plane live to the end, whatever happens around them, so that what
//! they gather over thousands of connections is seen.

mod events;
mod figures;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use world::Interrupt;

use super::bed::Bed;
use super::proxy::TUNNEL_IDLE;
use super::usage::{Usage, growth};
use events::Load;
pub use figures::{Figures, Report};

/// Part of the time in which everything happens to everything; also the load before memory is
/// measured first, so that caches and pools are what a load makes.
const FIRST_PART: u32 = 4;
/// Without load before each measurement: connections end, buffers go back, and threads that
/// waited for work end after 10 s.
const SETTLE: Duration = Duration::from_secs(15);
/// The same in the short form, but for the first.
const SHORT_SETTLE: Duration = Duration::from_secs(3);
/// Load on proxies that are new before a measurement.
const WARM_UP: Duration = Duration::from_secs(20);
/// Idle tunnels have ended, and with them their sockets; the last measurement waits for no more
/// descriptors than before the load, and no longer than this.
const TUNNELS_END_WITHIN: Duration = TUNNEL_IDLE.saturating_mul(12);
/// Growth of all five processes together that is no leak, in MiB: pages that the allocator keeps.
/// Over 300,000 connections, which is about twenty minutes, 80 bytes lost with each are more.
const RSS_GROWTH_MIB: f64 = 24.0;
/// The same in the short form, whose processes are seconds old: first their caches fill.
const SHORT_RSS_GROWTH_MIB: f64 = 96.0;
/// How often the soak says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Shortest and longest pause between two events in milliseconds.
const EVENT_EVERY_MS: std::ops::Range<u64> = 200..4000;
/// Seconds of the short form.
const SHORT_SECONDS: u64 = 20;

/// How long, and from which seed.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    time: Duration,
    seed: u64,
    short: bool,
}

/// To what events may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Everything.
    First,
    /// Not to the agent of node-1, the proxy of node-2 and the control plane.
    Survivors,
}

impl Plan {
    /// A plan of minutes, or the short form.
    pub fn new(minutes: u64, seed: u64, short: bool) -> Self {
        Plan {
            time: Duration::from_secs(if short { SHORT_SECONDS } else { 60 * minutes }),
            seed,
            short,
        }
    }

    fn settle(&self) -> Duration {
        if self.short { SHORT_SETTLE } else { SETTLE }
    }

    fn rss_bound_mib(&self) -> f64 {
        if self.short {
            SHORT_RSS_GROWTH_MIB
        } else {
            RSS_GROWTH_MIB
        }
    }

    fn warm_up(&self) -> Duration {
        if self.short { SHORT_SETTLE } else { WARM_UP }
    }
}

/// Runs the soak on a mesh of its own.
pub fn soak(plan: &Plan, interrupt: &Interrupt, logs: PathBuf) -> anyhow::Result<Report> {
    let mut bed = Bed::up(interrupt, logs)?;
    let soak = run(&mut bed, plan)?;
    bed.down()?;
    Ok(Report { soak })
}

/// Runs the soak on a mesh that carries nothing else.
pub fn run(bed: &mut Bed, plan: &Plan) -> anyhow::Result<Figures> {
    // An agent that took pods over holds other descriptors than one that added them.
    for node in 0..bed.mesh.nodes.len() {
        bed.kill_agent(node)?;
        bed.start_agent(node)?;
    }
    // No tunnels, and the flags of those that are measured later.
    events::same_proxies(bed, 0..2)?;
    bed.drained()?;
    bed.mesh.wait_known()?;
    // Each worker keeps a descriptor of its own namespace from its first connection on.
    let first = Load::start(bed, plan.seed)?;
    bed.sleep(SHORT_SETTLE)?;
    first.finish(bed)?;
    bed.sleep(TUNNEL_IDLE + SETTLE)?;
    let mut figures = Figures {
        seed: plan.seed,
        rss_bound_mib: plan.rss_bound_mib(),
        idle: Usage::of(bed)?,
        ..Figures::default()
    };
    let mut random = SmallRng::seed_from_u64(plan.seed);
    let start = Instant::now();
    under_load(bed, &mut figures, &mut random, (Part::First, plan))?;
    bed.drained()?;
    bed.sleep(plan.settle())?;
    figures.start = Usage::of(bed)?;
    figures.tell("after the first part");
    under_load(bed, &mut figures, &mut random, (Part::Survivors, plan))?;
    figures.minutes = start.elapsed().as_secs_f64() / 60.0;
    bed.drained()?;
    let end = Instant::now();
    bed.sleep(plan.settle())?;
    figures.loaded = Usage::of(bed)?;
    figures.rss_growth_mib = figures.loaded.rss() - figures.start.rss();
    loop {
        figures.end = Usage::of(bed)?;
        figures.leaked_fds = growth(&figures.idle.fds, &figures.end.fds);
        figures.leaked_bpf = growth(&figures.idle.bpf, &figures.end.bpf);
        let leaked = figures.leaked_fds + figures.leaked_bpf;
        if leaked == 0 || end.elapsed() > TUNNELS_END_WITHIN {
            break;
        }
        bed.sleep(Duration::from_secs(1))?;
    }
    figures.tell("at the end");
    if figures.noted.is_empty() {
        figures.timeline.clear();
    }
    Ok(figures)
}

/// One part: load, and events until its time is over.
fn under_load(
    bed: &mut Bed,
    figures: &mut Figures,
    random: &mut SmallRng,
    (part, plan): (Part, &Plan),
) -> anyhow::Result<()> {
    let first = plan.time / FIRST_PART;
    let (time, seed) = match part {
        Part::First => (first, plan.seed.wrapping_mul(2)),
        Part::Survivors => (plan.time - first, plan.seed.wrapping_mul(2) + 1),
    };
    let mut load = Load::start(bed, seed)?;
    let (start, mut told) = (Instant::now(), Instant::now());
    while start.elapsed() < time {
        let event = events::happen(bed, &mut load, random, part)?;
        figures.happened(event);
        bed.sleep(Duration::from_millis(random.random_range(EVENT_EVERY_MS)))?;
        if told.elapsed() > TELL_EVERY {
            told = Instant::now();
            let minutes = start.elapsed().as_secs() / 60;
            eprintln!("{part:?}, minute {minutes}: {:?}", figures.events);
        }
    }
    events::same_proxies(bed, 0..if part == Part::First { 2 } else { 1 })?;
    bed.sleep(plan.warm_up())?;
    let (loads, holds) = load.finish(bed)?;
    figures.take(&loads, &holds);
    Ok(())
}
