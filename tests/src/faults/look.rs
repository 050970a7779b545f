//! What the processes of a bed say of themselves: access log, metrics, readiness, dump.

use std::time::Duration;

use anyhow::Context;
use cli::demo::access_log::{self, Record};
use serde_json::Value;
use world::stack::get;
use world::{Place, Pod, Process, Program};

use super::Bed;

/// A moment in the log of a node's proxy.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    node: usize,
    bytes: usize,
}

impl Bed {
    /// Now, in the log of a node's proxy.
    pub fn mark(&self, node: usize) -> Mark {
        let bytes = self.log_of(node).len();
        Mark { node, bytes }
    }

    /// What the proxy wrote since then.
    pub fn log_since(&self, mark: &Mark) -> String {
        let log = self.log_of(mark.node);
        log.get(mark.bytes..).unwrap_or_default().to_owned()
    }

    /// The access log since then.
    pub fn records(&self, mark: &Mark) -> Vec<Record> {
        access_log::records(&self.log_since(mark))
    }

    /// Waits for a line since then that has all the words.
    pub fn log_line(&self, mark: &Mark, words: &[&str], within: Duration) -> anyhow::Result<()> {
        let what = format!("a line of the proxy with {words:?}");
        self.eventually(&what, within, || {
            let log = self.log_since(mark);
            log.lines()
                .any(|line| words.iter().all(|word| line.contains(word)))
        })
    }

    /// Status and text of a proxy's readiness; 0 when it does not answer.
    pub fn readiness(&self, node: usize) -> (u16, String) {
        let place = self.parts[node].node.place();
        status(place, "http://127.0.0.1:15021/healthz/ready")
    }

    /// Status and text of the control plane's readiness; 0 when it does not answer.
    pub fn culvertd_readiness(&self) -> (u16, String) {
        let place = self.control.host().place();
        status(place, "http://127.0.0.1:15014/healthz/ready")
    }

    /// `/debug/status` of the control plane.
    pub fn culvertd_status(&self) -> anyhow::Result<Value> {
        let place = self.control.host().place();
        let text = get(place, "http://127.0.0.1:15014/debug/status")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Sum of a proxy's metric over all its labels that contain all the words.
    pub fn metric(&self, node: usize, name: &str, words: &[&str]) -> anyhow::Result<f64> {
        let place = self.parts[node].node.place();
        let text = get(place, "http://127.0.0.1:15020/metrics")?;
        let lines = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
                && words.iter().all(|word| line.contains(word))
        });
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }

    /// `/config_dump` of a proxy.
    pub fn dump(&self, node: usize) -> anyhow::Result<Value> {
        let place = self.parts[node].node.place();
        let text = get(place, "http://127.0.0.1:15000/config_dump")?;
        serde_json::from_str(&text).context("the dump is no JSON")
    }

    fn log_of(&self, node: usize) -> String {
        let ztunnel = self.parts[node].ztunnel.as_ref();
        ztunnel.map(Process::log).unwrap_or_default()
    }
}

/// Whether it is the pod's own proxy that speaks of a connection which the pod made.
pub(super) fn is_from(record: &Record, pod: &Pod) -> bool {
    let source = record.source_ip();
    record.is_outbound() && source.is_some_and(|ip| pod.addresses().contains(&ip))
}

fn status(place: &Place, url: &str) -> (u16, String) {
    let program = Program::line("curl -sS --max-time 5 -w \\n%{http_code}").arg(url);
    let said = place.text(&program).unwrap_or_default();
    let (body, code) = said.rsplit_once('\n').unwrap_or(("", &said));
    (code.trim().parse().unwrap_or(0), body.to_owned())
}
