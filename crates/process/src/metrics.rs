//! Metrics that every process has: what was built, and how the xDS feed goes. Knows no route and no
//! traffic; names are those of `protocol.md` 9.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Prefix of the ecosystem's metrics.
pub const PREFIX: &str = "istio";

/// Labels of one message of the feed.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MessageLabels {
    /// Type URL.
    url: String,
}

/// Labels of one end of a stream.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TerminationLabels {
    reason: &'static str,
}

/// Labels of policies that could not be read.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct UnreadableLabels {
    /// What is in force instead.
    instead: &'static str,
}

/// How the xDS feed goes. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct XdsMetrics {
    messages: Family<MessageLabels, Counter>,
    rejected: Family<MessageLabels, Counter>,
    terminations: Family<TerminationLabels, Counter>,
    unreadable: Family<UnreadableLabels, Counter>,
}

impl XdsMetrics {
    /// Registers `istio_xds_message_total`, `istio_xds_connection_terminations_total`, and of ours
    /// `istio_xds_rejected_resources_total` and `istio_xds_unreadable_policies_total`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix(PREFIX);
        registry.register(
            "xds_message",
            "Messages received from the control plane",
            metrics.messages.clone(),
        );
        registry.register(
            "xds_rejected_resources",
            "Resources that were refused and answered with an error",
            metrics.rejected.clone(),
        );
        registry.register(
            "xds_connection_terminations",
            "Ends of the stream to the control plane, by reason",
            metrics.terminations.clone(),
        );
        registry.register(
            "xds_unreadable_policies",
            "Policies that could not be read, by what is in force instead",
            metrics.unreadable.clone(),
        );
        metrics
    }

    /// One message of the type `url`, which must be a known one (labels are never free text of a
    /// peer).
    pub(crate) fn message(&self, url: &'static str, rejected: usize) {
        let labels = MessageLabels {
            url: url.to_owned(),
        };
        self.messages.get_or_create(&labels).inc();
        self.rejected.get_or_create(&labels).inc_by(rejected as u64);
    }

    /// Policies that could not be read: so many deny what they apply to, of the others what was
    /// held before stays, or nothing where nothing can be told of them.
    pub(crate) fn unreadable_policies(&self, denying: usize, others: usize) {
        for (instead, count) in [("deny", denying), ("as_before", others)] {
            let labels = UnreadableLabels { instead };
            self.unreadable.get_or_create(&labels).inc_by(count as u64);
        }
    }

    pub(crate) fn terminated(&self, reason: &'static str) {
        self.terminations
            .get_or_create(&TerminationLabels { reason })
            .inc();
    }
}

/// Registers `istio_build_info{component,tag}`.
pub fn register_build(registry: &mut Registry, component: &'static str, tag: &'static str) {
    let build = Info::new(vec![("component", component), ("tag", tag)]);
    registry
        .sub_registry_with_prefix(PREFIX)
        .register("build", "What was built", build);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_ecosystem() {
        let mut registry = Registry::default();
        register_build(&mut registry, "ztunnel", "0.1.0");
        let metrics = XdsMetrics::register(&mut registry);
        metrics.message("type.googleapis.com/istio.workload.Address", 2);
        metrics.terminated("complete");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            r#"istio_build_info{component="ztunnel",tag="0.1.0"} 1"#,
            r#"istio_xds_message_total{url="type.googleapis.com/istio.workload.Address"} 1"#,
            r#"istio_xds_connection_terminations_total{reason="complete"} 1"#,
        ] {
            assert!(text.contains(line), "no `{line}` in\n{text}");
        }
    }
}
