//! What policies come to: not their form but whom they let in.

#![allow(clippy::unwrap_used)] // The helpers are tests too.

use std::net::IpAddr;

use mesh::Identity;
use mesh::policy::{Action, Connection, Policy, PolicyKey, Scope};
use proptest::prelude::*;
use translate::{Allocations, Collection, Input, Options, Output, Status, translate};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: n, serviceAccountName: web}
status: {podIP: 10.244.1.2}
---
";

fn translated(text: &str) -> Output {
    let mut collection = Collection::default();
    collection.load("f.yaml", &format!("{POD}{text}"));
    let (objects, errors) = collection.objects();
    assert!(errors.is_empty(), "{errors:?}");
    let (vips, options) = (Allocations::new(), Options::default());
    translate(&Input {
        objects: &objects,
        reports: &[],
        vips: &vips,
        options: &options,
    })
}

fn authorization(namespace: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: p, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )
}

fn peer(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n---\n"
    )
}

fn policy(spec: &str) -> Policy {
    translated(&authorization("shop", spec)).policies[&key("shop", "p")].clone()
}

fn key(namespace: &str, name: &str) -> PolicyKey {
    PolicyKey {
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn listed(output: &Output) -> Vec<String> {
    let web = output
        .workloads
        .values()
        .next()
        .expect("the pod is a workload");
    web.policies.iter().map(ToString::to_string).collect()
}

/// Whether a policy matches a connection from an account of a namespace (`-`: plaintext) to a port.
fn matches(policy: &Policy, from: &str, ip: &str, port: u16) -> bool {
    let identity = from
        .split_once('/')
        .map(|(namespace, account)| Identity::new("cluster.local", namespace, account).unwrap());
    let destination = std::net::SocketAddr::new("10.244.1.2".parse().unwrap(), port);
    let source: IpAddr = ip.parse().unwrap();
    policy.matches(&Connection::new(identity.as_ref(), source, destination))
}

#[test]
fn the_scope_follows_selector_and_namespace() {
    let scope = |namespace: &str, selector: &str| {
        let output = translated(&authorization(namespace, &format!("{{{selector}}}")));
        let listed = listed(&output);
        (output.policies[&key(namespace, "p")].scope, listed)
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(scope("shop", ""), (Scope::Namespace, none.clone()));
    assert_eq!(
        scope("shop", "selector: {}"),
        (Scope::Namespace, none.clone())
    );
    assert_eq!(scope("istio-system", ""), (Scope::Global, none.clone()));
    let selected = "selector: {matchLabels: {app: web}}";
    assert_eq!(
        scope("shop", selected),
        (Scope::WorkloadSelector, vec!["shop/p".to_owned()])
    );
    assert_eq!(
        scope("other", selected),
        (Scope::WorkloadSelector, none.clone())
    );
    let root = vec!["istio-system/p".to_owned()];
    assert_eq!(
        scope("istio-system", selected),
        (Scope::WorkloadSelector, root)
    );
    let others = "selector: {matchLabels: {app: db}}";
    assert_eq!(scope("shop", others), (Scope::WorkloadSelector, none));
}

#[test]
fn every_condition_of_l4_does_what_it_says() {
    for (rule, hits, misses) in [
        (
            "from: [{source: {principals: [cluster.local/ns/a/sa/b]}}]",
            "a/b 1.1.1.1 80",
            "a/c 1.1.1.1 80",
        ),
        (
            "from: [{source: {principals: ['spiffe://cluster.local/ns/a/sa/b']}}]",
            "a/b 1.1.1.1 80",
            "- 1.1.1.1 80",
        ),
        (
            "from: [{source: {principals: ['*']}}]",
            "a/b 1.1.1.1 80",
            "- 1.1.1.1 80",
        ),
        (
            "from: [{source: {principals: ['*/sa/b']}}]",
            "x/b 1.1.1.1 80",
            "x/c 1.1.1.1 80",
        ),
        (
            "from: [{source: {principals: ['cluster.local/ns/a/*']}}]",
            "a/x 1.1.1.1 80",
            "b/x 1.1.1.1 80",
        ),
        (
            "from: [{source: {notPrincipals: ['*']}}]",
            "- 1.1.1.1 80",
            "a/b 1.1.1.1 80",
        ),
        (
            "from: [{source: {namespaces: [a]}}]",
            "a/b 1.1.1.1 80",
            "aa/b 1.1.1.1 80",
        ),
        (
            "from: [{source: {notNamespaces: [a]}}]",
            "b/b 1.1.1.1 80",
            "a/b 1.1.1.1 80",
        ),
        (
            "from: [{source: {serviceAccounts: [b]}}]",
            "shop/b 1.1.1.1 80",
            "a/b 1.1.1.1 80",
        ),
        (
            "from: [{source: {serviceAccounts: [a/b]}}]",
            "a/b 1.1.1.1 80",
            "shop/b 1.1.1.1 80",
        ),
        (
            "from: [{source: {notServiceAccounts: [a/b]}}]",
            "shop/b 1.1.1.1 80",
            "a/b 1.1.1.1 80",
        ),
        (
            "from: [{source: {ipBlocks: [10.1.0.0/16, 192.0.2.1]}}]",
            "- 10.1.9.9 80",
            "- 10.2.0.1 80",
        ),
        (
            "from: [{source: {notIpBlocks: ['fd00::/8']}}]",
            "- 10.1.9.9 80",
            "- fd00::1 80",
        ),
        (
            "to: [{operation: {ports: ['80', '81']}}]",
            "- 1.1.1.1 81",
            "- 1.1.1.1 82",
        ),
        (
            "to: [{operation: {notPorts: ['80']}}]",
            "- 1.1.1.1 81",
            "- 1.1.1.1 80",
        ),
        (
            "when: [{key: source.ip, values: [10.0.0.0/8], notValues: [10.1.0.0/16]}]",
            "- 10.2.0.1 1",
            "- 10.1.0.1 1",
        ),
        (
            "when: [{key: source.principal, values: ['*/sa/b']}]",
            "a/b 1.1.1.1 1",
            "a/c 1.1.1.1 1",
        ),
        (
            "when: [{key: source.namespace, notValues: [a]}]",
            "b/b 1.1.1.1 1",
            "a/b 1.1.1.1 1",
        ),
        (
            "when: [{key: destination.ip, values: [10.244.1.2]}]",
            "- 1.1.1.1 1",
            "",
        ),
        (
            "when: [{key: destination.ip, notValues: [10.244.1.0/24]}]",
            "",
            "- 1.1.1.1 1",
        ),
        (
            "when: [{key: destination.port, values: ['8080']}]",
            "- 1.1.1.1 8080",
            "- 1.1.1.1 80",
        ),
        (
            "from: [{source: {namespaces: [a]}}], to: [{operation: {ports: ['80']}}]",
            "a/b 1.1.1.1 80",
            "a/b 1.1.1.1 81",
        ),
        (
            "from: [{source: {namespaces: [a]}}, {source: {namespaces: [b]}}]",
            "b/b 1.1.1.1 80",
            "c/b 1.1.1.1 80",
        ),
        ("", "- 1.1.1.1 80", ""),
    ] {
        for action in ["ALLOW", "DENY"] {
            let policy = policy(&format!("{{action: {action}, rules: [{{{rule}}}]}}"));
            for (connection, expected) in [(hits, true), (misses, false)] {
                let parts: Vec<&str> = connection.split(' ').collect();
                if let [from, ip, port] = parts[..] {
                    let port = port.parse().unwrap();
                    assert_eq!(
                        matches(&policy, from, ip, port),
                        expected,
                        "{rule}: {connection}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_policy_without_rules_matches_nothing() {
    for spec in ["{}", "{rules: []}"] {
        let policy = policy(spec);
        assert!(
            policy.rules.is_empty() && !matches(&policy, "a/b", "1.1.1.1", 80),
            "{spec}"
        );
    }
}

#[test]
fn an_allow_rule_that_l4_cannot_see_through_allows_nobody() {
    let text = authorization(
        "shop",
        "{rules: [{to: [{operation: {methods: [GET]}}]}, {from: [{source: {namespaces: [a]}}]}]}",
    );
    let output = translated(&text);
    let policy = &output.policies[&key("shop", "p")];
    assert_eq!((policy.action, policy.rules.len()), (Action::Allow, 1));
    assert!(matches(policy, "a/b", "1.1.1.1", 80) && !matches(policy, "c/b", "1.1.1.1", 80));
    let condition = &output.statuses.values().next().unwrap()[0];
    assert_eq!(
        (condition.kind, condition.status),
        ("ZtunnelAccepted", Status::False)
    );
    assert_eq!(condition.reason, "UnsupportedValue");
    assert!(
        condition.message.contains("methods"),
        "{}",
        condition.message
    );
    // With only such rules the policy is still there, and allows nobody.
    for rule in [
        "{when: [{key: 'request.headers[x]', values: [a]}]}",
        "{from: [{source: {requestPrincipals: ['*']}}]}",
        "{from: [{source: {namespaces: [a], remoteIpBlocks: [10.0.0.0/8]}}]}",
        "{to: [{operation: {ports: ['80'], paths: [/x]}}]}",
    ] {
        assert_eq!(policy_rules(&format!("{{rules: [{rule}]}}")), 0, "{rule}");
    }
}

fn policy_rules(spec: &str) -> usize {
    policy(spec).rules.len()
}

#[test]
fn a_deny_rule_denies_by_what_l4_can_see_of_it() {
    let mixed = policy(
        "{action: DENY, rules: [{from: [{source: {namespaces: [a]}}], \
         to: [{operation: {methods: [GET]}}]}]}",
    );
    assert!(matches(&mixed, "a/b", "1.1.1.1", 80) && !matches(&mixed, "b/b", "1.1.1.1", 80));
    let one =
        policy("{action: DENY, rules: [{to: [{operation: {ports: ['80'], methods: [GET]}}]}]}");
    assert!(matches(&one, "-", "1.1.1.1", 80) && !matches(&one, "-", "1.1.1.1", 81));
    // With nothing left it has no effect, rather than denying everybody.
    assert_eq!(
        policy_rules("{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}"),
        0
    );
    assert_eq!(
        policy_rules(
            "{action: DENY, rules: [{when: [{key: 'request.auth.claims[x]', values: [a]}]}]}"
        ),
        0
    );
}

#[test]
fn what_ztunnel_has_no_action_for_is_not_sent_and_says_so() {
    for spec in [
        "{action: AUDIT}",
        "{action: CUSTOM, provider: {name: x}}",
        "{targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: wp}]}",
    ] {
        let output = translated(&authorization("shop", spec));
        assert!(!output.policies.contains_key(&key("shop", "p")), "{spec}");
        let condition = &output.statuses.values().next().unwrap()[0];
        assert_eq!(condition.status, Status::False, "{spec}");
    }
}

#[test]
fn dry_run_is_the_word_true_and_nothing_else() {
    for (value, expected) in [("'true'", true), ("'false'", false), ("'yes'", false)] {
        let text = authorization("shop", "{}").replace(
            "name: p,",
            &format!("name: p, annotations: {{istio.io/dry-run: {value}}},"),
        );
        assert_eq!(
            translated(&text).policies[&key("shop", "p")].dry_run,
            expected,
            "{value}"
        );
    }
}

/// Whether plaintext to a port of the pod is refused by what the pod lists.
fn refuses_plaintext(output: &Output, port: u16) -> bool {
    let web = output.workloads.values().next().unwrap();
    web.policies.iter().any(|key| {
        let policy = &output.policies[key];
        assert!(
            !matches(policy, "a/b", "1.1.1.1", port),
            "{key} refuses who is known"
        );
        policy.action == Action::Deny && matches(policy, "-", "1.1.1.1", port)
    })
}

#[test]
fn the_narrowest_peer_authentication_counts() {
    let select = "selector: {matchLabels: {app: web}}";
    let mode = |mode: &str| format!("{{mtls: {{mode: {mode}}}}}");
    let selected = |mode: &str| format!("{{{select}, mtls: {{mode: {mode}}}}}");
    for (mesh, namespace, workload, strict) in [
        ("", "", "", false),
        ("STRICT", "", "", true),
        ("STRICT", "PERMISSIVE", "", false),
        ("STRICT", "DISABLE", "", false),
        ("STRICT", "UNSET", "", true),
        ("", "STRICT", "", true),
        ("", "STRICT", "PERMISSIVE", false),
        ("STRICT", "PERMISSIVE", "STRICT", true),
        ("STRICT", "PERMISSIVE", "UNSET", false),
        ("PERMISSIVE", "", "STRICT", true),
    ] {
        let mut text = String::new();
        if !mesh.is_empty() {
            text += &peer("istio-system", "default", &mode(mesh));
        }
        if !namespace.is_empty() {
            text += &peer("shop", "default", &mode(namespace));
        }
        if !workload.is_empty() {
            text += &peer("shop", "web", &selected(workload));
        }
        let output = translated(&text);
        let case = format!("{mesh}/{namespace}/{workload}");
        assert_eq!(refuses_plaintext(&output, 80), strict, "{case}");
        let of_others = translated(&text.replace("app: web}}", "app: db}}"));
        assert!(listed(&of_others).len() <= 1, "{case}");
    }
}

#[test]
fn ports_are_exceptions_both_ways() {
    let with = |mode: &str, ports: &str| {
        let spec = format!(
            "{{selector: {{matchLabels: {{app: web}}}}, mtls: {{mode: {mode}}}, \
             portLevelMtls: {{{ports}}}}}"
        );
        translated(&peer("shop", "web", &spec))
    };
    let output = with(
        "STRICT",
        "8080: {mode: PERMISSIVE}, 9090: {mode: DISABLE}, 80: {mode: STRICT}",
    );
    assert_eq!(listed(&output), ["shop/converted_peer_authentication_web"]);
    for (port, refused) in [(8080, false), (9090, false), (80, true), (1, true)] {
        assert_eq!(refuses_plaintext(&output, port), refused, "{port}");
    }
    let output = with("PERMISSIVE", "8080: {mode: STRICT}, 80: {mode: UNSET}");
    for (port, refused) in [(8080, true), (80, false), (1, false)] {
        assert_eq!(refuses_plaintext(&output, port), refused, "{port}");
    }
    // Ports that change nothing need no policy of their own.
    let output = with("STRICT", "80: {mode: STRICT}");
    assert_eq!(
        listed(&output),
        ["istio-system/istio_converted_static_strict"]
    );
    assert_eq!(listed(&with("PERMISSIVE", "80: {mode: DISABLE}")), [""; 0]);
}

proptest! {
    /// Whatever L7 conditions are mixed in, an ALLOW policy never allows more for it, and a DENY
    /// rule with an L4 condition never denies less.
    #[test]
    fn conditions_that_l4_cannot_see_never_open_anything(
        l4 in 0usize..4,
        l7 in 0usize..4,
        namespace in "[ab]",
        port in prop::sample::select(vec![80u16, 81]),
    ) {
        let l4 = [
            "namespaces: [a]",
            "notNamespaces: [b]",
            "principals: ['*']",
            "ipBlocks: [1.0.0.0/8]",
        ][l4];
        let l7 = [
            "to: [{operation: {methods: [GET]}}]",
            "to: [{operation: {hosts: [x]}}]",
            "when: [{key: 'request.headers[x]', values: [y]}]",
            "when: [{key: connection.sni, values: [y]}]",
        ][l7];
        let from = format!("{namespace}/x");
        let matched = |action: &str, rule: &str| {
            let policy = policy(&format!("{{action: {action}, rules: [{{{rule}}}]}}"));
            matches(&policy, &from, "1.1.1.1", port)
        };
        let plain = format!("from: [{{source: {{{l4}}}}}]");
        let mixed = format!("{plain}, {l7}");
        prop_assert!(!matched("ALLOW", &mixed));
        prop_assert_eq!(matched("DENY", &mixed), matched("DENY", &plain));
    }
}
