//! Scenarios on paper: what `culvert status` and `culvert route explain` say of their manifests,
//! without any process of the mesh.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;

use anyhow::{Context, bail, ensure};
use scenarios::{Scenario, scenario};
use serde_json::Value;
use world::stack::Binaries;

use crate::case::{self, Case, Pair};

/// Pods have their addresses from agents, and waypoints their readiness; there are none.
const WITHOUT_AGENTS: [&str; 2] = ["NoAddress", "Pending"];
/// First words of pairs that no client of plain requests asks.
const NO_METHOD: [&str; 12] = [
    "GRPC",
    "TCP",
    "TLS",
    "HELD",
    "WEBSOCKET",
    "RAW",
    "STREAM",
    "UPGRADE",
    "DRIP",
    "KEEP",
    "PIPELINE",
    "TUNNEL",
];
/// Conditions that are bad when they are there.
const BAD_WHEN_TRUE: &str = "PartiallyInvalid";

/// What is looked at of a case before there is a world.
pub fn scenarios(case: &Rc<Case>) -> Vec<Scenario<()>> {
    let of = case.clone();
    let status = scenario(
        format!("{}: its manifests are accepted as it says", case.name),
        move |(): &mut ()| accepted(&of),
    );
    let of = case.clone();
    let explain = scenario(
        format!("{}: explain says what the waypoint is to do", case.name),
        move |(): &mut ()| explained(&of),
    );
    vec![status, explain]
}

/// A directory with the world's manifests and the case's, removed with it.
struct Directory(PathBuf);

impl Directory {
    fn of(case: &Case) -> anyhow::Result<Self> {
        let name = format!("culvert-paper-{}-{}", std::process::id(), case.name);
        let directory = Directory(std::env::temp_dir().join(name));
        fs::create_dir_all(&directory.0)?;
        for (name, text) in case::world()? {
            fs::write(directory.0.join(name), text)?;
        }
        fs::write(directory.0.join("case.yaml"), &case.manifests)?;
        Ok(directory)
    }

    fn culvert(&self, words: &[&str]) -> anyhow::Result<Value> {
        let output = Command::new(Binaries::of_this_build()?.path("culvert"))
            .args(words)
            .args(["--output", "json", "--manifests"])
            .arg(&self.0)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        serde_json::from_slice(&output.stdout).with_context(|| format!("{words:?}: {said}"))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn accepted(case: &Case) -> anyhow::Result<()> {
    let page = Directory::of(case)?.culvert(&["status"])?;
    let errors = page["errors"].as_array().context("errors")?;
    ensure!(errors.is_empty(), "refused: {errors:?}");
    let mut wrong = BTreeSet::new();
    let mut told = Vec::new();
    for (object, conditions) in page["objects"].as_object().context("objects")? {
        for condition in conditions.as_array().into_iter().flatten() {
            let text = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
            let is_bad = (text("status") == "False") != (text("type") == BAD_WHEN_TRUE);
            if is_bad && !WITHOUT_AGENTS.contains(&&*text("reason")) {
                wrong.insert(format!("{} {}", text("type"), text("reason")));
                told.push(format!("{object}: {condition}"));
            }
        }
    }
    let expected: BTreeSet<String> = case.requests.conditions.iter().cloned().collect();
    ensure!(
        wrong == expected,
        "expected {expected:?}, got {wrong:?}: {}",
        told.join("\n    ")
    );
    Ok(())
}

fn explained(case: &Case) -> anyhow::Result<()> {
    let directory = Directory::of(case)?;
    let mut asked = 0;
    for pair in &case.requests.pairs {
        let Some(wrong) = explained_pair(&directory, pair)? else {
            continue;
        };
        asked += 1;
        if !wrong.is_empty() {
            bail!("{} {:?}: {wrong}", pair.ask, pair.headers);
        }
    }
    // So that a case that is not compared at all is one that explain cannot be asked.
    let askable = |pair: &Pair| pair.at.is_none() && pair.ask.starts_with("GET ");
    ensure!(
        asked > 0 || !case.requests.pairs.iter().any(askable),
        "nothing was compared"
    );
    Ok(())
}

/// None: nothing to compare. Empty: as expected.
fn explained_pair(directory: &Directory, pair: &Pair) -> anyhow::Result<Option<String>> {
    let method = pair.ask.split(' ').next().unwrap_or_default();
    // These are decided without a method and a path, or by other routes.
    if pair.at.is_some() || NO_METHOD.contains(&method) {
        return Ok(None);
    }
    let namespace = pair.from.split('/').next().unwrap_or_default();
    let mut words = vec!["route", "explain", &pair.ask, "--from", namespace];
    for header in &pair.headers {
        words.extend(["-H", header]);
    }
    let answer = directory.culvert(&words)?;
    let outcome = &answer["outcome"];
    let action = outcome["action"].as_str().unwrap_or_default();
    let expect = &pair.expect;
    let status = expect.status.unwrap_or(200);
    let wrong = match action {
        "redirect" | "fail" if outcome["status"] != status => {
            format!("expected {status}, explain says {outcome}")
        }
        "redirect" => {
            let location = expect.headers.get("location").cloned().flatten();
            match location.is_none_or(|wanted| outcome["location"] == *wanted) {
                true => String::new(),
                false => format!("expected another location than {outcome}"),
            }
        }
        "forward" if !expect.by.is_empty() => {
            let backends: Vec<String> = outcome["backends"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|backend| backend["percent"] != 0.0)
                .map(|backend| backend["to"].to_string())
                .collect();
            // A backend is a Service of the pod's name, or the Service of the case itself.
            let fits = |backend: &String| {
                let parts = backend
                    .split(['/', '.', '"', ' '])
                    .nth(2)
                    .unwrap_or_default();
                expect.by.iter().any(|pod| pod == parts) || !parts.starts_with('v')
            };
            match backends.iter().all(fits) {
                true => String::new(),
                false => format!("expected {:?}, explain says {backends:?}", expect.by),
            }
        }
        "forward" | "unrouted" if status < 300 => String::new(),
        "preflight" | "fail" => String::new(),
        _ => return Ok(None),
    };
    Ok(Some(wrong))
}
