//! Policies for services and gateways, and workloads that are for their waypoint only: from
//! manifests to what a proxy decides.

use mesh::decide::{InboundQuery, inbound};
use mesh::policy::Connection;
use mesh::policy::targeted::{Refusal, Targeted};
use mesh::route::book::Addressed;
use mesh::route::{GatewayKey, ServicePort};
use mesh::service::ServiceKey;
use mesh::workload::WorkloadUid;
use mesh::{Identity, PolicyKey, Snapshot};
use translate::Output;

use super::replica;

const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: wp}}
spec: {clusterIP: 10.96.0.80, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: plain, namespace: shop}
spec: {clusterIP: 10.96.0.81, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: node-a}
status: {podIP: 10.244.1.2}
---
apiVersion: v1
kind: Pod
metadata: {name: lone, namespace: shop}
spec: {nodeName: node-a}
status: {podIP: 10.244.1.3}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
";

fn translated(text: &str) -> Output {
    super::translated(text, &[replica("wp-0", "10.244.1.9", true, false)])
}

const TO_WEB: &str = "{kind: Service, name: web}";
const TO_WAYPOINT: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: wp}";
const TO_CLASS: &str =
    "{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}";
const FROM_BANK: &str = "rules: [{from: [{source: {namespaces: [bank]}}]}]";

fn policy(namespace: &str, target: &str, rest: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: p, namespace: {namespace}}}\n\
         spec: {{targetRefs: [{target}], {rest}}}\n---\n"
    )
}

/// Reason and message of what is said of the policy.
fn said(output: &Output) -> (String, String) {
    let all = output.statuses.iter();
    let mut own = all.filter(|(key, _)| key.to_string().starts_with("AuthorizationPolicy"));
    let (_, conditions) = own.next().unwrap();
    assert_eq!(conditions.len(), 1, "{conditions:?}");
    assert_eq!(conditions[0].kind, "WaypointAccepted");
    (
        conditions[0].reason.to_owned(),
        conditions[0].message.clone(),
    )
}

fn key(name: &str) -> ServiceKey {
    ServiceKey {
        namespace: "shop".into(),
        hostname: format!("{name}.shop.svc.cluster.local").into(),
    }
}

/// What the waypoint `gateway` says to a connection from a namespace to a service.
fn verdict(output: &Output, from: &str, service: &str, gateway: &str) -> Result<(), Refusal> {
    let mut all = Targeted::default();
    for policy in output.target_policies.values() {
        all.insert(policy.clone());
    }
    let peer = Identity::new("cluster.local", from, "client").unwrap();
    let source = "10.244.2.1".parse().unwrap();
    let connection = Connection::new(Some(&peer), source, "10.96.0.80:80".parse().unwrap());
    let to = ServicePort {
        service: key(service),
        port: 80,
    };
    let gateway = GatewayKey {
        namespace: "shop".into(),
        name: gateway.into(),
    };
    let addressed = Addressed {
        service: Some(&to),
        client_namespace: Some(from),
        gateway: Some(&gateway),
    };
    all.authorize(&addressed, &connection)
}

#[test]
fn what_l4_decides_is_enforced_at_the_targets_and_nowhere_else() {
    for (namespace, target) in [
        ("shop", TO_WEB),
        ("shop", TO_WAYPOINT),
        ("istio-system", TO_CLASS),
    ] {
        let output = translated(&format!("{MESH}{}", policy(namespace, target, FROM_BANK)));
        assert_eq!(said(&output).0, "Accepted", "{target}");
        let of_ztunnel = PolicyKey {
            namespace: namespace.into(),
            name: "p".into(),
        };
        assert!(!output.policies.contains_key(&of_ztunnel), "{target}");
        assert_eq!(verdict(&output, "bank", "web", "wp"), Ok(()), "{target}");
        let refused = verdict(&output, "park", "web", "wp");
        assert_eq!(refused, Err(Refusal::NotAllowed(1)), "{target}");
        let elsewhere = match target {
            TO_WEB => verdict(&output, "park", "other", "wp"),
            _ => verdict(&output, "park", "web", "other"),
        };
        assert_eq!(elsewhere, Ok(()), "{target}");
    }
    let ports = "action: DENY, rules: [{to: [{operation: {ports: ['80']}}]}]";
    let output = translated(&format!("{MESH}{}", policy("shop", TO_WEB, ports)));
    let refused = verdict(&output, "bank", "web", "wp").unwrap_err();
    assert!(matches!(refused, Refusal::Denied(_)), "{refused}");
}

#[test]
fn what_l4_cannot_decide_refuses_all_that_it_is_for_and_says_so() {
    for (rest, named) in [
        ("rules: [{to: [{operation: {paths: [/a]}}]}]", "paths"),
        ("rules: [{to: [{operation: {methods: [GET]}}]}]", "methods"),
        (
            "rules: [{to: [{operation: {hosts: [a.example]}}]}]",
            "hosts",
        ),
        (
            "rules: [{from: [{source: {requestPrincipals: ['*']}}]}]",
            "requestPrincipals",
        ),
        (
            "rules: [{when: [{key: 'request.headers[x]', values: [a]}]}]",
            "request.headers[x]",
        ),
        (
            "action: DENY, rules: [{from: [{source: {namespaces: [bank]}}], \
             to: [{operation: {paths: [/a]}}]}]",
            "paths",
        ),
        (
            "action: CUSTOM, provider: {name: x}, rules: [{}]",
            "the action CUSTOM",
        ),
    ] {
        let output = translated(&format!("{MESH}{}", policy("shop", TO_WEB, rest)));
        let (reason, message) = said(&output);
        assert_eq!(reason, "UnsupportedValue", "{rest}");
        assert!(
            message.contains(named) && message.contains("is refused"),
            "{message}"
        );
        for from in ["bank", "park"] {
            let refusal = verdict(&output, from, "web", "wp").unwrap_err();
            assert!(
                matches!(refusal, Refusal::Unenforceable(..)),
                "{rest}: {refusal}"
            );
        }
        assert_eq!(verdict(&output, "bank", "other", "wp"), Ok(()), "{rest}");
        assert!(
            output.policies.len() == 1,
            "only the STRICT that is always there: {rest}"
        );
    }
}

#[test]
fn a_target_that_is_not_there_or_not_bound_is_told() {
    for (namespace, target, reason) in [
        ("shop", "{kind: Service, name: no}", "TargetNotFound"),
        ("shop", "{kind: Service, name: plain}", "AncestorNotBound"),
        (
            "shop",
            "{kind: Service, name: web, namespace: bank}",
            "TargetNotFound",
        ),
        ("shop", "{kind: Pod, name: web}", "TargetNotFound"),
        ("bank", TO_WAYPOINT, "TargetNotFound"),
        ("shop", TO_CLASS, "TargetNotFound"),
    ] {
        let output = translated(&format!("{MESH}{}", policy(namespace, target, FROM_BANK)));
        assert_eq!(said(&output).0, reason, "{target}");
        assert!(output.target_policies.is_empty(), "{target}");
    }
    // What is there of several is enforced.
    let both = format!("{TO_WEB}, {{kind: Service, name: no}}");
    let output = translated(&format!("{MESH}{}", policy("shop", &both, FROM_BANK)));
    assert_eq!(said(&output).0, "TargetNotFound");
    assert!(verdict(&output, "park", "web", "wp").is_err());
}

/// Whether an identity of `shop` (None: plaintext) may connect to a pod.
fn enters(output: &Output, pod: &str, account: Option<&str>) -> bool {
    let mut snapshot = Snapshot::new();
    snapshot.set_policies_synced();
    for policy in output.policies.values() {
        snapshot.insert_policy(policy.clone());
    }
    let uid = WorkloadUid(format!("Kubernetes//Pod/shop/{pod}").into());
    let workload = &output.workloads[&uid];
    let peer = account.map(|account| Identity::new("cluster.local", "shop", account).unwrap());
    let query = InboundQuery {
        workload,
        destination: (workload.addresses[0], 8080).into(),
        source_ip: "10.244.1.9".parse().unwrap(),
        peer: peer.as_ref(),
    };
    inbound(&snapshot, &query).allowed
}

#[test]
fn a_workload_for_its_waypoint_only_takes_that_identity_over_hbone_alone() {
    let annotation = "annotations: {culvert.io/waypoint-only: 'true'}";
    let pod = MESH.replace(
        "labels: {app: web}}\nspec",
        &format!("labels: {{app: web}}, {annotation}}}\nspec"),
    );
    let namespace = MESH.replace("{name: shop}", &format!("{{name: shop, {annotation}}}"));
    for text in [&pod, &namespace] {
        let output = translated(text);
        assert!(enters(&output, "web", Some("wp")));
        assert!(!enters(&output, "web", Some("client")) && !enters(&output, "web", None));
        // The waypoint itself is for everybody.
        assert!(enters(&output, "wp-0", Some("client")));
    }
    assert!(
        enters(&translated(&pod), "lone", None),
        "it is another pod's annotation"
    );
    let output = translated(MESH);
    assert!(enters(&output, "web", None) && enters(&output, "web", Some("client")));
}

#[test]
fn a_workload_for_its_waypoint_only_without_one_is_for_nobody_and_says_so() {
    let text = MESH.replace(
        "{name: lone, namespace: shop}",
        "{name: lone, namespace: shop, annotations: {culvert.io/waypoint-only: 'true'}}",
    );
    let output = translated(&text);
    for peer in [None, Some("wp"), Some("client")] {
        assert!(!enters(&output, "lone", peer), "{peer:?}");
    }
    let all = output.statuses.iter();
    let mut own = all.filter(|(key, _)| key.to_string() == "Pod shop/lone");
    let (_, conditions) = own.next().unwrap();
    assert!(
        conditions.iter().any(|c| c.reason == "NoWaypoint"),
        "{conditions:?}"
    );
    // A namespace's annotation is lifted by the pod's own.
    let lifted = text
        .replace("waypoint-only: 'true'", "waypoint-only: 'false'")
        .replace(
            "{name: shop}",
            "{name: shop, annotations: {culvert.io/waypoint-only: 'true'}}",
        );
    assert!(enters(&translated(&lifted), "lone", None));
}

#[test]
fn an_audit_policy_for_a_target_goes_to_its_waypoint_and_decides_nothing() {
    for target in [TO_WEB, TO_WAYPOINT] {
        let rest = format!("action: AUDIT, {FROM_BANK}");
        let output = translated(&format!("{MESH}{}", policy("shop", target, &rest)));
        assert_eq!(said(&output), ("Accepted".to_owned(), String::new()));
        let made = output.target_policies.values().next().unwrap();
        assert!(made.audit && made.unenforceable.is_none());
        assert!(
            made.policy.dry_run,
            "a waypoint that knows no AUDIT does nothing"
        );
        assert_eq!(verdict(&output, "park", "web", "wp"), Ok(()));
        let peer = Identity::new("cluster.local", "bank", "client").unwrap();
        let source = "10.244.2.1".parse().unwrap();
        let to = "10.96.0.80:80".parse().unwrap();
        assert!(
            made.policy
                .matches(&Connection::new(Some(&peer), source, to))
        );
    }
    // With a condition that is not looked at it would note more than it was meant to.
    let paths = "action: AUDIT, rules: [{from: [{source: {namespaces: [bank]}}], \
                 to: [{operation: {paths: [/a]}}]}]";
    let output = translated(&format!("{MESH}{}", policy("shop", TO_WEB, paths)));
    let (reason, message) = said(&output);
    assert_eq!(reason, "UnsupportedValue");
    assert!(
        message.contains("paths") && message.contains("note nothing"),
        "{message}"
    );
    let made = output.target_policies.values().next().unwrap();
    assert!(made.policy.rules.is_empty() && made.audit);
    assert_eq!(verdict(&output, "bank", "web", "wp"), Ok(()));
}
