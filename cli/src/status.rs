//! `culvert status`: what is said of every object of a directory of manifests, before or without a
//! control plane that serves it, or of those that a running culvertd serves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{ArgGroup, Args};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::{Deserialize, Serialize};
use translate::status::BAD_WHEN_TRUE;
use translate::{ListenerStatus, SourceError, Status};

use crate::fetch;
use crate::manifests::{Manifests, ManifestsError};
use crate::route::Format;

/// Page of culvertd's admin server that has the conditions.
const ADMIN_PAGE: &str = "/debug/status";
/// Reasons of what is so until something runs. Of a directory of manifests alone it is not known
/// whether it does, so such a condition is Unknown (as the Gateway API has it), and no mistake.
const UNTIL_IT_RUNS: [&str; 2] = ["NoAddress", "Pending"];
/// What is said of a directory when some condition is Unknown.
const DIRECTORY_ALONE: &str = "The directory alone was looked at: whether pods and waypoints run \
    is not known. A running culvertd knows: culvert status --culvertd HOST:PORT";

/// Arguments of `culvert status`.
#[derive(Clone, Debug, Args)]
#[command(group(ArgGroup::new("of").required(true).multiple(false)))]
pub struct Options {
    /// Directory of manifests, read as culvertd reads it. Whether a pod or a waypoint runs is not
    /// known then: what waits for that alone is Unknown, and no reason for exit code 1.
    #[arg(long, value_name = "DIR", group = "of")]
    manifests: Option<PathBuf>,
    /// Admin address of a running culvertd (its --admin-addr), which knows what runs too.
    #[arg(long, value_name = "HOST:PORT", group = "of")]
    culvertd: Option<String>,
    /// Only objects whose `Kind namespace/name` contains this text.
    #[arg(value_name = "OBJECT")]
    object: Option<String>,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// Why there is nothing to tell.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The manifests.
    #[error(transparent)]
    Manifests(#[from] ManifestsError),
    /// culvertd.
    #[error("culvertd at {address} does not say: {why}")]
    Culvertd {
        /// As given.
        address: String,
        /// A sentence.
        why: String,
    },
    /// Nothing to tell of what was asked for.
    #[error(
        "nothing is said of any object whose `Kind namespace/name` contains `{0}`; \
         without it all are told"
    )]
    NoObject(String),
}

#[derive(Serialize)]
struct Page {
    errors: Vec<SourceError>,
    objects: BTreeMap<String, Vec<Condition>>,
    /// Of Gateways: kinds and numbers of routes of each listener.
    listeners: BTreeMap<String, Vec<ListenerStatus>>,
}

/// What is said of an object.
#[derive(Serialize, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: Status,
    reason: String,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent: Option<String>,
}

impl Condition {
    fn is_problem(&self) -> bool {
        let bad = match BAD_WHEN_TRUE.contains(&&*self.kind) {
            true => Status::True,
            false => Status::False,
        };
        self.status == bad
    }

    /// As far as it can be told without knowing what runs.
    fn of_directory(self) -> Self {
        match UNTIL_IT_RUNS.contains(&&*self.reason) {
            true => Self {
                status: Status::Unknown,
                message: format!("of the directory alone: {}", self.message),
                ..self
            },
            false => self,
        }
    }
}

impl From<&translate::Condition> for Condition {
    fn from(from: &translate::Condition) -> Self {
        Self {
            kind: from.kind.to_owned(),
            status: from.status,
            reason: from.reason.to_owned(),
            message: from.message.clone(),
            parent: from.parent.clone(),
        }
    }
}

/// The part of culvertd's page that is told.
#[derive(Deserialize)]
struct Served {
    source: Source,
    objects: BTreeMap<String, Vec<Condition>>,
    #[serde(default)]
    listeners: BTreeMap<String, Vec<ListenerStatus>>,
}

#[derive(Deserialize)]
struct Source {
    errors: Vec<SourceError>,
}

/// The conditions, as they are printed, and whether all hold and every document was accepted.
///
/// # Errors
/// The directory cannot be read or has no object, culvertd does not answer, or there is nothing of
/// the object that was asked for.
pub fn told(options: &Options) -> Result<(String, bool), StatusError> {
    let mut page = match (&options.culvertd, &options.manifests) {
        (Some(address), _) => served(address)?,
        (None, manifests) => read(manifests.as_deref().unwrap_or(Path::new(".")))?,
    };
    let wanted = options.object.as_deref().unwrap_or_default();
    page.objects.retain(|name, _| name.contains(wanted));
    page.listeners.retain(|name, _| name.contains(wanted));
    if page.objects.is_empty() && page.errors.is_empty() && !wanted.is_empty() {
        return Err(StatusError::NoObject(wanted.to_owned()));
    }
    let mut all = page.objects.values().flatten();
    let fine = page.errors.is_empty() && !all.any(Condition::is_problem);
    let text = match options.output {
        Format::Json => {
            serde_json::to_string_pretty(&page).expect("a page has texts and numbers only")
        }
        Format::Text => text(&page),
    };
    Ok((text, fine))
}

fn read(directory: &Path) -> Result<Page, StatusError> {
    let manifests = Manifests::read(directory)?;
    let all = manifests.output.statuses.iter();
    let objects = all.map(|(key, conditions)| {
        let conditions = conditions.iter().map(Condition::from);
        let conditions = conditions.map(Condition::of_directory);
        (key.to_string(), conditions.collect())
    });
    let listeners = manifests.output.listeners.iter();
    let listeners = listeners.map(|(key, listeners)| (key.to_string(), listeners.clone()));
    Ok(Page {
        objects: objects.collect(),
        listeners: listeners.collect(),
        errors: manifests.errors,
    })
}

fn served(address: &str) -> Result<Page, StatusError> {
    let error = |why: String| StatusError::Culvertd {
        address: address.to_owned(),
        why,
    };
    let text = fetch::page(address, ADMIN_PAGE).map_err(error)?;
    let served: Served = serde_json::from_str(&text).map_err(|e| error(e.to_string()))?;
    Ok(Page {
        errors: served.source.errors,
        objects: served.objects,
        listeners: served.listeners,
    })
}

fn text(page: &Page) -> String {
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
        for condition in conditions {
            table.add_row([
                object.as_str(),
                condition.parent.as_deref().unwrap_or("-"),
                &condition.kind,
                match condition.status {
                    Status::True => "True",
                    Status::False => "False",
                    Status::Unknown => "Unknown",
                },
                &condition.reason,
                &condition.message,
            ]);
        }
    }
    match page.objects.is_empty() {
        true => lines.push("no object has a condition".to_owned()),
        false => lines.push(table.trim_fmt()),
    }
    if !page.listeners.is_empty() {
        lines.push(String::new());
        lines.push(of_listeners(page));
    }
    let mut all = page.objects.values().flatten();
    if all.any(|condition| condition.status == Status::Unknown) {
        lines.push(String::new());
        lines.push(DIRECTORY_ALONE.to_owned());
    }
    lines.join("\n")
}

fn of_listeners(page: &Page) -> String {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header(["GATEWAY", "LISTENER", "ROUTES", "KINDS OF ROUTES"]);
    for (gateway, listeners) in &page.listeners {
        for listener in listeners {
            let kinds = listener.supported_kinds.iter().map(|one| &*one.kind);
            let kinds: Vec<_> = kinds.collect();
            table.add_row([
                gateway.trim_start_matches("Gateway "),
                &listener.name,
                &listener.attached_routes.to_string(),
                match &*kinds.join(", ") {
                    "" => "none",
                    kinds => kinds,
                },
            ]);
        }
    }
    table.trim_fmt()
}
