//! Every way in which a policy can be wrong, and that what is not understood lets nothing in.

use mesh::policy::{Action, Connection, Scope};
use mesh::{Identity, Policy};
use prost::Message;
use prost_types::Any;
use proto::decode;
use proto::wire::security as wire;
use wire::string_match::MatchType;

fn text(match_type: Option<MatchType>) -> wire::StringMatch {
    wire::StringMatch { match_type }
}

fn exact(value: &str) -> wire::StringMatch {
    text(Some(MatchType::Exact(value.into())))
}

fn policy(action: wire::Action, matches: Vec<wire::Match>) -> wire::Authorization {
    wire::Authorization {
        name: "p".into(),
        namespace: "shop".into(),
        scope: wire::Scope::Namespace.into(),
        action: action.into(),
        rules: vec![wire::Rule {
            clauses: vec![wire::Clause { matches }],
        }],
        ..wire::Authorization::default()
    }
}

fn read(message: &wire::Authorization) -> Policy {
    decode::policy(&message.encode_to_vec()).unwrap()
}

fn shop() -> wire::Match {
    wire::Match {
        namespaces: vec![exact("shop")],
        ..wire::Match::default()
    }
}

/// Whether the policy matches a connection from namespace `shop`.
fn matches(policy: &Policy) -> bool {
    let peer = Identity::new("cluster.local", "shop", "web").unwrap();
    let ip = "10.0.0.1".parse().unwrap();
    policy.matches(&Connection::new(
        Some(&peer),
        ip,
        "10.0.0.2:80".parse().unwrap(),
    ))
}

#[test]
fn every_wrong_field_of_a_policy_is_named() {
    type Spoil = Box<dyn FnOnce(&mut wire::Authorization)>;
    let cases: Vec<(&str, Spoil)> = vec![
        ("name: is absent", Box::new(|p| p.name.clear())),
        ("namespace: is absent", Box::new(|p| p.namespace.clear())),
        (
            "namespace: is absent",
            Box::new(|p| {
                p.namespace.clear();
                p.scope = wire::Scope::WorkloadSelector.into();
            }),
        ),
        ("scope: 3 is no value", Box::new(|p| p.scope = 3)),
        ("action: 2 is no value", Box::new(|p| p.action = 2)),
    ];
    for (expected, spoil) in cases {
        let mut message = policy(wire::Action::Deny, vec![shop()]);
        spoil(&mut message);
        let text = decode::policy(&message.encode_to_vec())
            .unwrap_err()
            .to_string();
        assert!(
            text.starts_with("policy `") && text.contains(expected),
            "{text}"
        );
    }
}

#[test]
fn every_wrong_field_of_a_match_is_named() {
    let m = wire::Match::default;
    let range = |address: &[u8], length| wire::Address {
        address: address.to_vec(),
        length,
    };
    let account = |namespace: &str, account: &str| wire::ServiceAccountMatch {
        namespace: namespace.into(),
        service_account: account.into(),
    };
    let cases = [
        (
            "namespaces[0].match_type",
            wire::Match {
                namespaces: vec![text(None)],
                ..m()
            },
        ),
        (
            "not_namespaces[0].match_type",
            wire::Match {
                not_namespaces: vec![text(None)],
                ..m()
            },
        ),
        (
            "principals[1].match_type: is absent",
            wire::Match {
                principals: vec![exact("a"), text(None)],
                ..m()
            },
        ),
        (
            "not_principals[0].match_type",
            wire::Match {
                not_principals: vec![text(None)],
                ..m()
            },
        ),
        (
            "source_ips[0].address: 1 bytes",
            wire::Match {
                source_ips: vec![range(&[1], 0)],
                ..m()
            },
        ),
        (
            "not_source_ips[0].length: a prefix of 33",
            wire::Match {
                not_source_ips: vec![range(&[0; 4], 33)],
                ..m()
            },
        ),
        (
            "destination_ips[0].length: a prefix of 129",
            wire::Match {
                destination_ips: vec![range(&[0; 16], 129)],
                ..m()
            },
        ),
        (
            "not_destination_ips[0].address: 0 bytes",
            wire::Match {
                not_destination_ips: vec![range(&[], 0)],
                ..m()
            },
        ),
        (
            "destination_ports[1]: 65536 is no port",
            wire::Match {
                destination_ports: vec![80, 65536],
                ..m()
            },
        ),
        (
            "not_destination_ports[0]: 0 is no port",
            wire::Match {
                not_destination_ports: vec![0],
                ..m()
            },
        ),
        (
            "service_accounts[0].namespace: is absent",
            wire::Match {
                service_accounts: vec![account("", "a")],
                ..m()
            },
        ),
        (
            "not_service_accounts[0].service_account: is absent",
            wire::Match {
                not_service_accounts: vec![account("a", "")],
                ..m()
            },
        ),
    ];
    for (expected, m) in cases {
        for action in [wire::Action::Allow, wire::Action::Deny] {
            let message = policy(action, vec![shop(), m.clone()]);
            let text = decode::policy(&message.encode_to_vec())
                .unwrap_err()
                .to_string();
            let start = "policy `shop/p`: rules[0].clauses[0].matches[1].";
            assert!(text.starts_with(start) && text.contains(expected), "{text}");
        }
    }
}

#[test]
fn a_global_policy_needs_no_namespace_and_may_have_one() {
    for namespace in ["", "istio-system"] {
        let mut message = policy(wire::Action::Deny, vec![]);
        message.namespace = namespace.into();
        message.scope = wire::Scope::Global.into();
        let p = read(&message);
        assert_eq!((&*p.key.namespace, p.scope), (namespace, Scope::Global));
    }
}

#[test]
fn an_allow_with_an_extension_lets_nothing_in_and_a_deny_denies_more() {
    let extended = wire::Match {
        extensions: vec![wire::Extension {
            name: "x".into(),
            config: Some(Any::default()),
        }],
        ..shop()
    };
    let allow = read(&policy(wire::Action::Allow, vec![extended.clone()]));
    assert_eq!(allow.action, Action::Allow);
    assert!(
        !matches(&allow),
        "the condition that is not understood may not hold"
    );
    let beside = read(&policy(wire::Action::Allow, vec![extended.clone(), shop()]));
    assert!(matches(&beside), "the alternative beside it stands");
    assert!(matches(&read(&policy(wire::Action::Deny, vec![extended]))));
}

/// A field of number 99 with a text in it, as a later version may add one.
const LATER_FIELD: [u8; 5] = [0x9a, 0x06, 0x02, b'h', b'i'];

/// Bytes of a policy of one rule, with a later field at a depth: 0 the policy, 1 the rule, 2 the
/// clause, 3 the match.
fn with_later_field(action: wire::Action, depth: usize) -> Vec<u8> {
    fn wrap(number: u8, mut content: Vec<u8>, later: bool) -> Vec<u8> {
        if later {
            content.extend(LATER_FIELD);
        }
        [
            vec![number << 3 | 2, content.len().try_into().unwrap()],
            content,
        ]
        .concat()
    }
    let m = wrap(2, shop().encode_to_vec(), depth == 3);
    let clause = wrap(1, m, depth == 2);
    let rule = wrap(5, clause, depth == 1);
    let mut head = policy(action, vec![]);
    head.rules.clear();
    let later = if depth == 0 {
        LATER_FIELD.to_vec()
    } else {
        vec![]
    };
    [head.encode_to_vec(), rule, later].concat()
}

#[test]
fn an_allow_rule_with_fields_of_a_later_version_lets_nothing_in() {
    for depth in 1..=3 {
        let allow = decode::policy(&with_later_field(wire::Action::Allow, depth)).unwrap();
        assert!(!matches(&allow), "depth {depth}");
        let deny = decode::policy(&with_later_field(wire::Action::Deny, depth)).unwrap();
        assert!(matches(&deny), "depth {depth}");
    }
    let beside = decode::policy(&with_later_field(wire::Action::Allow, 0)).unwrap();
    assert!(
        matches(&beside),
        "what stands beside the rules is no condition"
    );
}

#[test]
fn only_the_rule_with_the_later_field_is_left_out() {
    let spoilt = with_later_field(wire::Action::Allow, 3);
    let mut whole = policy(wire::Action::Allow, vec![shop()]);
    whole.rules.push(wire::Rule::default());
    let both = [
        spoilt,
        wire::Authorization {
            rules: whole.rules,
            ..Default::default()
        }
        .encode_to_vec(),
    ]
    .concat();
    let read = decode::policy(&both).unwrap();
    assert_eq!(read.rules.len(), 2);
    assert!(matches(&read));
}

#[test]
fn a_stock_strict_policy_denies_plaintext_only() {
    let presence = MatchType::Presence(wire::string_match::Presence {});
    let m = wire::Match {
        not_principals: vec![text(Some(presence))],
        ..wire::Match::default()
    };
    let strict = read(&policy(wire::Action::Deny, vec![m]));
    assert!(!matches(&strict));
    let (ip, target) = ("10.0.0.1".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
    assert!(strict.matches(&Connection::new(None, ip, target)));
}
