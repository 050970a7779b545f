//! Messages between agent and ztunnel.

use proptest::prelude::*;
use prost::Message;
use proto::wire::zds as wire;
use proto::zds::{Ack, Add, Hello, ListenerRole, MAX_MESSAGE_BYTES, PodInfo, Request};
use proto::{decode, encode};
use wire::workload_request::Payload;

fn refused(payload: Option<Payload>) -> String {
    let bytes = wire::WorkloadRequest { payload }.encode_to_vec();
    decode::zds_request(&bytes).unwrap_err().to_string()
}

fn add(uid: &str, listeners: Vec<i32>) -> Option<Payload> {
    Some(Payload::Add(wire::AddWorkload {
        uid: uid.into(),
        workload_info: None,
        listeners,
    }))
}

#[test]
fn every_wrong_field_of_a_request_is_named() {
    let keep = |uid: &str| Some(Payload::Keep(wire::KeepWorkload { uid: uid.into() }));
    let del = |uid: &str| Some(Payload::Del(wire::DelWorkload { uid: uid.into() }));
    let long = "x".repeat(129);
    let cases = [
        (None, "payload: is absent"),
        (add("", vec![]), "add.uid: is absent"),
        (add("../x", vec![]), "add.uid: `../x` is not of the form"),
        (add("..", vec![]), "add.uid: `..` is not of the form"),
        (add("a\nb", vec![]), "add.uid: "),
        (add(&long, vec![]), "add.uid: has 129 bytes, 128 at most"),
        (keep(""), "keep.uid: is absent"),
        (del("a/b"), "del.uid: `a/b`"),
        (add("u", vec![0]), "add.listeners[0]: is absent"),
        (add("u", vec![1, 7]), "add.listeners[1]: 7 is no value"),
        (
            add("u", vec![1, 2, 1]),
            "add.listeners: a role that comes twice",
        ),
    ];
    for (payload, expected) in cases {
        let text = refused(payload);
        assert!(
            text.starts_with("WorkloadRequest: ") && text.contains(expected),
            "{text}"
        );
    }
}

#[test]
fn another_version_is_refused() {
    for (version, expected) in [(0, "version: is absent"), (2, "version: 2 is no value")] {
        let hello = wire::ZdsHello {
            version,
            accepts_listeners: true,
        };
        let text = decode::zds_hello(&hello.encode_to_vec())
            .unwrap_err()
            .to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn an_answer_without_content_is_refused() {
    assert!(
        decode::zds_ack(&[])
            .unwrap_err()
            .to_string()
            .contains("payload: is absent")
    );
}

#[test]
fn a_message_longer_than_the_buffer_is_refused_both_ways() {
    let bytes = vec![0; MAX_MESSAGE_BYTES + 1];
    let expected = "bytes: has 1025 bytes, 1024 at most are allowed";
    for text in [
        decode::zds_hello(&bytes).unwrap_err().to_string(),
        decode::zds_request(&bytes).unwrap_err().to_string(),
        decode::zds_ack(&bytes).unwrap_err().to_string(),
    ] {
        assert!(text.ends_with(expected), "{text}");
    }
    let name = "x".repeat(MAX_MESSAGE_BYTES);
    let pod = PodInfo {
        name,
        namespace: "a".into(),
        service_account: "b".into(),
    };
    let request = Request::Add(Add {
        uid: "u".into(),
        pod: Some(pod),
        listeners: vec![],
    });
    assert!(encode::zds_request(&request).is_err());
}

#[test]
fn a_long_error_is_cut_to_fit_a_message() {
    for letter in ["x", "ü", "\u{1F6B0}"] {
        let bytes = encode::zds_ack(&Ack {
            error: Some(letter.repeat(5000)),
        });
        assert!(bytes.len() <= MAX_MESSAGE_BYTES, "{}", bytes.len());
        let error = decode::zds_ack(&bytes).unwrap().error.unwrap();
        assert!(error.len() > 1000 && error.starts_with(letter));
    }
}

#[test]
fn the_longest_names_of_kubernetes_fit_a_message() {
    let pod = PodInfo {
        name: "x".repeat(253),
        namespace: "x".repeat(63),
        service_account: "x".repeat(253),
    };
    let listeners = ListenerRole::ALL.to_vec();
    let request = Request::Add(Add {
        uid: "x".repeat(36),
        pod: Some(pod),
        listeners,
    });
    assert_eq!(
        decode::zds_request(&encode::zds_request(&request).unwrap()),
        Ok(request)
    );
}

fn uid() -> impl Strategy<Value = String> {
    "[a-z0-9][a-z0-9-]{0,35}"
}

fn request() -> impl Strategy<Value = Request> {
    let pod =
        ("[a-z]{1,9}", "[a-z]{1,9}", "[a-z]{0,9}").prop_map(|(name, namespace, account)| PodInfo {
            name,
            namespace,
            service_account: account,
        });
    let roles = proptest::sample::subsequence(ListenerRole::ALL.to_vec(), 0..=6).prop_shuffle();
    let add = (uid(), proptest::option::of(pod), roles).prop_map(|(uid, pod, listeners)| {
        Request::Add(Add {
            uid,
            pod,
            listeners,
        })
    });
    prop_oneof![
        4 => add,
        1 => uid().prop_map(|uid| Request::Keep { uid }),
        1 => uid().prop_map(|uid| Request::Delete { uid }),
        1 => Just(Request::SnapshotSent),
    ]
}

proptest! {
    #[test]
    fn a_request_comes_back_as_it_went(request in request()) {
        let bytes = encode::zds_request(&request).unwrap();
        prop_assert_eq!(decode::zds_request(&bytes).unwrap(), request);
    }

    #[test]
    fn an_answer_comes_back_as_it_went(error in "[a-z ü]{0,40}") {
        let ack = Ack { error: (!error.is_empty()).then_some(error) };
        prop_assert_eq!(decode::zds_ack(&encode::zds_ack(&ack)).unwrap(), ack);
    }

    #[test]
    fn a_hello_comes_back_as_it_went(accepts_listeners in any::<bool>()) {
        let hello = Hello { accepts_listeners };
        prop_assert_eq!(decode::zds_hello(&encode::zds_hello(&hello)).unwrap(), hello);
    }
}
