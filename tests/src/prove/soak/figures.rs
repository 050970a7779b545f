//! What a soak found, and what of it is not as promised.

use std::collections::BTreeMap;

use serde::Serialize;

use super::events::Event;
use crate::prove::usage::Usage;
use crate::traffic::{Failed, HoldReport, LoadReport, add, note};

/// `target/soak/report.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The only part.
    pub soak: Figures,
}

/// What became of the streams, and what the mesh's processes took.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Minutes under load with events, and the pause for the measurement between both parts.
    pub minutes: f64,
    /// The seed.
    pub seed: u64,
    /// Streams that carried all their bytes, checked by SHA-256 in both directions.
    pub streams: u64,
    /// The same by kind: short, middling, bulk, half-closed.
    pub kinds: BTreeMap<String, u64>,
    /// The same by family.
    pub families: BTreeMap<String, u64>,
    /// Connections tried, with the aborted ones.
    pub connections: u64,
    /// Those that the clients reset on purpose.
    pub aborted: u64,
    /// Streams with other bytes than were sent.
    pub mismatched: u64,
    /// Bytes of the checked streams, both directions.
    pub bytes: u64,
    /// Connections that failed, by cause.
    pub failures: BTreeMap<String, u64>,
    /// Connections held for up to minutes ...
    pub long_lived: u64,
    /// ... to their end with every byte right.
    pub long_lived_kept: u64,
    /// Held ones that were lost, by cause.
    pub long_lived_lost: BTreeMap<String, u64>,
    /// The first that failed or were lost, one by one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub noted: Vec<Failed>,
    /// What happened: swaps, restarts, enrolments.
    pub events: BTreeMap<String, u64>,
    /// The same in their order; only when something failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<Event>,
    /// Resident memory of all processes of the mesh, `loaded` minus `start`, in MiB.
    pub rss_growth_mib: f64,
    /// More than this is a leak.
    pub rss_bound_mib: f64,
    /// Open descriptors, `end` minus `idle`: the sum of what each process has more.
    pub leaked_fds: u64,
    /// BPF objects, pinned or not, `end` minus `idle`: the sum of what is more of each kind.
    pub leaked_bpf: u64,
    /// When a first, short load and its tunnels have ended.
    pub idle: Usage,
    /// After the first part of the load.
    pub start: Usage,
    /// After the last.
    pub loaded: Usage,
    /// When idle tunnels have ended.
    pub end: Usage,
}

impl Figures {
    /// What is not as promised.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.streams == 0 || self.long_lived == 0 {
            wrong.push("soak: nothing was carried".to_owned());
        }
        if self.mismatched > 0 {
            wrong.push(format!("soak: {} mismatched", self.mismatched));
        }
        if !self.failures.is_empty() {
            wrong.push(format!("soak: failures {:?}", self.failures));
        }
        if self.long_lived_kept != self.long_lived {
            wrong.push(format!("soak: long-lived lost {:?}", self.long_lived_lost));
        }
        if self.leaked_fds > 0 {
            let (idle, end) = (&self.idle.fds, &self.end.fds);
            wrong.push(format!(
                "soak: {} descriptors leaked: {idle:?} before, {end:?} after",
                self.leaked_fds
            ));
        }
        if self.leaked_bpf > 0 {
            let (idle, end) = (&self.idle.bpf, &self.end.bpf);
            wrong.push(format!(
                "soak: {} BPF objects leaked: {idle:?} before, {end:?} after",
                self.leaked_bpf
            ));
        }
        if self.rss_growth_mib > self.rss_bound_mib {
            let (start, end) = (&self.start.rss_mib, &self.loaded.rss_mib);
            wrong.push(format!(
                "soak: memory grew by {:.1} MiB, more than {}: {start:?} before, {end:?} after",
                self.rss_growth_mib, self.rss_bound_mib
            ));
        }
        wrong
    }

    /// Adds what a load did.
    pub(super) fn take(&mut self, loads: &LoadReport, holds: &HoldReport) {
        self.streams += loads.streams;
        self.connections += loads.connections;
        self.aborted += loads.aborted;
        self.mismatched += loads.mismatched;
        self.bytes += loads.bytes_up + loads.bytes_down;
        add(&mut self.kinds, &loads.kinds);
        add(&mut self.families, &loads.families);
        add(&mut self.failures, &loads.failed);
        self.long_lived += holds.tried;
        self.long_lived_kept += holds.kept;
        add(&mut self.long_lived_lost, &holds.lost);
        note(
            &mut self.noted,
            loads.noted.iter().chain(&holds.noted).cloned(),
        );
    }

    /// Counts an event and keeps it.
    pub(super) fn happened(&mut self, event: Event) {
        *self.events.entry(event.what.to_owned()).or_default() += 1;
        self.timeline.push(event);
    }

    /// Prints what a person looks for first.
    pub(super) fn tell(&self, when: &str) {
        let usage = if self.end.fds.is_empty() {
            &self.start
        } else {
            &self.end
        };
        eprintln!(
            "{when}: {} connections, {} bytes, failures {:?}, RSS {:.1} MiB, descriptors {:?}, \
             BPF {:?}",
            self.connections,
            self.bytes,
            self.failures,
            usage.rss(),
            usage.fds,
            usage.bpf
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Figures {
        Figures {
            streams: 1,
            long_lived: 1,
            long_lived_kept: 1,
            ..Figures::default()
        }
    }

    #[test]
    fn a_soak_that_found_something_says_so() {
        assert_eq!(good().wrong(), Vec::<String>::new());
        let found = |spoil: fn(&mut Figures)| {
            let mut figures = good();
            spoil(&mut figures);
            figures.wrong().join("; ")
        };
        assert!(found(|f| f.streams = 0).contains("nothing"));
        assert!(found(|f| f.mismatched = 1).contains("1 mismatched"));
        let cause = "connect: refused";
        assert!(found(|f| f.failures = [("connect: refused".into(), 1)].into()).contains(cause));
        assert!(found(|f| f.long_lived_kept = 0).contains("long-lived"));
        assert!(found(|f| f.leaked_fds = 2).contains("2 descriptors leaked"));
        assert!(found(|f| f.leaked_bpf = 3).contains("3 BPF objects leaked"));
        assert!(found(|f| f.rss_growth_mib = 1.0).contains("memory grew"));
    }
}
