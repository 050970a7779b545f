//! No old proxy to ask, and no control plane: the next proxy is not ready, and connections wait.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use world::stack::READY_WITHIN;

use super::bed::{Bed, addresses};
use super::proxy::Change;
use crate::traffic::LoadReport;

/// How long the connections wait at least.
const WAIT: Duration = Duration::from_secs(1);
/// Connections from the pod, and as many to it.
const WAITING: u64 = 40;
const NODE: usize = 0;

/// What became of the connections.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Status of the readiness page while there was nobody to ask.
    pub status: u16,
    /// What it said is missing.
    pub missing: String,
    /// Connections opened meanwhile, by a captured pod and to it.
    pub waiting: u64,
    /// Those that were served when the control plane was there.
    pub served: u64,
    /// Those that failed, by cause.
    pub failed: BTreeMap<String, u64>,
}

impl Figures {
    /// What is not as promised.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.status != 503 || !self.missing.contains("certificates") {
            let (status, text) = (self.status, &self.missing);
            wrong.push(format!("cold_start: readiness was {status}: {text}"));
        }
        if self.served != self.waiting || self.waiting == 0 {
            let (served, all, why) = (self.served, self.waiting, &self.failed);
            wrong.push(format!("cold_start: {served} of {all} served: {why:?}"));
        }
        wrong
    }
}

/// Runs the proof on the first node.
pub fn prove(bed: &mut Bed) -> anyhow::Result<Figures> {
    let pods = &bed.mesh.pods;
    let (own, legacy) = (pods.client.place().clone(), pods.legacy.place().clone());
    let (servers, client) = (addresses(&[&pods.web_v2]), addresses(&[&pods.client]));
    bed.kill_control()?;
    bed.kill_proxy(NODE)?;
    let begun = bed.begin_proxy(NODE, Change::Nothing)?;
    let words = format!("--count {WAITING} --workers {WAITING} --pause 0");
    let waiting = [
        bed.load(&own, &servers, &words)?,
        bed.load(&legacy, &client, &words)?,
    ];
    // None of the figures is right if it was ready once.
    let page = bed.eventually(READY_WITHIN, || {
        matches!(bed.readiness(&begun), Ok(Some(_)))
    })?;
    bed.sleep(WAIT)?;
    let (status, missing) = bed
        .readiness(&begun)?
        .with_context(|| format!("no readiness page (there was one: {page})"))?;
    let mut figures = Figures {
        status,
        missing,
        waiting: 2 * WAITING,
        ..Figures::default()
    };
    let early = waiting.iter().filter(|load| load.ended().is_some()).count();
    bed.start_control()?;
    bed.settle_proxy(begun)?;
    for load in &waiting {
        let report: LoadReport = bed.result(load)?;
        figures.served += report.streams;
        for (cause, count) in report.failed {
            *figures.failed.entry(cause).or_default() += count;
        }
    }
    if early > 0 {
        figures
            .failed
            .insert("did not wait".to_owned(), early as u64);
        figures.served = 0;
    }
    bed.mesh.wait_known()?;
    Ok(figures)
}
