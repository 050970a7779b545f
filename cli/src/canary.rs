//! `culvert canary`: the split of a Service's requests between its versions, in the file of its
//! route, and what the waypoints counted of it.

mod create;
mod dead;
mod edit;
mod error;
mod place;
mod seen;
mod split;
mod yaml;

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;

pub use error::CanaryError;
use place::{Place, Which};
use seen::Counts;
pub use split::Share;

use crate::route::Format;
use crate::statistics::{LEAST_P, split_p};

/// `culvert canary`.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Set the weights of a Service's versions: `culvert canary set web v2=5`. A version that is
    /// not named gets what is left of 100.
    Set(Set),
    /// Say which split is set, and which one the waypoints saw.
    #[command(visible_alias = "show")]
    Status(StatusOptions),
    /// Send everything to the new version: the second of two, or the one that is named.
    Promote(Side),
    /// Send everything back to the old version: the first of two, or the one that is named.
    Rollback(Side),
}

/// Which rule of which route.
#[derive(Clone, Debug, Args)]
pub struct Target {
    /// The Service that clients call, which is the route's parent.
    #[arg(value_name = "SERVICE")]
    service: String,
    /// Directory of manifests that has the route; its file is edited in place.
    #[arg(long, value_name = "DIR")]
    manifests: PathBuf,
    /// Namespace of the Service.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Name of the route, when the Service has several.
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Name or number (from 0) of the rule, when several have these versions.
    #[arg(long, value_name = "RULE")]
    rule: Option<String>,
}

/// Arguments of `culvert canary set`.
#[derive(Clone, Debug, Args)]
pub struct Set {
    #[command(flatten)]
    target: Target,
    /// Version and weight. The version is the name of a backend Service, or what follows
    /// `SERVICE-` in it.
    #[arg(value_name = "VERSION=WEIGHT", required = true)]
    shares: Vec<Share>,
    /// Write a new route when the Service has none.
    #[arg(long)]
    create: bool,
}

/// Arguments of `culvert canary promote` and `rollback`.
#[derive(Clone, Debug, Args)]
pub struct Side {
    #[command(flatten)]
    target: Target,
    /// The version that gets everything.
    #[arg(value_name = "VERSION")]
    version: Option<String>,
}

/// Arguments of `culvert canary status`.
#[derive(Clone, Debug, Args)]
pub struct StatusOptions {
    #[command(flatten)]
    target: Target,
    /// Metrics address of a waypoint, `10.244.1.9:15020`; may be repeated. Without one only what is
    /// set is told.
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Vec<String>,
    /// Count the requests of so many seconds from now, not those since the waypoints started.
    #[arg(long = "for", value_name = "SECONDS", requires = "metrics")]
    seconds: Option<u64>,
    /// How the answer is written.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Format,
}

/// The split, as it is printed.
#[derive(Debug, Serialize)]
struct Answer {
    service: String,
    route: String,
    rule: String,
    file: PathBuf,
    backends: Vec<BackendAnswer>,
    /// Requests that were counted; null: nobody was asked.
    n: Option<u64>,
    /// The seconds that they came in; null: since the waypoints started.
    seconds: Option<u64>,
    /// How likely counts like these are under the split that is set; below 1e-8 something is wrong.
    p_value: Option<f64>,
}

#[derive(Debug, Serialize)]
struct BackendAnswer {
    name: String,
    weight: u32,
    /// Share in percent that is set.
    percent: f64,
    /// Requests that the waypoints counted.
    seen: Option<u64>,
}

/// What the command did or saw, as it is printed.
///
/// # Errors
/// Nothing was changed: there is no such rule, no such split, or a file cannot be read or written.
pub fn told(command: &Command) -> Result<String, CanaryError> {
    match command {
        Command::Set(options) => set(options),
        Command::Status(options) => status(options),
        Command::Promote(side) => one_side(side, 1),
        Command::Rollback(side) => one_side(side, 0),
    }
}

impl Set {
    /// One version's weight of a Service (name, namespace) in a directory; the other version gets
    /// what is left of 100.
    pub fn new(
        (service, namespace): (&str, &str),
        manifests: PathBuf,
        (backend, weight): (&str, u32),
    ) -> Self {
        Set {
            target: Target {
                service: service.to_owned(),
                manifests,
                namespace: namespace.to_owned(),
                route: None,
                rule: None,
            },
            shares: vec![Share {
                backend: backend.to_owned(),
                weight,
            }],
            create: false,
        }
    }
}

impl Target {
    fn find(&self, backends: &[String]) -> Result<Place, CanaryError> {
        Which {
            service: &self.service,
            namespace: &self.namespace,
            route: self.route.as_deref(),
            rule: self.rule.as_deref(),
            backends,
        }
        .find(&self.manifests)
    }
}

fn set(options: &Set) -> Result<String, CanaryError> {
    let target = &options.target;
    let words: Vec<String> = options.shares.iter().map(|s| s.backend.clone()).collect();
    let place = match target.find(&words) {
        Err(CanaryError::NoRoute { .. }) if options.create => {
            let of = (target.service.as_str(), target.namespace.as_str());
            let new = create::route(&target.manifests, of, &options.shares)?;
            edit::replace(&new.file, &new.text)?;
            let place = target.find(&words)?;
            return Ok(format!("new: {}", line(&place)));
        }
        other => other?,
    };
    let weights = split::weights(&place, &target.service, &options.shares)?;
    let said = change(target, &place, (&words, &weights))?;
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    Ok(match sum {
        100 => said,
        // As the API has it, and perhaps not what was meant.
        _ => format!("{said}\nnote: the weights are parts of {sum}, not of 100"),
    })
}

fn one_side(side: &Side, default: usize) -> Result<String, CanaryError> {
    let words: Vec<String> = side.version.iter().cloned().collect();
    let place = side.target.find(&words)?;
    let which = (side.version.as_deref(), default);
    let weights = split::all_to(&place, &side.target.service, which)?;
    change(&side.target, &place, (&words, &weights))
}

fn change(
    target: &Target,
    place: &Place,
    (words, weights): (&[String], &[u32]),
) -> Result<String, CanaryError> {
    dead::refuse(&target.manifests, place, weights)?;
    let text = edit::with_weights(place, weights);
    let before = line(place);
    if text == place.text {
        return Ok(format!("unchanged: {before}"));
    }
    edit::replace(&place.file, &text)?;
    // What was written is what a reader finds: anything else is a defect, told and taken back.
    let after = target.find(words);
    let as_wanted = |place: &Place| {
        let now = place.backends.iter().map(|backend| backend.weight);
        now.eq(weights.iter().copied())
    };
    match after {
        Ok(after) if as_wanted(&after) => Ok(format!("was: {before}\nnow: {}", line(&after))),
        _ => {
            edit::replace(&place.file, &place.text)?;
            Err(CanaryError::Uneditable {
                rule: format!("{} {}", place.route, place.rule),
                file: place.file.clone(),
                why: "the weights could not be changed in place".to_owned(),
            })
        }
    }
}

/// `v1 95 %, v2 5 % (HTTPRoute shop/web rule 0, web.yaml)`.
fn line(place: &Place) -> String {
    let shares = percents(place);
    let shares: Vec<String> = place
        .backends
        .iter()
        .zip(shares)
        .map(|(backend, percent)| {
            let percent = (percent * 100.0).round() / 100.0;
            format!("{} {percent} %", backend.name)
        })
        .collect();
    let (route, rule, file) = (&place.route, &place.rule, place.file.display());
    format!("{} ({route} {rule}, {file})", shares.join(", "))
}

fn percents(place: &Place) -> Vec<f64> {
    let weights = place.backends.iter().map(|b| f64::from(b.weight));
    let sum: f64 = weights.clone().sum();
    weights.map(|w| 100.0 * w / sum.max(1.0)).collect()
}

fn status(options: &StatusOptions) -> Result<String, CanaryError> {
    let place = options.target.find(&[])?;
    let counts = match &options.metrics[..] {
        [] => None,
        addresses => Some(counted(addresses, options.seconds)?),
    };
    let counts = counts.as_ref().map(|counts| (counts, options.seconds));
    let answer = Answer::new(&options.target, &place, counts);
    Ok(match options.output {
        Format::Json => {
            serde_json::to_string_pretty(&answer).expect("an answer has texts and numbers only")
        }
        Format::Text => answer.text(),
    })
}

fn counted(addresses: &[String], seconds: Option<u64>) -> Result<Counts, CanaryError> {
    let first = seen::counted(addresses)?;
    let Some(seconds) = seconds else {
        return Ok(first);
    };
    std::thread::sleep(Duration::from_secs(seconds));
    let mut second = seen::counted(addresses)?;
    for (key, count) in &mut second {
        // A waypoint that began anew counts from 0.
        *count = count.saturating_sub(first.get(key).copied().unwrap_or_default());
    }
    Ok(second)
}

impl Answer {
    fn new(target: &Target, place: &Place, counts: Option<(&Counts, Option<u64>)>) -> Self {
        let (counts, seconds) = counts.unzip();
        let seconds = seconds.flatten();
        let seen = |backend: &place::Backend| {
            let key = (backend.namespace.clone(), backend.name.clone());
            counts.map(|counts| counts.get(&key).copied().unwrap_or_default())
        };
        let backends: Vec<BackendAnswer> = place
            .backends
            .iter()
            .zip(percents(place))
            .map(|(backend, percent)| BackendAnswer {
                name: backend.name.clone(),
                weight: backend.weight,
                percent,
                seen: seen(backend),
            })
            .collect();
        let n: Option<u64> = backends.iter().map(|backend| backend.seen).sum();
        let sides = backends.iter().filter_map(|b| Some((b.seen?, b.percent)));
        let sides: Vec<(u64, f64)> = sides.collect();
        Self {
            service: format!("{}/{}", target.namespace, target.service),
            route: place.route.clone(),
            rule: place.rule.clone(),
            file: place.file.clone(),
            p_value: n.filter(|n| *n > 0).map(|_| split_p(&sides)),
            n,
            seconds,
            backends,
        }
    }

    fn text(&self) -> String {
        let mut table = Table::new();
        table.load_preset(NOTHING);
        table.set_header(["BACKEND", "WEIGHT", "SET", "SEEN", "SHARE"]);
        let all = self.n.unwrap_or_default();
        for backend in &self.backends {
            #[allow(clippy::cast_precision_loss)] // a share for people
            let share = |seen: u64| 100.0 * seen as f64 / all.max(1) as f64;
            table.add_row([
                backend.name.clone(),
                backend.weight.to_string(),
                format!("{:.1} %", backend.percent),
                backend.seen.map_or("-".to_owned(), |seen| seen.to_string()),
                backend
                    .seen
                    .filter(|_| all > 0)
                    .map_or("-".to_owned(), |seen| format!("{:.1} %", share(seen))),
            ]);
        }
        let (route, rule, file) = (&self.route, &self.rule, self.file.display());
        let table = table.trim_fmt();
        let mut text = format!("Service {}: {route} {rule}, {file}\n{table}", self.service);
        let verdict = match self.p_value {
            Some(p) if p < LEAST_P => {
                let since = match self.seconds {
                    Some(_) => "",
                    None => {
                        "; they are all since the waypoint started, \
                             `--for 30` counts those of the next 30 s"
                    }
                };
                format!("\n{all} requests do not fit this split: p = {p:.2e}{since}")
            }
            Some(p) => format!("\n{all} requests fit this split: p = {p:.2}"),
            None => String::new(),
        };
        // Writing to a String cannot fail.
        let _ = write!(text, "{verdict}");
        text
    }
}
