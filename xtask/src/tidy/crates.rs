//! The crate table of ARCHITECTURE.md against `cargo metadata`: who may use whom.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use cargo_metadata::{DependencyKind, Metadata};

use super::Fault;

const TABLE: &str = "ARCHITECTURE.md";

/// What a row allows: the packages it names, or any.
#[derive(Debug, PartialEq, Eq)]
enum Allowed {
    Any,
    Only(BTreeSet<String>),
}

pub(super) fn check(root: &Path, metadata: &Metadata) -> anyhow::Result<Vec<Fault>> {
    let text = std::fs::read_to_string(root.join(TABLE)).context(TABLE)?;
    let rows = table(&text);
    let fault = |what: String| Fault {
        file: TABLE.into(),
        line: 0,
        what,
    };
    let mut faults = Vec::new();
    let mut seen = BTreeSet::new();
    for package in metadata.workspace_packages() {
        let folder = package
            .manifest_path
            .parent()
            .context("a manifest has a folder")?;
        let folder = folder
            .strip_prefix(metadata.workspace_root.as_path())?
            .to_string();
        seen.insert(folder.clone());
        let Some(allowed) = rows.get(&folder) else {
            faults.push(fault(format!("the crate table has no row for `{folder}/`")));
            continue;
        };
        let ours = package
            .dependencies
            .iter()
            .filter(|d| d.path.is_some() && d.kind != DependencyKind::Development);
        for dependency in ours {
            let may = match allowed {
                Allowed::Any => true,
                Allowed::Only(names) => names.contains(&dependency.name),
            };
            if !may {
                let what = format!(
                    "{} uses {}, its row does not",
                    package.name, dependency.name
                );
                faults.push(fault(what));
            }
        }
    }
    for folder in rows.keys().filter(|folder| !seen.contains(*folder)) {
        faults.push(fault(format!(
            "the crate table names `{folder}/`, which is no crate"
        )));
    }
    Ok(faults)
}

/// Rows of the table with the head `| crate |`: folder to allowed packages.
fn table(text: &str) -> BTreeMap<String, Allowed> {
    let mut rows = BTreeMap::new();
    let body = text
        .lines()
        .skip_while(|line| !line.starts_with("| crate |"))
        .skip(2);
    for line in body.take_while(|line| line.starts_with('|')) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [folders, _, uses] = cells[..] else {
            continue;
        };
        for folder in folders.split('`').filter(|part| part.ends_with('/')) {
            let allowed = match uses {
                "any" => Allowed::Any,
                "-" => Allowed::Only(BTreeSet::new()),
                names => Allowed::Only(names.split(',').map(|n| n.trim().to_owned()).collect()),
            };
            rows.insert(folder.trim_end_matches('/').to_owned(), allowed);
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_may_name_several_folders_and_packages() {
        let rows =
            table("x\n| crate | what | may use |\n|---|---|---|\n| `a/` `b/` | t | c, d |\n\n");
        let names = ["c".to_owned(), "d".to_owned()].into();
        assert_eq!(rows["a"], Allowed::Only(names));
        assert_eq!(rows.len(), 2);
    }
}
