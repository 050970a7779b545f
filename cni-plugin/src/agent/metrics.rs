//! The agent's metrics. Knows names and labels, nothing of what happens.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::record::Phase;
use crate::steering::fault::Cause;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    op: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

/// Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pods: Family<PhaseLabel, Gauge>,
    calls: Family<CallLabels, Counter>,
    /// Ready ztunnels.
    pub ztunnels: Gauge,
    /// Reports that the control plane did not take.
    pub failed_reports: Counter,
    /// 1 when the last report was taken.
    pub control_plane_reached: Gauge,
    /// Pods whose namespace vanished without a DEL.
    pub vanished: Counter,
    /// Pods whose record could not be read at start: they stay captured as they were.
    pub unreadable_records: Gauge,
    /// Rounds of the verification that are over.
    pub rounds: Counter,
    verified: Family<ResultLabel, Gauge>,
    repairs: Family<CauseLabel, Counter>,
    existing: Family<ResultLabel, Counter>,
}

impl Metrics {
    /// Registers all as `culvert_agent_…`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("culvert_agent");
        registry.register("pods", "Pods known, by phase", metrics.pods.clone());
        registry.register(
            "calls",
            "Calls of the plugin and of commands, by operation and result",
            metrics.calls.clone(),
        );
        registry.register("ztunnels", "Ready ztunnels", metrics.ztunnels.clone());
        registry.register(
            "failed_reports",
            "Reports of pods that the control plane did not take",
            metrics.failed_reports.clone(),
        );
        registry.register(
            "control_plane_reached",
            "Whether the last report was taken",
            metrics.control_plane_reached.clone(),
        );
        registry.register(
            "vanished_pods",
            "Pods whose namespace went away without a DEL",
            metrics.vanished.clone(),
        );
        registry.register(
            "unreadable_records",
            "Pods whose record could not be read at start; their capture stays as it was",
            metrics.unreadable_records.clone(),
        );
        registry.register(
            "verified_pods",
            "Enrolled pods by what the last verification of their capture found",
            metrics.verified.clone(),
        );
        registry.register(
            "verification_rounds",
            "Verifications of all enrolled pods that are over",
            metrics.rounds.clone(),
        );
        registry.register(
            "repairs",
            "Repairs of a pod's capture, by what was broken",
            metrics.repairs.clone(),
        );
        registry.register(
            "preenrolment_connections",
            "Connections that enrolments found, by what became of them",
            metrics.existing.clone(),
        );
        metrics
    }

    /// Sets the numbers of pods that were found captured, and not.
    pub fn set_verified(&self, captured: usize, broken: usize) {
        for (result, count) in [("captured", captured), ("not_captured", broken)] {
            let label = ResultLabel { result };
            self.verified.get_or_create(&label).set(count as i64);
        }
    }

    /// Counts connections from before an enrolment: `left` or `closed`.
    pub fn existing(&self, result: &'static str, count: usize) {
        let label = ResultLabel { result };
        self.existing.get_or_create(&label).inc_by(count as u64);
    }

    /// Counts a repair.
    pub fn repaired(&self, cause: Cause) {
        let label = CauseLabel {
            cause: cause.name(),
        };
        self.repairs.get_or_create(&label).inc();
    }

    /// Sets the number of pods in a phase.
    pub fn set_pods(&self, phase: Phase, count: usize) {
        let label = PhaseLabel {
            phase: phase.name(),
        };
        self.pods.get_or_create(&label).set(count as i64);
    }

    /// Counts a call.
    pub fn call(&self, op: &'static str, ok: bool) {
        let result = if ok { "ok" } else { "failed" };
        self.calls.get_or_create(&CallLabels { op, result }).inc();
    }
}
