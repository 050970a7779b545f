//! `deny.toml` against `cargo metadata`: licences, sources and banned crates.
//!
//! cargo-deny reads the same file and checks more (duplicates by tree, advisories); these are the
//! parts that must hold on a machine where nothing but cargo is installed.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use cargo_metadata::{Metadata, Package};
use toml::Value;

use super::Fault;

const CONFIG: &str = "deny.toml";

pub(super) fn check(root: &Path, metadata: &Metadata) -> anyhow::Result<Vec<Fault>> {
    let text = std::fs::read_to_string(root.join(CONFIG)).context(CONFIG)?;
    let config: toml::Table = text.parse().context(CONFIG)?;
    let licences = texts(config.get("licenses").and_then(|table| table.get("allow")));
    let banned = names(config.get("bans").and_then(|table| table.get("deny")));
    let fault = |name: &String| Fault {
        file: CONFIG.into(),
        line: 0,
        what: format!("{name} is banned: see bans.deny"),
    };
    let mut faults: Vec<_> = banned.intersection(&built(root)?).map(fault).collect();
    for package in &metadata.packages {
        let mut fault = |what: String| {
            faults.push(Fault {
                file: CONFIG.into(),
                line: 0,
                what,
            })
        };
        let Some(source) = &package.source else {
            continue;
        };
        if !source.is_crates_io() {
            fault(format!("{} comes from an unknown source", package.name));
        }
        if let Err(why) = licence(package, &licences) {
            fault(format!("{} {}: {why}", package.name, package.version));
        }
    }
    Ok(faults)
}

/// Names of the crates that are really built: `cargo metadata` also lists optional ones that no
/// feature asks for (rustls-webpki's `ring`), `cargo tree` does not.
fn built(root: &Path) -> anyhow::Result<BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--workspace",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(root)
        .output()
        .context("cargo tree")?;
    let text = String::from_utf8(output.stdout)?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect())
}

fn licence(package: &Package, allowed: &BTreeSet<String>) -> anyhow::Result<()> {
    let text = package.license.as_deref().context("names no licence")?;
    let expression = spdx::Expression::parse_mode(text, spdx::ParseMode::LAX)?;
    let fine = expression.evaluate(|requirement| {
        requirement
            .license
            .id()
            .is_some_and(|id| allowed.contains(id.name))
    });
    anyhow::ensure!(fine, "licence `{text}` is not in licenses.allow");
    Ok(())
}

fn texts(value: Option<&Value>) -> BTreeSet<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}

fn names(value: Option<&Value>) -> BTreeSet<String> {
    let items = value.and_then(Value::as_array).into_iter().flatten();
    items
        .filter_map(|item| item.get("crate")?.as_str().map(str::to_owned))
        .collect()
}
