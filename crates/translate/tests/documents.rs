//! Reading of files: what is taken, what is refused and where, what stays of what was good.

#![allow(clippy::unwrap_used)] // The helpers are tests too.

use std::collections::BTreeSet;

use proptest::prelude::*;
use translate::collection::{Collection, SourceError};
use translate::document::{Document, Outcome, Refusal, Subject, parse};
use translate::object::{Exposure, Kind, Name, Object, TargetPort};

fn accepted(text: &str) -> Vec<Object> {
    let object = |document: Document| match document.outcome {
        Outcome::Accepted(object) => Object::clone(&object),
        Outcome::Refused(refusal) => panic!("{refusal:?}"),
    };
    parse(text).into_iter().map(object).collect()
}

fn refusals(text: &str) -> Vec<Refusal> {
    let refusal = |document: Document| match document.outcome {
        Outcome::Accepted(object) => panic!("accepted: {object:?}"),
        Outcome::Refused(refusal) => refusal,
    };
    parse(text).into_iter().map(refusal).collect()
}

fn pod(name: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{nodeName: n}}\n")
}

#[test]
fn defaults_are_those_of_the_api_server() {
    let text = "
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  nodeName: n
  containers: [{name: c, ports: [{name: http, containerPort: 8080},
    {name: dns, containerPort: 53, protocol: UDP}]}]
---
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {ports: [{port: 80}, {name: dns, port: 53, protocol: UDP}]}
";
    let [Object::Pod(pod), Object::Service(service)] = &accepted(text)[..] else {
        panic!("other kinds");
    };
    assert_eq!(pod.meta.name, Name::new("default", "p"));
    assert_eq!(&*pod.service_account, "default");
    assert_eq!(pod.ports.keys().collect::<Vec<_>>(), ["http"]);
    assert_eq!(service.exposure, Exposure::Allocate);
    let [port] = &service.ports[..] else {
        panic!("{:?}", service.ports)
    };
    assert_eq!((port.port, &port.target), (80, &TargetPort::Number(80)));
}

#[test]
fn a_mistake_is_reported_with_its_own_line() {
    let text = "# a comment\n---\n".to_owned()
        + &pod("a")
        + "--- # and another\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
           metadata: {name: p}\nspec:\n  action: DENY\n  rules:\n  - from:\n    - source:\n        \
           principal: [x]\n";
    let documents = parse(&text);
    assert_eq!(documents.iter().map(|d| d.line).collect::<Vec<_>>(), [3, 8]);
    let Outcome::Refused(refusal) = &documents[1].outcome else {
        panic!("accepted")
    };
    assert_eq!(refusal.line, 16, "{refusal:?}");
    assert!(
        refusal.reason.contains("unknown field `principal`"),
        "{}",
        refusal.reason
    );
    let Subject::Known(key) = &refusal.subject else {
        panic!("{refusal:?}")
    };
    assert_eq!(key.to_string(), "AuthorizationPolicy default/p");
}

#[test]
fn all_lines_in_a_reason_are_lines_of_the_file() {
    let [refusal] = &refusals("# one\n---\n# three\na: {b: c\nd: e\n")[..] else {
        panic!()
    };
    assert_eq!(refusal.line, 5, "{refusal:?}");
    assert!(
        refusal.reason.contains("at line 4 column 4"),
        "{}",
        refusal.reason
    );
}

#[test]
fn what_cannot_be_read_is_refused_with_a_reason_of_its_own() {
    let service = |spec: &str| {
        format!("{{apiVersion: v1, kind: Service, metadata: {{name: s}}, spec: {spec}}}")
    };
    let policy = |spec: &str| {
        format!(
            "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
             metadata: {{name: p}}, spec: {spec}}}"
        )
    };
    let peer = |spec: &str| {
        format!(
            "{{apiVersion: security.istio.io/v1beta1, kind: PeerAuthentication, \
             metadata: {{name: p}}, spec: {spec}}}"
        )
    };
    for (text, word) in [
        ("kind: Pod".to_owned(), "apiVersion"),
        ("just text".to_owned(), "apiVersion"),
        ("{{{".to_owned(), "column"),
        ("a: 1\na: 2".to_owned(), "duplicate"),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {}".to_owned(),
            "metadata.name",
        ),
        (pod("A_b"), "`A_b`"),
        (
            pod("a").replace("name: a", "name: a, namespace: x.y"),
            "`x.y`",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}".to_owned(),
            "spec is missing",
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment".to_owned(),
            "kind Deployment of apps/v1",
        ),
        (service("{clusterIP: 10.0.0.300}"), "10.0.0.300"),
        (service("{clusterIP: 127.0.0.1}"), "loopback"),
        (service("{clusterIPs: [10.0.0.1, 10.0.0.2]}"), "one family"),
        (service("{ports: [{port: 70000}]}"), "70000"),
        (
            service("{ports: [{port: 80}, {port: 80, name: b}]}"),
            "twice",
        ),
        (service("{ports: [{port: 80, protocol: QUIC}]}"), "QUIC"),
        (service("{internalTrafficPolicy: Near}"), "Near"),
        (policy("{action: MAYBE}"), "MAYBE"),
        (
            policy("{rules: [{from: [{source: {}}]}]}"),
            "rules[0]: a source",
        ),
        (
            policy("{rules: [{}, {to: [{operation: {}}]}]}"),
            "rules[1]: an operation",
        ),
        (
            policy("{rules: [{to: [{operation: {ports: ['http']}}]}]}"),
            "`http`",
        ),
        (
            policy("{rules: [{from: [{source: {ipBlocks: [10.0.0.0/99]}}]}]}"),
            "10.0.0.0/99",
        ),
        (
            policy("{rules: [{from: [{source: {serviceAccounts: [a/b/c]}}]}]}"),
            "a/b/c",
        ),
        (
            policy("{rules: [{when: [{key: source.ip, values: [x]}]}]}"),
            "`x`",
        ),
        (
            policy("{rules: [{when: [{key: destination.port, values: ['0']}]}]}"),
            "`0`",
        ),
        (
            policy("{rules: [{when: [{key: source.ip}]}]}"),
            "values or notValues",
        ),
        (
            policy("{rules: [{from: [{source: {principals: ['']}}]}]}"),
            "empty",
        ),
        (policy("{selector: {matchLabels: {a: 'x*'}}}"), "wildcard"),
        (
            policy("{selector: {matchLabels: {a: b}}, targetRefs: [{name: x}]}"),
            "exclude",
        ),
        (peer("{portLevelMtls: {80: {mode: STRICT}}}"), "selector"),
        (
            peer("{selector: {matchLabels: {a: b}}, portLevelMtls: {0: {mode: STRICT}}}"),
            "port",
        ),
        (peer("{mtls: {mode: strict}}"), "strict"),
        (peer("{mtls: {}, tls: {}}"), "unknown field `tls`"),
    ] {
        let refusals = refusals(&text);
        assert_eq!(refusals.len(), 1, "{text}");
        assert!(
            refusals[0].reason.contains(word),
            "no `{word}` in `{}`",
            refusals[0].reason
        );
    }
}

#[test]
fn a_list_is_the_documents_in_it() {
    let text = "{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [
      {\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"a\"}},
      {\"apiVersion\": \"v1\", \"kind\": \"Node\", \"metadata\": {\"name\": \"n\"}}]}";
    let kinds: Vec<Kind> = accepted(text).iter().map(|o| o.key().kind).collect();
    assert_eq!(kinds, [Kind::Namespace, Kind::Node]);
}

#[test]
fn ports_of_a_peer_authentication_are_numbers_in_yaml_and_texts_in_json() {
    for key in ["8080", "\"8080\""] {
        let text = format!(
            "{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: p}}, \
             spec: {{selector: {{matchLabels: {{a: b}}}}, \
             portLevelMtls: {{{key}: {{mode: DISABLE}}}}}}}}"
        );
        let [Object::PeerAuthentication(policy)] = &accepted(&text)[..] else {
            panic!("{text}")
        };
        assert_eq!(policy.port_modes.keys().collect::<Vec<_>>(), [&8080]);
    }
}

fn loaded(files: &[(&str, &str)]) -> Collection {
    let mut collection = Collection::default();
    for (name, text) in files {
        collection.load(name, text);
    }
    collection
}

fn pods(collection: &Collection) -> Vec<String> {
    collection
        .objects()
        .0
        .pods
        .keys()
        .map(|name| name.name.to_string())
        .collect()
}

fn errors(collection: &Collection) -> Vec<SourceError> {
    collection.objects().1
}

#[test]
fn a_bad_document_keeps_its_last_good_version_and_only_that() {
    let two = format!("{}---\n{}", pod("a"), pod("b"));
    let mut collection = loaded(&[("f", &two)]);
    // `b` is bad now, `a` is gone, `c` is new.
    let bad = pod("b").replace("nodeName: n", "nodeName: [n]");
    collection.load("f", &format!("{bad}---\n{}", pod("c")));
    assert_eq!(pods(&collection), ["b", "c"]);
    let [error] = &errors(&collection)[..] else {
        panic!("{:?}", errors(&collection))
    };
    assert!(
        error.last_good_kept && error.to_string().starts_with("f:4: "),
        "{error}"
    );
    // A bad one that never was good is nothing.
    collection.load("g", &bad.replace("name: b", "name: never"));
    assert_eq!(pods(&collection), ["b", "c"]);
    assert!(!errors(&collection)[1].last_good_kept);
    collection.load("f", &pod("c"));
    assert_eq!(pods(&collection), ["c"]);
}

#[test]
fn a_document_of_which_nothing_can_be_told_keeps_all_of_its_file() {
    let mut collection = loaded(&[("f", &format!("{}---\n{}", pod("a"), pod("b")))]);
    collection.load("f", &format!("{}---\n{{{{{{", pod("a")));
    assert_eq!(pods(&collection), ["a", "b"]);
    // A kind that is not read says nothing about the others.
    collection.load(
        "f",
        &format!("{}---\napiVersion: v1\nkind: Secret\n", pod("a")),
    );
    assert_eq!(pods(&collection), ["a"]);
    collection.refuse("f", "cannot be read".to_owned());
    assert_eq!(pods(&collection), ["a"]);
    collection.retain(&BTreeSet::new());
    assert_eq!(pods(&collection), [""; 0]);
}

#[test]
fn an_emptied_file_keeps_its_objects_and_one_of_comments_does_not() {
    for nothing in ["", "\n", "---\n", " \n---\n\n"] {
        let mut collection = loaded(&[("f", &pod("a"))]);
        collection.load("f", nothing);
        assert_eq!(pods(&collection), ["a"], "{nothing:?}");
        let [error] = &errors(&collection)[..] else {
            panic!("{:?}", errors(&collection))
        };
        assert!(error.last_good_kept && error.to_string().contains("empty"));
        collection.load("f", "# nothing here any more\n");
        assert_eq!(pods(&collection), [""; 0]);
        collection.load("f", nothing);
        assert_eq!(errors(&collection), []);
    }
}

#[test]
fn of_two_documents_of_one_object_the_first_by_name_counts() {
    let other = pod("a").replace("nodeName: n", "nodeName: m");
    for order in [["1", "2"], ["2", "1"]] {
        let mut collection = Collection::default();
        for name in order {
            collection.load(name, if name == "1" { &other } else { "" });
            if name == "2" {
                collection.load(name, &pod("a"));
            }
        }
        let (objects, errors) = collection.objects();
        let kept = objects.pods.values().next().unwrap();
        assert_eq!(kept.node.as_deref(), Some("m"));
        assert!(
            errors[0]
                .to_string()
                .contains("2:1: Pod default/a is already defined at 1:1")
        );
    }
}

#[test]
fn what_was_kept_comes_back_as_it_was() {
    let mut collection = loaded(&[("f", &format!("{}---\n{}", pod("a"), pod("b")))]);
    collection.load("f", "{{{");
    let kept = collection.export();
    let mut restored = Collection::restore(&kept);
    assert_eq!(restored.export(), kept);
    assert_eq!(restored.objects().0, collection.objects().0);
    // And goes on being the last good state.
    restored.load("f", "{{{");
    assert_eq!(pods(&restored), ["a", "b"]);
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(?s)[-#:{}a-z \\n\\[\\]\"',0-9]{0,400}") {
        let documents = parse(&text);
        let lines = 1..=text.lines().count().max(1);
        prop_assert!(documents.iter().all(|d| lines.contains(&d.line)));
    }

    #[test]
    fn no_damage_to_a_manifest_makes_the_reader_panic(at in 0usize..600, byte in 0u8..128) {
        let mut text = include_str!("mesh.yaml").as_bytes().to_vec();
        let at = at % text.len();
        text[at] = byte;
        let text = String::from_utf8_lossy(&text);
        for document in parse(&text) {
            if let Outcome::Refused(refusal) = document.outcome {
                prop_assert!(!refusal.reason.is_empty());
            }
        }
    }
}
