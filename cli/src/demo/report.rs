//! What the demo found: the report's fields, the table, and which of them are wrong.

mod routes;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::{Command, Stdio};
use std::time::Duration;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use serde_json::{Map, Value, json};

pub use routes::{Canary, Changed, Retries, Routes};

/// Width of the table where no terminal says its own, and the widest.
const TABLE_COLUMNS: u16 = 120;
/// Below this the columns fall apart, so a narrower terminal breaks the lines instead.
const LEAST_COLUMNS: u16 = 72;

/// One boolean field of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// 200 requests through the Service address, all 200 OK.
    ClientToService,
    /// Both proxies logged the expected SPIFFE IDs.
    Identities,
    /// The wire carried port 15008 only and no marker.
    WireEncrypted,
    /// The server saw the client pod's IPv4 address.
    SourceIpKept,
    /// The same with IPv6.
    SourceIpKeptV6,
    /// The packet filter rules are what they were.
    NoIptables,
    /// Plaintext is refused under STRICT.
    StrictRefusesPlaintext,
    /// Plaintext is accepted under PERMISSIVE.
    PermissiveAcceptsPlaintext,
    /// A policy refused a client by identity and the log names the policy.
    PolicyDenies,
    /// A pushed policy closed exactly the live connections that it denies.
    PolicyPushClosed,
    /// A server outside the mesh and servers that speak first are reached.
    Passthrough,
    /// Two versions share the requests as the weights say.
    Canary,
    /// Retries hide a failing server.
    Retries,
    /// No request fails while weights change.
    WeightsUnderLoad,
    /// A header sends a request to the other version.
    HeaderMatch,
    /// A path is rewritten.
    Rewrite,
    /// Copies of requests come to the other version.
    Mirror,
}

impl Claim {
    /// All, in the order of the report.
    pub const ALL: [Claim; 17] = [
        Claim::ClientToService,
        Claim::Identities,
        Claim::WireEncrypted,
        Claim::SourceIpKept,
        Claim::SourceIpKeptV6,
        Claim::NoIptables,
        Claim::StrictRefusesPlaintext,
        Claim::PermissiveAcceptsPlaintext,
        Claim::PolicyDenies,
        Claim::PolicyPushClosed,
        Claim::Passthrough,
        Claim::Canary,
        Claim::Retries,
        Claim::WeightsUnderLoad,
        Claim::HeaderMatch,
        Claim::Rewrite,
        Claim::Mirror,
    ];

    /// The field's name in the report.
    pub fn field(self) -> &'static str {
        match self {
            Claim::ClientToService => "client_to_service_ok",
            Claim::Identities => "identities_ok",
            Claim::WireEncrypted => "wire_encrypted",
            Claim::SourceIpKept => "source_ip_kept",
            Claim::SourceIpKeptV6 => "source_ip_kept_v6",
            Claim::NoIptables => "no_iptables",
            Claim::StrictRefusesPlaintext => "strict_refuses_plaintext",
            Claim::PermissiveAcceptsPlaintext => "permissive_accepts_plaintext",
            Claim::PolicyDenies => "policy_denies",
            Claim::PolicyPushClosed => "policy_push_closed",
            Claim::Passthrough => "passthrough_ok",
            Claim::Canary => "canary_ok",
            Claim::Retries => "retries_ok",
            Claim::WeightsUnderLoad => "weights_under_load_ok",
            Claim::HeaderMatch => "header_match_ok",
            Claim::Rewrite => "rewrite_ok",
            Claim::Mirror => "mirror_ok",
        }
    }

    /// The field in words.
    fn words(self) -> &'static str {
        match self {
            Claim::ClientToService => "requests through the Service",
            Claim::Identities => "SPIFFE identities on both sides",
            Claim::WireEncrypted => "nothing readable on the wire",
            Claim::SourceIpKept => "server sees the client's IPv4",
            Claim::SourceIpKeptV6 => "server sees the client's IPv6",
            Claim::NoIptables => "iptables and nftables untouched",
            Claim::StrictRefusesPlaintext => "STRICT refuses plaintext",
            Claim::PermissiveAcceptsPlaintext => "PERMISSIVE accepts plaintext",
            Claim::PolicyDenies => "policy refuses by identity",
            Claim::PolicyPushClosed => "policy push closes live connections",
            Claim::Passthrough => "outside the mesh, server-first",
            Claim::Canary => "waypoint: canary 95 to 5",
            Claim::Retries => "waypoint: retries hide failures",
            Claim::WeightsUnderLoad => "waypoint: weights change under load",
            Claim::HeaderMatch => "waypoint: header match",
            Claim::Rewrite => "waypoint: rewrite",
            Claim::Mirror => "waypoint: mirror",
        }
    }
}

/// What a check saw.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What it is about.
    pub claim: Claim,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What was seen, in words for a person.
    pub seen: String,
}

/// A measured number.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// What was measured; the report's key is this and the unit.
    pub name: &'static str,
    /// The number.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
}

/// What one back end showed.
#[derive(Clone, Debug, Default)]
pub struct BackEnd {
    findings: Vec<Finding>,
    measurements: Vec<Measurement>,
    routes: Option<Routes>,
}

impl BackEnd {
    /// Adds a finding. A claim that is found twice holds only when both are good.
    pub fn find(&mut self, claim: Claim, ok: bool, seen: impl Into<String>) {
        self.findings.push(Finding {
            claim,
            ok,
            seen: seen.into(),
        });
    }

    /// Adds a measured number.
    pub fn measure(&mut self, name: &'static str, value: f64, unit: &'static str) {
        self.measurements.push(Measurement { name, value, unit });
    }

    /// Sets what was counted of routes.
    pub fn routes(&mut self, routes: Routes) {
        self.routes = Some(routes);
    }

    /// Takes over everything of another.
    pub fn extend(&mut self, other: BackEnd) {
        self.routes = other.routes.or(self.routes);
        self.findings.extend(other.findings);
        self.measurements.extend(other.measurements);
    }

    /// Whether the claim was looked at and each look was good.
    pub fn holds(&self, claim: Claim) -> bool {
        let mut of_claim = self.of(claim).peekable();
        of_claim.peek().is_some() && of_claim.all(|finding| finding.ok)
    }

    /// What was seen, all looks at the claim.
    pub fn seen(&self, claim: Claim) -> String {
        let seen: Vec<&str> = self
            .of(claim)
            .map(|finding| finding.seen.as_str())
            .collect();
        if seen.is_empty() {
            "not looked at".to_owned()
        } else {
            seen.join("; ")
        }
    }

    fn of(&self, claim: Claim) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(move |finding| finding.claim == claim)
    }

    fn json(&self) -> Value {
        let mut fields = Map::new();
        let mut seen = Map::new();
        for claim in Claim::ALL {
            fields.insert(claim.field().to_owned(), json!(self.holds(claim)));
            seen.insert(claim.field().to_owned(), json!(self.seen(claim)));
        }
        fields.insert("seen".to_owned(), Value::Object(seen));
        let measured: Map<String, Value> = self
            .measurements
            .iter()
            .map(|m| {
                (
                    m.name.to_owned(),
                    json!({ "value": rounded(m.value), "unit": m.unit }),
                )
            })
            .collect();
        fields.insert("measured".to_owned(), Value::Object(measured));
        fields.extend(self.routes.iter().flat_map(Routes::fields));
        Value::Object(fields)
    }
}

/// The report of a run of the demo.
#[derive(Clone, Debug, Default)]
pub struct Report {
    back_ends: BTreeMap<String, BackEnd>,
    took: Duration,
}

impl Report {
    /// Adds what a back end showed.
    pub fn add(&mut self, io: &str, back_end: BackEnd) {
        self.back_ends.insert(io.to_owned(), back_end);
    }

    /// Sets the length of the whole run.
    pub fn finish(&mut self, took: Duration) {
        self.took = took;
    }

    /// Whether every back end that ran showed it.
    pub fn holds(&self, claim: Claim) -> bool {
        !self.back_ends.is_empty() && self.back_ends.values().all(|each| each.holds(claim))
    }

    /// Whether both back ends ran the scenario.
    pub fn both_ran(&self) -> bool {
        ["io_uring", "epoll"]
            .iter()
            .all(|io| self.back_ends.contains_key(*io))
    }

    /// The fields that are false; `io` only when both back ends were asked for.
    pub fn wrong(&self, both_wanted: bool) -> Vec<&'static str> {
        let claims = Claim::ALL
            .into_iter()
            .filter(|claim| !self.holds(*claim))
            .map(Claim::field);
        let io = (both_wanted && !self.both_ran()).then_some("io");
        claims.chain(io).collect()
    }

    /// The content of report.json.
    pub fn json(&self) -> String {
        let mut fields = Map::new();
        for claim in Claim::ALL {
            fields.insert(claim.field().to_owned(), json!(self.holds(claim)));
        }
        fields.insert("io".to_owned(), json!(self.both_ran()));
        let routes = self.back_ends.values().filter_map(|each| each.routes);
        let routes = routes.reduce(Routes::plus);
        fields.extend(routes.iter().flat_map(Routes::fields));
        let back_ends: Map<String, Value> = self
            .back_ends
            .iter()
            .map(|(io, each)| (io.clone(), each.json()))
            .collect();
        fields.insert("back_ends".to_owned(), Value::Object(back_ends));
        let took = json!({ "value": rounded(self.took.as_secs_f64()), "unit": "s" });
        fields.insert("took".to_owned(), took);
        format!("{:#}\n", Value::Object(fields))
    }

    /// The table for a person.
    pub fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED);
        table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(columns());
        let ios: Vec<&String> = self.back_ends.keys().rev().collect();
        let head = ["what the mesh shows".to_owned()].into_iter();
        table.set_header(
            head.chain(ios.iter().map(|io| (*io).clone()))
                .chain(["seen".to_owned()]),
        );
        for claim in Claim::ALL {
            let results = self.back_ends.values().rev().map(|each| each.holds(claim));
            let marks = results.map(|ok| if ok { "✓" } else { "✗ NO" }.to_owned());
            let row = [claim.words().to_owned()].into_iter().chain(marks);
            table.add_row(row.chain([self.worst(claim)]));
        }
        format!("{table}\n{}", self.measured())
    }

    /// What the first back end saw, or one that saw something wrong.
    fn worst(&self, claim: Claim) -> String {
        let mut back_ends = self.back_ends.values().rev();
        let wrong = self.back_ends.values().find(|each| !each.holds(claim));
        wrong
            .or_else(|| back_ends.next())
            .map(|each| each.seen(claim))
            .unwrap_or_default()
    }

    fn measured(&self) -> String {
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED);
        let ios: Vec<&String> = self.back_ends.keys().rev().collect();
        let head = ["measured".to_owned(), "unit".to_owned()].into_iter();
        table.set_header(head.chain(ios.iter().map(|io| (*io).clone())));
        let first = self
            .back_ends
            .values()
            .next_back()
            .map(|each| each.measurements.clone());
        for of_first in first.unwrap_or_default() {
            let values = self.back_ends.values().rev().map(|each| {
                let same = each.measurements.iter().find(|m| m.name == of_first.name);
                same.map_or("-".to_owned(), |m| rounded(m.value).to_string())
            });
            let name = [of_first.name.replace('_', " "), of_first.unit.to_owned()];
            table.add_row(name.into_iter().chain(values));
        }
        format!(
            "{table}\nthe whole run took {:.0} s",
            self.took.as_secs_f64()
        )
    }
}

/// The width of the terminal, asked of stty, which asks its stdin.
fn columns() -> u16 {
    if !(std::io::stdout().is_terminal() && std::io::stdin().is_terminal()) {
        return TABLE_COLUMNS;
    }
    let output = Command::new("stty")
        .arg("size")
        .stdin(Stdio::inherit())
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let columns = text
        .ok()
        .and_then(|text| text.split_whitespace().nth(1)?.parse().ok());
    columns
        .unwrap_or(TABLE_COLUMNS)
        .clamp(LEAST_COLUMNS, TABLE_COLUMNS)
}

/// Three digits after the point: finer than any of the measurements.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> BackEnd {
        let mut back_end = BackEnd::default();
        for claim in Claim::ALL {
            back_end.find(claim, true, "as it should be");
        }
        back_end
    }

    #[test]
    fn a_claim_that_nobody_looked_at_does_not_hold() {
        assert!(!BackEnd::default().holds(Claim::Passthrough));
        assert!(!Report::default().holds(Claim::Passthrough));
    }

    #[test]
    fn one_bad_look_at_one_back_end_makes_the_field_wrong_and_names_it() {
        let mut report = Report::default();
        report.add("io_uring", good());
        let mut bad = good();
        bad.find(Claim::SourceIpKept, false, "the node's address");
        report.add("epoll", bad);
        assert_eq!(report.wrong(true), ["source_ip_kept"]);
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["source_ip_kept"], false);
        assert_eq!(json["back_ends"]["io_uring"]["source_ip_kept"], true);
        assert_eq!(json["io"], true);
        assert!(
            report.table().contains("the node's address"),
            "{}",
            report.table()
        );
    }

    #[test]
    fn io_is_true_only_when_both_back_ends_ran() {
        let mut report = Report::default();
        report.add("epoll", good());
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["io"], false);
        assert_eq!(report.wrong(true), ["io"]);
        assert_eq!(report.wrong(false), Vec::<&str>::new());
    }
}
