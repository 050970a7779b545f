//! Parts of a pod's capture are removed by hand; each is found and repaired by command.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;
use world::Program;

use super::bed::Bed;

/// A part that was removed is missed within this: the kernel ends an unpinned link some
/// milliseconds later.
const MISSED_WITHIN: Duration = Duration::from_secs(10);

/// What was broken, as causes of `culvert-cni verify`, and the shell command that breaks it in
/// the pod's network namespace; `$PINS` and `$NODE` are directories on the bpffs.
const DAMAGES: &[(&str, &str)] = &[
    ("rule", "ip -4 rule del pref 100"),
    ("rule", "ip -6 rule del pref 100"),
    ("route", "ip -4 route del local default table 100"),
    ("route", "ip -6 route del local default table 100"),
    ("sysctl", "echo 0 > /proc/sys/net/ipv4/tcp_fwmark_accept"),
    ("link", "rm $PINS/link"),
    ("link", "rm -r $PINS"),
    (
        "listener",
        "bpftool map delete pinned $PINS/listeners key 0 0 0 0",
    ),
    (
        "cookie",
        "bpftool map delete pinned $NODE/enrolled key $COOKIE",
    ),
    ("hook", "rm $NODE/connect4"),
];

/// What was found and repaired.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// Parts removed by hand.
    pub broken: usize,
    /// Those that `verify` named and `verify --repair` put back.
    pub repaired: usize,
    /// Repaired parts by cause.
    pub causes: BTreeMap<String, usize>,
    /// Commands after which that was not so.
    pub not_repaired: Vec<String>,
}

impl Figures {
    /// What is not as promised.
    pub fn wrong(&self) -> Vec<String> {
        let wrong = self.not_repaired.iter();
        wrong.map(|command| format!("repairs: {command}")).collect()
    }
}

/// Runs the proof on the pod `client`.
pub fn prove(bed: &Bed) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    for (cause, command) in DAMAGES {
        damage(bed, command)?;
        figures.broken += 1;
        let missed = bed.eventually(MISSED_WITHIN, || {
            let verdict = verify(bed, &[]).unwrap_or_default();
            causes(&verdict["faults"]).iter().any(|name| name == cause)
        })?;
        let repaired = verify(bed, &["--repair"])?;
        let clean = verify(bed, &[])?;
        let named = causes(&repaired["repaired"])
            .iter()
            .any(|name| name == cause);
        if missed && named && clean["captured"] == true {
            figures.repaired += 1;
            *figures.causes.entry((*cause).to_owned()).or_default() += 1;
        } else {
            figures.not_repaired.push((*command).to_owned());
        }
    }
    Ok(figures)
}

fn damage(bed: &Bed, command: &str) -> anyhow::Result<()> {
    let (node, pod) = (&bed.mesh.nodes[0].node, &bed.mesh.pods.client);
    let status: Value = serde_json::from_str(&bed.mesh.control.agent_command(node, &["status"])?)?;
    let pods = status["pods"].as_array().context("the agent has pods")?;
    let ours = pods.iter().find(|entry| entry["uid"] == pod.uid());
    let cookie = ours.and_then(|entry| entry["cookie"].as_u64());
    let bytes = cookie.context("the agent knows the cookie")?.to_ne_bytes();
    let program = Program::new("sh")
        .args(["-ec", command])
        .env("PINS", node.bpffs().join(pod.uid()))
        .env("NODE", node.bpffs().join("node"))
        .env("COOKIE", bytes.map(|byte| byte.to_string()).join(" "));
    pod.run(&program)?.success()?;
    Ok(())
}

/// The verdict on the pod; the exit code says the same.
fn verify(bed: &Bed, words: &[&str]) -> anyhow::Result<Value> {
    let pod = &bed.mesh.pods.client;
    let output = bed.ask_agent(&[&["verify", "--json", "--pod", pod.uid()], words].concat())?;
    let verdicts: Value = serde_json::from_str(&output.text())?;
    Ok(verdicts[0].clone())
}

fn causes(faults: &Value) -> Vec<String> {
    let faults = faults.as_array().cloned().unwrap_or_default();
    let causes = faults.iter().filter_map(|fault| fault["cause"].as_str());
    causes.map(str::to_owned).collect()
}
