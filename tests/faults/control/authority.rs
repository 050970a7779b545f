//! The certificate authority refuses, forges, and is away when certificates end.

use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use scenarios::faults::{Bed, Start};
use scenarios::{Scenario, scenario};
use tonic::Code;
use world::Pod;

use super::between::{Between, Signing};
use super::corrupt::with_between;
use super::gone::{FOUND_WITHIN, Traffic};
use super::late;

/// Life of a leaf in the scenario of ends: the shortest that one can be renewed in on a machine
/// with other work to do.
const SHORT: Duration = Duration::from_secs(12);
/// A held connection is looked at again after so long.
const MOMENT: Duration = Duration::from_secs(1);

/// A pod for each thing that a CA should not do, and what its connections are refused with.
const REFUSALS: [(&str, Signing, &str); 8] = [
    (
        "late-denied",
        Signing::Refused(Code::PermissionDenied),
        "the scenario says no",
    ),
    (
        "late-down",
        Signing::Refused(Code::Unavailable),
        "the scenario says no",
    ),
    ("late-garbage", Signing::Garbage, "cannot be read"),
    ("late-half", Signing::Half, "cannot be read"),
    (
        "late-other",
        Signing::OtherIdentity,
        "the certificate is for spiffe://cluster.local/ns/demo/sa/intruder",
    ),
    ("late-key", Signing::OtherKey, "for another key"),
    ("late-ended", Signing::Ended, "valid from"),
    ("late-rootless", Signing::NoRoot, "no root"),
];

pub fn scenarios() -> Vec<Scenario<Bed>> {
    vec![
        scenario(
            "a pod whose certificate the CA refuses or forges is refused with the CA's answer, the \
             others go on, and it is served once the CA signs",
            |bed| with_between(bed, refused),
        ),
        scenario(
            "certificates that end while the CA is away end new connections, not live ones, until \
             it is back",
            ended,
        ),
    ]
}

fn refused(bed: &mut Bed, between: &Between) -> anyhow::Result<()> {
    late::announce(bed, &REFUSALS.map(|(name, _, _)| name))?;
    let mut pods = Vec::new();
    for (name, signing, words) in REFUSALS {
        between.sign(name, signing)?;
        pods.push((late::added(bed, name)?, words));
    }
    let traffic = Traffic::start(bed)?;
    all_refused(bed, &pods)?;
    bed.right()?;
    traffic.finish(bed)?;
    for (name, _, _) in REFUSALS {
        between.sign(name, Signing::AsAsked)?;
    }
    for (pod, _) in &pods {
        bed.until_served(pod, FOUND_WITHIN)?;
    }
    for (pod, _) in pods {
        pod.delete()?;
    }
    bed.right()
}

/// All at once: each connection waits some seconds for its certificate.
fn all_refused(bed: &Bed, pods: &[(Pod, &str)]) -> anyhow::Result<()> {
    let results: Vec<anyhow::Result<()>> = std::thread::scope(|scope| {
        let looks: Vec<_> = pods
            .iter()
            .map(|(pod, words)| {
                scope.spawn(move || {
                    let reason = bed.refused(pod, &["no certificate", words])?;
                    ensure!(reason.contains(&pod.name().name), "of whom? {reason}");
                    Ok(())
                })
            })
            .collect();
        let join = |look: std::thread::ScopedJoinHandle<'_, _>| {
            look.join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("panicked")))
        };
        looks.into_iter().map(join).collect()
    });
    results.into_iter().collect()
}

fn ended(bed: &mut Bed) -> anyhow::Result<()> {
    let short = Start::flags(&format!("--leaf-ttl {}s", SHORT.as_secs()));
    restart_culvertd(bed, &short)?;
    for node in [0, 1] {
        bed.end_ztunnel(node, Signal::SIGTERM)?;
        bed.start_ztunnel(node, &Start::default())?;
    }
    bed.until_right(FOUND_WITHIN)?;
    // Renewals work: what was there first has ended by now, and nothing was refused.
    let traffic = Traffic::start(bed)?;
    bed.sleep(SHORT + MOMENT)?;
    traffic.finish(bed)?;

    let held = bed.hold(&bed.client, 2)?;
    bed.end_culvertd(Signal::SIGKILL)?;
    bed.sleep(SHORT + MOMENT)?;
    let reason = bed.refused(&bed.client, &["no certificate", "ended"])?;
    ensure!(reason.contains("demo/sa/client"), "of whom? {reason}");
    let dump = bed.dump(0)?;
    let states = dump["certificates"].as_array().context("no certificates")?;
    ensure!(
        states.iter().all(|it| it["state"] != "Available"),
        "{states:?}"
    );
    ensure!(held.ended().is_none(), "the live ones were lost");
    restart(bed, &short)?;
    bed.until_right(FOUND_WITHIN)?;
    let held: scenarios::traffic::HoldReport = bed.finish(&held)?;
    ensure!(held.kept == held.tried, "{held:?}");
    restart_culvertd(bed, &Start::default())?;
    for node in [0, 1] {
        bed.end_ztunnel(node, Signal::SIGTERM)?;
        bed.start_ztunnel(node, &Start::default())?;
    }
    bed.until_right(FOUND_WITHIN)
}

fn restart(bed: &mut Bed, start: &Start) -> anyhow::Result<()> {
    bed.start_culvertd(start)
}

fn restart_culvertd(bed: &mut Bed, start: &Start) -> anyhow::Result<()> {
    bed.end_culvertd(Signal::SIGTERM)?;
    bed.start_culvertd(start)
}
