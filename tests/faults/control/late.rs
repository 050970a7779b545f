//! Pods that come while something is wrong: each with an account of its own, on node-1.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context;
use scenarios::faults::Bed;
use world::{CniError, Pod};

/// How long the plugin waits for its agent here: long enough to see it block.
const PLUGIN_TIMEOUT_S: u64 = 3;
/// A node whose parts are there again takes a pod within this.
const ADDED_WITHIN: Duration = Duration::from_secs(90);
/// What CNI calls "try again later".
const TRY_AGAIN: u64 = 11;

/// Tells the control plane of pods that may come.
pub fn announce(bed: &Bed, names: &[&str]) -> anyhow::Result<()> {
    let documents = names.iter().map(|name| {
        format!(
            "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {name}\n  namespace: demo\n\
             ---\n\
             apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: demo\n\
             spec:\n  nodeName: node-1\n  serviceAccountName: {name}\n---\n"
        )
    });
    let file = format!("80-{}.yaml", names.join("-"));
    bed.manifests.put(&file, &documents.collect::<String>())?;
    Ok(())
}

/// Sets `timeout_s` of our plugin in the chain of node-1, as an administrator would.
pub fn shorten_timeout(bed: &Bed) -> anyhow::Result<()> {
    for entry in fs::read_dir(bed.parts[0].node.runtime()?.conf_dir)? {
        let path = entry?.path();
        if path.extension().is_none_or(|is| is != "conflist") {
            continue;
        }
        let mut list: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
        let plugins = list["plugins"].as_array_mut().context("no plugins")?;
        let ours = plugins.iter_mut().find(|it| it["type"] == "culvert-cni");
        ours.context("culvert-cni is not in the chain")?["timeout_s"] = PLUGIN_TIMEOUT_S.into();
        fs::write(&path, serde_json::to_vec_pretty(&list)?)?;
    }
    Ok(())
}

/// A pod of node-1 that its runtime gets an "again later" for; the words of the plugin.
pub fn not_added(bed: &Bed, name: &str) -> anyhow::Result<String> {
    let pod = bed.parts[0].node.sandbox(&format!("demo/{name}"))?;
    let added = pod.add();
    pod.delete()?;
    match added {
        Err(
            error @ CniError::Refused {
                code: TRY_AGAIN, ..
            },
        ) => Ok(error.to_string()),
        Err(other) => Err(other).context("not a CNI error 11, `try again later`"),
        Ok(()) => anyhow::bail!("ADD succeeded: the pod runs unprotected"),
    }
}

/// A pod of node-1, tried again as its runtime does until the node takes it.
pub fn added(bed: &Bed, name: &str) -> anyhow::Result<Pod> {
    let start = Instant::now();
    loop {
        let pod = bed.parts[0].node.sandbox(&format!("demo/{name}"))?;
        match pod.add() {
            Ok(()) => return Ok(pod),
            Err(_) if start.elapsed() < ADDED_WITHIN => pod.delete()?,
            Err(why) => return Err(why).context(name.to_owned()),
        }
    }
}
