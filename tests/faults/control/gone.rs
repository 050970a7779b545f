//! The control plane is killed, stopped, and slow.

use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use scenarios::faults::{Bed, Start};
use scenarios::traffic::{HoldReport, LoadReport};
use scenarios::{Scenario, scenario};
use world::Process;

use super::late;
use super::wire::{Mode, Wire};

/// A control plane that is back is found within 15 s, and has said everything a moment later; a
/// busy machine needs longer.
pub const FOUND_WITHIN: Duration = Duration::from_secs(90);
/// A proxy whose connections are refused is told to end, and has ended, within this.
const WAITED: Duration = Duration::from_secs(90);
/// What the slow control plane says a second: its whole answer would take longer than a connection
/// waits.
const BYTES_PER_SECOND: usize = 1000;

/// Refuses the client too; one scenario puts it in force and takes it back.
const NO_CLIENT: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: no-client
  namespace: demo
spec:
  selector:
    matchLabels:
      app: web
  action: DENY
  rules:
    - from:
        - source:
            principals:
              - cluster.local/ns/demo/sa/client
";
const NO_CLIENT_FILE: &str = "71-no-client.yaml";

pub fn scenarios() -> Vec<Scenario<Bed>> {
    vec![
        scenario(
            "the control plane is killed under load and every connection goes on, old and new",
            killed,
        ),
        scenario(
            "without a control plane a new pod is refused to its runtime, not run unprotected",
            |bed| {
                let error = late::not_added(bed, "late")?;
                ensure!(error.contains("control plane"), "not named: {error}");
                bed.right()
            },
        ),
        scenario(
            "a control plane that comes back is found, and the pod that was refused is added",
            comes_back,
        ),
        scenario(
            "a control plane that stands still changes nothing, and what it missed holds later",
            stands_still,
        ),
        scenario(
            "a proxy that hears of the mesh byte by byte lets connections wait until it knows it",
            byte_by_byte,
        ),
    ]
}

/// Connections that are held and connections that are made, while something happens.
pub struct Traffic {
    load: Process,
    held: Process,
}

impl Traffic {
    /// Begins.
    pub fn start(bed: &Bed) -> anyhow::Result<Self> {
        Ok(Traffic {
            held: bed.hold(&bed.client, 3)?,
            load: bed.load(&bed.client, "--workers 2 --pause 40")?,
        })
    }

    /// Ends; every connection of both kinds must have been carried whole.
    pub fn finish(self, bed: &Bed) -> anyhow::Result<()> {
        let load: LoadReport = bed.finish(&self.load)?;
        let held: HoldReport = bed.finish(&self.held)?;
        ensure!(load.streams > 0 && load.failures() == 0, "{load:?}");
        ensure!(held.kept == held.tried && held.lost.is_empty(), "{held:?}");
        Ok(())
    }
}

fn killed(bed: &mut Bed) -> anyhow::Result<()> {
    late::announce(bed, &["late"])?;
    late::shorten_timeout(bed)?;
    let traffic = Traffic::start(bed)?;
    let marks = [bed.mark(0), bed.mark(1)];
    bed.end_culvertd(Signal::SIGKILL)?;
    for mark in &marks {
        bed.log_line(mark, &["discovery is not connected"], FOUND_WITHIN)?;
    }
    bed.right()?;
    for node in [0, 1] {
        let (status, said) = bed.readiness(node);
        ensure!(status == 200, "node {node} is not ready: {said}");
    }
    traffic.finish(bed)
}

fn comes_back(bed: &mut Bed) -> anyhow::Result<()> {
    bed.start_culvertd(&Start::default())?;
    let pod = late::added(bed, "late")?;
    bed.until_served(&pod, FOUND_WITHIN)?;
    pod.delete()?;
    bed.right()
}

fn stands_still(bed: &mut Bed) -> anyhow::Result<()> {
    let culvertd = bed.culvertd.as_ref().context("no culvertd runs")?;
    culvertd.signal(Signal::SIGSTOP)?;
    bed.manifests.put(NO_CLIENT_FILE, NO_CLIENT)?;
    bed.right()?;
    let error = late::not_added(bed, "late")?;
    ensure!(error.contains("control plane"), "not named: {error}");
    culvertd.signal(Signal::SIGCONT)?;
    bed.eventually("the new policy to be in force", FOUND_WITHIN, || {
        bed.connect(&bed.client, 1)
            .is_ok_and(|report| report.streams == 0)
    })?;
    bed.manifests.remove(NO_CLIENT_FILE)?;
    bed.until_right(FOUND_WITHIN)
}

fn byte_by_byte(bed: &mut Bed) -> anyhow::Result<()> {
    let wire = Wire::start(bed, Mode::Trickle(BYTES_PER_SECOND))?;
    bed.end_ztunnel(0, Signal::SIGTERM)?;
    bed.launch_ztunnel(0, &wire.leads_here())?;
    let load = bed.load(&bed.client, "--workers 4 --count 8 --pause 0")?;
    // It listens, and says what it lacks.
    bed.eventually("the proxy to say what it lacks", FOUND_WITHIN, || {
        let (status, said) = bed.readiness(0);
        status == 503 && (said.contains("addresses") || said.contains("policies"))
    })?;
    ensure!(load.ended().is_none(), "not one waited: {}", load.log());
    // That much was to be seen. However slow the machine is, the rest comes before they give up.
    wire.set(Mode::Through);
    bed.wait_ready(0)?;
    load.wait_end(WAITED)?;
    let report: LoadReport = bed.finish(&load)?;
    ensure!(report.streams == 8, "{report:?}");
    bed.right()?;
    bed.end_ztunnel(0, Signal::SIGTERM)?;
    bed.start_ztunnel(0, &Start::default())
}
