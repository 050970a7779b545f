//! Resident memory of the proxies: fresh ones in each round, all paths at the same time.
//!
//! ```text
//!   fresh ── idle ── 200 tunnels ── 1,000 connections ── 5,000 ── each carried 200 KB
//! ```

use std::time::Duration;

use nix::sys::signal::Signal;
use world::Process;

use super::growth::{hold, hold_tunnels, wait};
use super::{cold, figures};
use crate::bed::{Bed, Path};
use crate::figures::Figures;
use crate::usage::rss_bytes;

/// Until a proxy has given back what it does not need: ztunnel looks every 2 s whether it idles.
const SETTLE: Duration = Duration::from_secs(5);
/// Name of the only case.
pub(crate) const CASE: &str = "connections and tunnels";
/// Idle tunnels at the terminating proxy.
const TUNNELS: usize = 200;
/// Idle connections at the two steps.
const CONNECTIONS: [usize; 2] = [1000, 5000];

/// One round on a bed that has carried nothing yet.
pub(crate) fn round(bed: &Bed) -> Vec<(String, anyhow::Result<Figures>)> {
    let paths = bed.paths().iter().filter(|path| !path.proxies.is_empty());
    let mut watched: Vec<_> = paths.map(Watched::new).collect();
    for step in Step::ALL {
        for one in &mut watched {
            one.begin(step);
        }
        for one in &mut watched {
            one.end(step);
        }
        std::thread::sleep(SETTLE);
        for one in &mut watched {
            one.look();
        }
    }
    watched.into_iter().map(Watched::figures).collect()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Idle,
    Tunnels,
    Open(usize),
    Carry,
}

impl Step {
    const ALL: [Step; 5] = [
        Step::Idle,
        Step::Tunnels,
        Step::Open(CONNECTIONS[0]),
        Step::Open(CONNECTIONS[1] - CONNECTIONS[0]),
        Step::Carry,
    ];
}

struct Watched<'a> {
    path: &'a Path,
    /// Of each proxy, after each step.
    seen: Vec<Vec<f64>>,
    holders: Vec<Process>,
    failed: Option<anyhow::Error>,
}

impl<'a> Watched<'a> {
    fn new(path: &'a Path) -> Self {
        Watched {
            path,
            seen: Vec::new(),
            holders: Vec::new(),
            failed: None,
        }
    }

    fn begin(&mut self, step: Step) {
        self.attempt(|this| {
            match step {
                Step::Idle => {}
                Step::Tunnels if !cold::is_for(this.path) => {}
                Step::Tunnels => this.holders.push(hold_tunnels(this.path, TUNNELS)?),
                Step::Open(count) => this.holders.push(hold(this.path, count)?),
                Step::Carry => {
                    for holder in this.connection_holders() {
                        holder.signal(Signal::SIGUSR1)?;
                    }
                }
            }
            Ok(())
        });
    }

    fn end(&mut self, step: Step) {
        self.attempt(|this| match step {
            Step::Idle => Ok(()),
            Step::Tunnels | Step::Open(_) => this
                .holders
                .last()
                .map_or(Ok(()), |held| wait(held, "open")),
            Step::Carry => {
                let mut holders = this.connection_holders();
                holders.try_for_each(|holder| wait(holder, "carried"))
            }
        });
    }

    fn look(&mut self) {
        self.attempt(|this| {
            let pids = this.path.proxies.iter();
            let bytes = pids.map(|pid| anyhow::Ok(rss_bytes(*pid)? as f64));
            this.seen.push(bytes.collect::<anyhow::Result<_>>()?);
            Ok(())
        });
    }

    /// Those after the one that holds tunnels.
    fn connection_holders(&self) -> impl Iterator<Item = &Process> {
        let tunnels = usize::from(cold::is_for(self.path));
        self.holders.iter().skip(tunnels)
    }

    fn attempt(&mut self, act: impl FnOnce(&mut Self) -> anyhow::Result<()>) {
        if self.failed.is_none() {
            self.failed = act(self).err();
        }
    }

    fn figures(self) -> (String, anyhow::Result<Figures>) {
        let result = match self.failed {
            Some(error) => Err(error),
            None => Ok(summary(&self.seen, cold::is_for(self.path))),
        };
        (self.path.name.clone(), result)
    }
}

/// Of the proxy that needs more; a tunnel is held by the far one alone.
fn summary(seen: &[Vec<f64>], tunnels: bool) -> Figures {
    let worst = |from: usize, to: usize| {
        let pairs = seen[from].iter().zip(&seen[to]);
        pairs
            .map(|(before, after)| after - before)
            .fold(f64::MIN, f64::max)
    };
    let [some, all] = CONNECTIONS.map(|count| count as f64);
    let idle = seen[0].iter().copied().fold(f64::MIN, f64::max);
    let mut figures = figures([
        ("proxy_rss_mb", idle / 1e6),
        ("bytes_per_idle_connection_of_1000", worst(1, 2) / some),
        ("bytes_per_idle_connection", worst(1, 3) / all),
        ("bytes_per_used_connection", worst(1, 4) / all),
    ]);
    if tunnels {
        figures.insert(
            "bytes_per_idle_tunnel".to_owned(),
            worst(0, 1) / TUNNELS as f64,
        );
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_that_of_the_proxy_that_needs_more() {
        let seen = [
            vec![8e6, 9e6],
            vec![8e6, 10e6],
            vec![9e6, 10.5e6],
            vec![13e6, 12e6],
            vec![18e6, 12e6],
        ];
        let figures = summary(&seen, true);
        assert_eq!(figures["proxy_rss_mb"], 9.0);
        assert_eq!(figures["bytes_per_idle_tunnel"], 5000.0);
        assert_eq!(figures["bytes_per_idle_connection_of_1000"], 1000.0);
        assert_eq!(figures["bytes_per_idle_connection"], 1000.0);
        assert_eq!(figures["bytes_per_used_connection"], 2000.0);
    }
}
