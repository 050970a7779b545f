//! `culvert status`: what is said of every object of a directory of manifests, before or without a
//! control plane that serves it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;
use translate::{Condition, SourceError, Status};

use crate::manifests::{Manifests, ManifestsError};
use crate::route::Format;

/// Arguments of `culvert status`.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Directory of manifests, read as culvertd reads it.
    #[arg(long, value_name = "DIR")]
    manifests: PathBuf,
    /// Only objects whose `Kind namespace/name` contains this text.
    #[arg(value_name = "OBJECT")]
    object: Option<String>,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

#[derive(Serialize)]
struct Page<'a> {
    errors: &'a [SourceError],
    objects: BTreeMap<String, &'a [Condition]>,
}

/// The conditions, as they are printed, and whether all hold and every document was accepted.
///
/// # Errors
/// The directory cannot be read or has no object.
pub fn told(options: &Options) -> Result<(String, bool), ManifestsError> {
    let manifests = Manifests::read(&options.manifests)?;
    let wanted = options.object.as_deref().unwrap_or_default();
    let all = manifests.output.statuses.iter();
    let objects: BTreeMap<_, _> = all
        .map(|(key, conditions)| (key.to_string(), &conditions[..]))
        .filter(|(name, _)| name.contains(wanted))
        .collect();
    let errors = &manifests.errors;
    let is_problem = |condition: &Condition| {
        // The one condition that is bad when it is there.
        (condition.status == Status::False)
            != (condition.kind == translate::status::PARTIALLY_INVALID)
    };
    let problems = objects.values().flat_map(|c| c.iter()).any(is_problem);
    let page = Page { errors, objects };
    let text = match options.output {
        Format::Json => {
            serde_json::to_string_pretty(&page).expect("a page has texts and numbers only")
        }
        Format::Text => text(&page),
    };
    Ok((text, errors.is_empty() && !problems))
}

fn text(page: &Page<'_>) -> String {
    let mut lines: Vec<String> = page
        .errors
        .iter()
        .map(|e| format!("refused: {e}"))
        .collect();
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header([
        "OBJECT",
        "PARENT",
        "CONDITION",
        "STATUS",
        "REASON",
        "MESSAGE",
    ]);
    for (object, conditions) in &page.objects {
        for condition in *conditions {
            table.add_row([
                object.as_str(),
                condition.parent.as_deref().unwrap_or("-"),
                condition.kind,
                match condition.status {
                    Status::True => "True",
                    Status::False => "False",
                },
                condition.reason,
                &condition.message,
            ]);
        }
    }
    match page.objects.is_empty() {
        true => lines.push("no object has a condition".to_owned()),
        false => lines.push(table.trim_fmt()),
    }
    lines.join("\n")
}
