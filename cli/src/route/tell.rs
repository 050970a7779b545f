//! The answer, for people and for programs.

use std::fmt::Write;

use mesh::Service;
use mesh::route::explain::RuleReport;
use mesh::route::{Decision, Rule};
use serde::Serialize;

use super::ask::Ask;

/// What was found out.
pub(super) struct Findings<'a> {
    pub(super) rules: Vec<RuleReport>,
    pub(super) decision: Option<&'a Decision<'a>>,
    /// The rule that takes the request.
    pub(super) rule: Option<&'a Rule>,
}

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    request: String,
    service: String,
    port: u16,
    /// Whose routes count: `producer`, `consumer`, `gateway`, `none`.
    routes: &'static str,
    rules: Vec<RuleAnswer>,
    outcome: Outcome,
    /// Whether a waypoint is there to apply it.
    waypoint: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RuleAnswer {
    route: String,
    rule: usize,
    name: Option<String>,
    /// Whether it takes the request.
    takes: bool,
    /// Whether its conditions hold.
    holds: bool,
    /// Alternatives; empty: it takes everything.
    matches: Vec<Vec<ClauseAnswer>>,
}

#[derive(Debug, Serialize)]
struct ClauseAnswer {
    holds: bool,
    wanted: String,
    /// What the request has; null: nothing of that name.
    has: Option<String>,
    #[serde(skip)]
    line: String,
}

/// What becomes of the request.
#[derive(Debug, Serialize)]
#[serde(tag = "action", rename_all = "camelCase")]
enum Outcome {
    /// There is no route: the service's endpoints get it as ever.
    Unrouted,
    /// One of these gets it.
    Forward {
        backends: Vec<BackendAnswer>,
        path: Option<String>,
        host: Option<String>,
        mirrors: Vec<String>,
    },
    Redirect {
        status: u16,
        location: String,
    },
    Preflight,
    Fail {
        status: u16,
        reason: String,
    },
}

#[derive(Debug, Serialize)]
struct BackendAnswer {
    to: String,
    percent: f64,
}

impl Answer {
    pub(super) fn new(
        ask: &Ask,
        service: &Service,
        routes: &'static str,
        found: Findings<'_>,
    ) -> Self {
        Self {
            request: ask.line(),
            service: service.key.to_string(),
            port: ask.port(),
            routes,
            outcome: Outcome::of(&found, ask),
            rules: found.rules.iter().map(RuleAnswer::of).collect(),
            waypoint: service.waypoint.is_some() || !service.weighted_waypoints.is_empty(),
        }
    }

    pub(super) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("an answer has texts and numbers only")
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "{}\nservice {} port {}: ",
            self.request, self.service, self.port
        );
        text.push_str(match self.routes {
            "consumer" => "routes of the client's namespace\n",
            "producer" => "routes of its own namespace\n",
            "gateway" => "routes of its waypoint's Gateway\n",
            _ => "no route\n",
        });
        for rule in &self.rules {
            rule.tell(&mut text);
        }
        text.push('\n');
        text.push_str(&self.outcome.text());
        if !self.waypoint && self.routes != "none" {
            text.push_str(
                "\nNo waypoint carries the service's traffic, so its routes change nothing: label \
                 it istio.io/use-waypoint.\n",
            );
        }
        text
    }
}

impl RuleAnswer {
    fn of(report: &RuleReport) -> Self {
        let clauses = report.alternatives.iter().map(|clauses| {
            let clauses = clauses.iter().map(|clause| ClauseAnswer {
                holds: clause.holds,
                wanted: clause.wanted.clone(),
                has: clause.has.clone(),
                line: clause.to_string(),
            });
            clauses.collect()
        });
        Self {
            route: report.route.to_string(),
            rule: report.rule,
            name: report.name.clone(),
            takes: report.takes.is_some(),
            holds: report.holds(),
            matches: clauses.collect(),
        }
    }

    fn tell(&self, text: &mut String) {
        let name = self.name.as_ref().map(|name| format!(" ({name})"));
        let verdict = match (self.takes, self.holds) {
            (true, _) => "  <- takes the request",
            (false, true) => "  holds too, a better match takes it",
            (false, false) => "",
        };
        let (route, rule) = (&self.route, self.rule);
        let name = name.unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n{route} rule {rule}{name}{verdict}");
        if self.matches.is_empty() {
            text.push_str("  yes every request\n");
        }
        for (at, clauses) in self.matches.iter().enumerate() {
            if at > 0 {
                text.push_str("  or\n");
            }
            for clause in clauses {
                let _ = writeln!(text, "  {}", clause.line);
            }
        }
    }
}

impl Outcome {
    fn of(found: &Findings<'_>, ask: &Ask) -> Self {
        let (Some(decision), rule) = (found.decision, found.rule) else {
            return Self::Unrouted;
        };
        match decision {
            Decision::Redirect {
                status, location, ..
            } => Self::Redirect {
                status: *status,
                location: location.clone(),
            },
            Decision::Preflight { .. } => Self::Preflight,
            Decision::Forward(forward) => Self::Forward {
                backends: rule.map(shares).unwrap_or_default(),
                path: (forward.path != ask.request().path).then(|| forward.path.to_string()),
                host: forward.host.map(str::to_owned),
                mirrors: rule.map(mirrors).unwrap_or_default(),
            },
            // Number 0 may have drawn a backend that leads nowhere; the others are told too.
            Decision::Fail {
                failure: mesh::route::Failure::InvalidBackend(_),
                ..
            } => Self::Forward {
                backends: rule.map(shares).unwrap_or_default(),
                path: None,
                host: None,
                mirrors: rule.map(mirrors).unwrap_or_default(),
            },
            Decision::Fail { failure, .. } => Self::Fail {
                status: failure.status(),
                reason: failure.to_string(),
            },
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Unrouted => "The service's own endpoints get it.\n".to_owned(),
            Self::Redirect { status, location } => {
                format!("It is answered with {status} and sent to {location}\n")
            }
            Self::Preflight => "It is a preflight, and answered here.\n".to_owned(),
            Self::Fail { status, reason } => format!("It is answered with {status}: {reason}.\n"),
            Self::Forward {
                backends,
                path,
                host,
                mirrors,
            } => {
                let mut text = "It goes to\n".to_owned();
                for BackendAnswer { to, percent } in backends {
                    let _ = writeln!(text, "  {percent:5.1} %  {to}");
                }
                for (what, value) in [("path", path), ("host", host)] {
                    if let Some(value) = value {
                        let _ = writeln!(text, "with the {what} {value}");
                    }
                }
                for mirror in mirrors {
                    let _ = writeln!(text, "and a copy of {mirror}");
                }
                text
            }
        }
    }
}

fn shares(rule: &Rule) -> Vec<BackendAnswer> {
    let sum: u32 = rule.backends.iter().map(|backend| backend.weight).sum();
    let backends = rule.backends.iter();
    backends
        .map(|backend| BackendAnswer {
            to: backend.target.to_string(),
            percent: 100.0 * f64::from(backend.weight) / f64::from(sum.max(1)),
        })
        .collect()
}

fn mirrors(rule: &Rule) -> Vec<String> {
    let mirrors = rule.filters.mirrors.iter();
    mirrors
        .map(|mirror| {
            let share = mirror.share;
            let percent = 100.0 * f64::from(share.numerator) / f64::from(share.denominator);
            format!("{percent} % to {}", mirror.target)
        })
        .collect()
}
