//! Whether a pod shall be captured: labels of the pod and its namespace, as the ecosystem's default
//! selectors say. Knows nothing of whether it is.

use crate::object::{Objects, Pod};

/// Label of pods and namespaces.
const DATAPLANE_MODE_LABEL: &str = "istio.io/dataplane-mode";

/// Annotation that says a sidecar proxy was injected: it would be captured twice.
const SIDECAR_ANNOTATION: &str = "sidecar.istio.io/status";

/// Whether a pod shall be captured, and why (not) in a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Enrolment {
    pub enrol: bool,
    pub reason: String,
}

/// Decides on a pod.
pub fn enrolment(objects: &Objects, pod: &Pod) -> Enrolment {
    let (enrol, reason) = decide(objects, pod);
    Enrolment { enrol, reason }
}

fn decide(objects: &Objects, pod: &Pod) -> (bool, String) {
    if pod.host_network {
        return (false, "the pod shares its node's network".to_owned());
    }
    if pod.meta.annotation(SIDECAR_ANNOTATION).is_some() {
        return (
            false,
            format!("the pod has a sidecar (annotation {SIDECAR_ANNOTATION})"),
        );
    }
    match pod.meta.label(DATAPLANE_MODE_LABEL) {
        Some("ambient") => return (true, format!("pod label {DATAPLANE_MODE_LABEL}=ambient")),
        Some("none") => return (false, format!("pod label {DATAPLANE_MODE_LABEL}=none")),
        _ => {}
    }
    let namespace = &pod.meta.name.namespace;
    match objects.namespaces.get(namespace) {
        None => (false, format!("namespace {namespace} is not known")),
        Some(n) if n.meta.label(DATAPLANE_MODE_LABEL) == Some("ambient") => (
            true,
            format!("namespace label {DATAPLANE_MODE_LABEL}=ambient"),
        ),
        Some(_) => (
            false,
            format!("neither pod nor namespace has {DATAPLANE_MODE_LABEL}=ambient"),
        ),
    }
}
