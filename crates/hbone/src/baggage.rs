//! The `baggage` header of a tunnel: what the other side says about its workload. Told by the peer,
//! so it serves telemetry and never a decision.

use std::fmt;

use crate::headers::Headers;

/// Name of the header; it may come on several lines.
pub const BAGGAGE: &str = "baggage";

/// Longest value of one field in bytes; Kubernetes names end at 253.
pub const MAX_VALUE_BYTES: usize = 256;

/// Fields that are looked at over all lines of the header.
pub const MAX_FIELDS: usize = 64;

/// Kinds of workload that `k8s.<kind>.name` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadKind {
    /// A Deployment.
    Deployment,
    /// A CronJob.
    CronJob,
    /// A Pod.
    Pod,
    /// A Job.
    Job,
}

impl WorkloadKind {
    const ALL: [Self; 4] = [Self::Deployment, Self::CronJob, Self::Pod, Self::Job];

    /// Its word in the key.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
            Self::Job => "job",
        }
    }
}

/// A workload as baggage describes it; absent fields are `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`.
    pub cluster: Option<String>,
    /// `k8s.namespace.name`.
    pub namespace: Option<String>,
    /// `k8s.<kind>.name`: kind and name.
    pub workload: Option<(WorkloadKind, String)>,
    /// `service.name`: the canonical service.
    pub service: Option<String>,
    /// `service.version`: the canonical revision.
    pub version: Option<String>,
    /// `cloud.region`.
    pub region: Option<String>,
    /// `cloud.availability_zone`.
    pub zone: Option<String>,
}

impl Baggage {
    /// Reads all `baggage` lines. Unknown keys, malformed fields and what is past the bounds are
    /// skipped; of a key that repeats the first wins.
    pub fn of(headers: &Headers) -> Self {
        let mut baggage = Self::default();
        let fields = headers.get_all(BAGGAGE).flat_map(|line| line.split(','));
        for field in fields.take(MAX_FIELDS) {
            // Properties (after `;`) are allowed by W3C baggage and mean nothing to us.
            let member = field.split(';').next().unwrap_or_default();
            if let Some((key, value)) = member.split_once('=') {
                baggage.set(key.trim(), value.trim());
            }
        }
        baggage
    }

    fn set(&mut self, key: &str, value: &str) {
        if value.is_empty() || value.len() > MAX_VALUE_BYTES {
            return;
        }
        let slot = match key {
            "k8s.cluster.name" => &mut self.cluster,
            "k8s.namespace.name" => &mut self.namespace,
            "service.name" => &mut self.service,
            "service.version" => &mut self.version,
            "cloud.region" => &mut self.region,
            "cloud.availability_zone" => &mut self.zone,
            other => return self.set_workload(other, value),
        };
        slot.get_or_insert_with(|| value.to_owned());
    }

    fn set_workload(&mut self, key: &str, value: &str) {
        let kind = key
            .strip_prefix("k8s.")
            .and_then(|k| k.strip_suffix(".name"));
        let kind = kind.and_then(|k| WorkloadKind::ALL.into_iter().find(|w| w.as_str() == k));
        if let Some(kind) = kind {
            self.workload
                .get_or_insert_with(|| (kind, value.to_owned()));
        }
    }
}

/// A header value. Empty fields are left out, and so is a value that would break the format.
impl fmt::Display for Baggage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workload = self.workload.as_ref();
        let workload_key = workload.map(|(kind, _)| format!("k8s.{}.name", kind.as_str()));
        let fields = [
            ("k8s.cluster.name", self.cluster.as_ref()),
            ("k8s.namespace.name", self.namespace.as_ref()),
            (
                workload_key.as_deref().unwrap_or_default(),
                workload.map(|(_, name)| name),
            ),
            ("service.name", self.service.as_ref()),
            ("service.version", self.version.as_ref()),
            ("cloud.region", self.region.as_ref()),
            ("cloud.availability_zone", self.zone.as_ref()),
        ];
        let mut comma = "";
        for (key, value) in fields {
            let Some(value) = value.filter(|value| fits(value)) else {
                continue;
            };
            write!(f, "{comma}{key}={value}")?;
            comma = ",";
        }
        Ok(())
    }
}

/// Whether a value can stand in the header as it is (W3C baggage 3.3.1.3, without escapes).
fn fits(value: &str) -> bool {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b',' | b';' | b'"' | b'\\');
    !value.is_empty() && value.len() <= MAX_VALUE_BYTES && value.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Baggage {
        Baggage {
            cluster: Some("Kubernetes".into()),
            namespace: Some("shop".into()),
            workload: Some((WorkloadKind::Deployment, "web".into())),
            service: Some("web".into()),
            version: Some("v1".into()),
            region: Some("eu".into()),
            zone: Some("eu-1".into()),
        }
    }

    #[test]
    fn baggage_is_written_as_the_stock_part_writes_it_and_reads_back() {
        let text = full().to_string();
        assert_eq!(
            text,
            "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=web,\
             service.name=web,service.version=v1,cloud.region=eu,cloud.availability_zone=eu-1"
        );
        assert_eq!(Baggage::of(&Headers::new().with(BAGGAGE, text)), full());
    }

    #[test]
    fn several_lines_and_foreign_members_are_read() {
        let headers = Headers::new()
            .with(BAGGAGE, " k8s.pod.name = a ;p=1, userId=alice,garbage")
            .with(BAGGAGE, "k8s.pod.name=second,service.name=s");
        let baggage = Baggage::of(&headers);
        assert_eq!(baggage.workload, Some((WorkloadKind::Pod, "a".into())));
        assert_eq!(baggage.service.as_deref(), Some("s"));
        assert_eq!(baggage.namespace, None);
    }

    #[test]
    fn what_is_past_the_bounds_is_not_kept() {
        let long = format!("service.name={}", "x".repeat(MAX_VALUE_BYTES + 1));
        let many = "a=b,".repeat(MAX_FIELDS) + "service.version=v1";
        for text in [long, many] {
            assert_eq!(
                Baggage::of(&Headers::new().with(BAGGAGE, text)),
                Baggage::default()
            );
        }
    }

    #[test]
    fn a_value_that_would_forge_another_field_is_left_out() {
        let baggage = Baggage {
            namespace: Some("a,service.name=admin".into()),
            service: Some("é\r\n".into()),
            version: Some("v1".into()),
            ..Baggage::default()
        };
        assert_eq!(baggage.to_string(), "service.version=v1");
        assert_eq!(Baggage::default().to_string(), "");
    }
}
