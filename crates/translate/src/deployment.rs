//! Which waypoints culvertd has to see to: Gateways of a waypoint class that nobody else runs.
//! Says how many and when to replace them; where they run is none of its business.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::gateways::refusal;
use crate::object::{Meta, Name, Objects};
use crate::waypoints::is_waypoint_class;

/// Annotation of a Gateway: how many replicas of its waypoint run.
pub const REPLICAS_ANNOTATION: &str = "culvert.io/replicas";
/// Replicas without the annotation.
pub const DEFAULT_REPLICAS: u32 = 1;
/// Most replicas of a waypoint. One carries what some thousand clients send; pods are numbered by
/// replica and turn, and need a bound.
pub const MAX_REPLICAS: u32 = 16;

/// Annotations of a Gateway whose change replaces its running waypoints, one after another: ours,
/// and that of `kubectl rollout restart`.
pub const RESTART_ANNOTATIONS: [&str; 2] = [
    "culvert.io/restartedAt",
    "kubectl.kubernetes.io/restartedAt",
];

const GATEWAY_NAME_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// A waypoint that shall run. Its service account has the Gateway's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// How many, 0 to [`MAX_REPLICAS`]. None: the Gateway's number cannot be read, and what runs
    /// goes on: a slip of the pen must not end every connection.
    pub replicas: Option<u32>,
    /// Text that changes when running ones have to be replaced.
    pub revision: String,
}

/// How many replicas a Gateway asks for.
///
/// # Errors
/// A sentence for its status.
pub fn replicas(gateway: &Meta) -> Result<u32, String> {
    let Some(text) = gateway.annotation(REPLICAS_ANNOTATION) else {
        return Ok(DEFAULT_REPLICAS);
    };
    let read = text.parse().ok().filter(|count| *count <= MAX_REPLICAS);
    read.ok_or_else(|| {
        format!(
            "annotation {REPLICAS_ANNOTATION} is `{text}`, not a number from 0 to {MAX_REPLICAS}"
        )
    })
}

/// The waypoints to run: of every Gateway of a waypoint class that has the listener of one and no
/// Pod or Service of its own. A Gateway that is not accepted for anything else is run without it.
pub fn wanted(objects: &Objects) -> BTreeMap<Name, Wanted> {
    let served = of_their_own(objects);
    let mut wanted = BTreeMap::new();
    for (name, gateway) in &objects.gateways {
        let ours = is_waypoint_class(&gateway.spec.gateway_class_name)
            && !gateway.meta.deleting
            && !served.contains(name)
            && refusal(gateway).is_none();
        if !ours {
            continue;
        }
        let next = Wanted {
            // The status says why there is none.
            replicas: replicas(&gateway.meta).ok(),
            revision: revision(&gateway.meta),
        };
        wanted.insert(name.clone(), next);
    }
    wanted
}

/// Gateways that somebody runs by hand.
fn of_their_own(objects: &Objects) -> BTreeSet<Name> {
    let services = objects.services.values().map(|service| &service.meta);
    let pods = objects.pods.values().map(|pod| &pod.meta);
    let named = services.chain(pods).filter_map(|meta| {
        let gateway = meta.label(GATEWAY_NAME_LABEL)?;
        Some(Name::new(&meta.name.namespace, gateway))
    });
    named.collect()
}

fn revision(gateway: &Meta) -> String {
    let mut text = String::from("1");
    if let Some(uid) = &gateway.uid {
        let _ = write!(text, " {uid}");
    }
    for key in RESTART_ANNOTATIONS {
        if let Some(value) = gateway.annotation(key) {
            let _ = write!(text, " {value}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collection::Collection;

    const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate, namespace: shop}
spec:
  gatewayClassName: culvert-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
";

    fn objects(text: &str) -> Objects {
        let mut collection = Collection::default();
        collection.load("test.yaml", text);
        let (objects, errors) = collection.objects();
        assert_eq!(errors, []);
        objects
    }

    fn gate() -> Name {
        Name::new("shop", "gate")
    }

    #[test]
    fn a_gateway_of_a_waypoint_class_is_run_once_unless_it_says_how_often() {
        let plain = wanted(&objects(GATEWAY));
        assert_eq!(plain[&gate()].replicas, Some(1));
        let noted = "name: gate, annotations: {culvert.io/replicas: '3'}";
        let three = wanted(&objects(&GATEWAY.replace("name: gate", noted)));
        assert_eq!(three[&gate()].replicas, Some(3));
        assert_eq!(
            three[&gate()].revision,
            plain[&gate()].revision,
            "a count replaces nothing"
        );
        let other = GATEWAY.replace("culvert-waypoint", "nginx");
        assert!(wanted(&objects(&other)).is_empty());
    }

    #[test]
    fn a_number_of_replicas_that_is_none_is_not_wanted_and_the_bound_is_named() {
        for bad in ["17", "-1", "many", "1.5", ""] {
            let noted = format!("name: gate, annotations: {{culvert.io/replicas: '{bad}'}}");
            let objects = objects(&GATEWAY.replace("name: gate", &noted));
            let why = replicas(&objects.gateways[&gate()].meta).unwrap_err();
            assert!(why.contains("0 to 16") && why.contains(bad), "{why}");
            assert_eq!(wanted(&objects)[&gate()].replicas, None);
        }
    }

    #[test]
    fn a_gateway_with_a_service_or_a_pod_of_its_own_is_left_to_its_owner() {
        let labels = "labels: {gateway.networking.k8s.io/gateway-name: gate}";
        let service = format!(
            "---\napiVersion: v1\nkind: Service\n\
             metadata: {{name: gate, namespace: shop, {labels}}}\n\
             spec: {{ports: [{{name: hbone, port: 15008}}]}}\n"
        );
        let elsewhere = service.replace("namespace: shop", "namespace: other");
        assert!(wanted(&objects(&format!("{GATEWAY}{service}"))).is_empty());
        let other = wanted(&objects(&format!("{GATEWAY}{elsewhere}")));
        assert!(other.contains_key(&gate()));
    }

    #[test]
    fn a_gateway_without_the_listener_of_a_waypoint_is_not_run_and_one_that_asks_too_much_is() {
        let plain = GATEWAY.replace("protocol: HBONE", "protocol: HTTP");
        assert!(wanted(&objects(&plain)).is_empty());
        let parameters = "{parametersRef: {group: '', kind: ConfigMap, name: x}}";
        let asks = format!("{GATEWAY}  infrastructure: {parameters}\n");
        assert!(wanted(&objects(&asks)).contains_key(&gate()));
    }

    #[test]
    fn a_restart_that_is_asked_for_is_another_revision() {
        let noted = |at: &str| {
            let noted = format!("name: gate, annotations: {{culvert.io/restartedAt: '{at}'}}");
            wanted(&objects(&GATEWAY.replace("name: gate", &noted)))
        };
        assert_ne!(
            noted("monday")[&gate()].revision,
            noted("friday")[&gate()].revision
        );
    }
}
