//! Policies against connections that come in.

use ipnet::IpNet;
use mesh::decide::{self, InboundQuery, InboundReason, Verdict};
use mesh::policy::{Action, Clause, Match, Rule, Scope, ServiceAccountMatch, StringMatch};
use mesh::{Identity, Policy, Snapshot, Workload};

use crate::fixture::*;

fn ask(snapshot: &Snapshot, workload: &Workload, peer: Option<&Identity>) -> Verdict {
    let query = InboundQuery {
        workload,
        destination: at("10.0.1.1:8080"),
        source_ip: ip("10.0.0.1"),
        peer,
    };
    decide::inbound(snapshot, &query)
}

/// The verdict on a client `shop/client` when these apply to its target by name.
fn under(policies: Vec<Policy>, peer: Option<&Identity>) -> Verdict {
    let target = {
        let mut made = pod("web", &["10.0.1.1"]);
        made.policies = policies.iter().map(|p| p.key.clone()).collect();
        made
    };
    let mut snapshot = world(vec![target.clone()], vec![]);
    policies.into_iter().for_each(|p| snapshot.insert_policy(p));
    ask(&snapshot, &target, peer)
}

fn named(name: &str, action: Action, rules: Vec<Rule>) -> Policy {
    policy(name, Scope::WorkloadSelector, action, rules)
}

/// Whether one match holds for a connection of `shop/client` from 10.0.0.1 to 10.0.1.1:8080.
fn holds(m: Match, peer: Option<&Identity>) -> bool {
    under(vec![named("p", Action::Allow, vec![when(m)])], peer).allowed
}

fn exact(text: &str) -> Vec<StringMatch> {
    vec![StringMatch::Exact(text.into())]
}

fn net(text: &str) -> Vec<IpNet> {
    vec![text.parse().unwrap()]
}

#[test]
fn without_policies_everything_may_pass() {
    let verdict = under(vec![], None);
    assert!(verdict.allowed);
    assert_eq!(verdict.reason, InboundReason::NoAllowPolicy);
}

#[test]
fn deny_goes_before_allow_and_is_named() {
    let both = vec![
        named("a-allow", Action::Allow, vec![always()]),
        named("z-deny", Action::Deny, vec![always()]),
    ];
    let verdict = under(both, Some(&identity("client")));
    assert!(!verdict.allowed);
    assert_eq!(verdict.policy, Some(policy_key("z-deny")));
    assert_eq!(verdict.reason.to_string(), "denied by policy shop/z-deny");
    assert!(verdict.closes_live());
}

#[test]
fn where_there_is_an_allow_one_must_match() {
    let only = |name: &str| Match {
        principals: exact(name),
        ..Match::default()
    };
    let allow = |m| vec![named("allow", Action::Allow, vec![when(m)])];
    let yes = allow(only("cluster.local/ns/shop/sa/client"));
    let verdict = under(yes, Some(&identity("client")));
    assert_eq!(verdict.reason, InboundReason::Allowed(policy_key("allow")));
    let no = allow(only("cluster.local/ns/shop/sa/other"));
    let verdict = under(no, Some(&identity("client")));
    assert_eq!(verdict.reason, InboundReason::NotAllowed(1));
    assert!(!verdict.allowed);
    let nothing = vec![named("nothing", Action::Allow, vec![])];
    assert!(
        !under(nothing, Some(&identity("client"))).allowed,
        "no rules never match"
    );
}

#[test]
fn strict_peer_authentication_refuses_plaintext_only() {
    assert!(under(vec![strict()], Some(&identity("client"))).allowed);
    let verdict = under(vec![strict()], None);
    assert!(!verdict.allowed);
    assert_eq!(verdict.policy, Some(policy_key("strict")));
}

#[test]
fn a_policy_name_that_nobody_knows_refuses_that_workload_only() {
    let subject = {
        let mut made = pod("web", &["10.0.1.1"]);
        made.policies = vec![policy_key("ghost")];
        made
    };
    let other = pod("other", &["10.0.1.2"]);
    let mut s = world(vec![subject.clone(), other.clone()], vec![]);
    let verdict = ask(&s, &subject, Some(&identity("client")));
    assert!(!verdict.allowed);
    assert_eq!(
        verdict.reason,
        InboundReason::UnknownPolicy(policy_key("ghost"))
    );
    assert!(verdict.reason.to_string().contains("shop/ghost"));
    assert!(!verdict.closes_live(), "what was allowed before goes on");
    assert!(ask(&s, &other, Some(&identity("client"))).allowed);
    // A known DENY decides all the same, and ends live connections.
    s.insert_policy(policy(
        "deny",
        Scope::Namespace,
        Action::Deny,
        vec![always()],
    ));
    let verdict = ask(&s, &subject, Some(&identity("client")));
    assert_eq!(verdict.reason, InboundReason::Denied(policy_key("deny")));
    assert!(verdict.closes_live());
}

#[test]
fn nothing_may_pass_before_policies_are_synced() {
    let s = Snapshot::new();
    let verdict = ask(&s, &pod("web", &["10.0.1.1"]), Some(&identity("client")));
    assert!(!verdict.allowed);
    assert_eq!(verdict.reason, InboundReason::NotSynced);
    assert!(!verdict.closes_live());
}

#[test]
fn the_proxys_own_ports_take_nothing() {
    let s = world(vec![], vec![]);
    let web = pod("web", &["10.0.1.1"]);
    for port in mesh::address::OWN_PORTS {
        let query = InboundQuery {
            workload: &web,
            destination: std::net::SocketAddr::new(ip("10.0.1.1"), port),
            source_ip: ip("10.0.0.1"),
            peer: Some(&identity("client")),
        };
        let verdict = decide::inbound(&s, &query);
        assert_eq!(verdict.reason, InboundReason::OwnPort(port));
        assert!(!verdict.allowed);
    }
}

#[test]
fn scope_says_whom_a_policy_reaches() {
    let deny = |scope| policy("deny", scope, Action::Deny, vec![always()]);
    let here = pod("web", &["10.0.1.1"]);
    let elsewhere = {
        let mut made = here.clone();
        made.namespace = "other".into();
        made
    };
    let chooses = {
        let mut made = elsewhere.clone();
        made.policies = vec![policy_key("deny")];
        made
    };
    let reached = |scope| {
        let mut s = world(vec![], vec![]);
        s.insert_policy(deny(scope));
        [&here, &elsewhere, &chooses].map(|w| !ask(&s, w, None).allowed)
    };
    // A global policy keeps the namespace it was written in.
    assert_eq!(reached(Scope::Global), [true, true, true]);
    assert_eq!(reached(Scope::Namespace), [true, false, true]);
    assert_eq!(reached(Scope::WorkloadSelector), [false, false, true]);
}

#[test]
fn a_policy_that_changes_scope_leaves_its_old_one() {
    let mut s = world(vec![], vec![]);
    let here = pod("web", &["10.0.1.1"]);
    for scope in [
        Scope::Global,
        Scope::Namespace,
        Scope::WorkloadSelector,
        Scope::Global,
    ] {
        s.insert_policy(policy("deny", scope, Action::Deny, vec![always()]));
        assert_eq!(
            ask(&s, &here, None).allowed,
            scope == Scope::WorkloadSelector,
            "{scope:?}"
        );
    }
}

#[test]
fn dry_run_decides_nothing_and_says_what_it_would_have_turned() {
    let dry = |p: Policy| Policy { dry_run: true, ..p };
    let peer = identity("client");
    let ask = |policies| under(policies, Some(&peer));
    let deny = || dry(named("dry-deny", Action::Deny, vec![always()]));
    let allow_none = || dry(named("dry-allow", Action::Allow, vec![]));
    let allow_all = || dry(named("dry-allow", Action::Allow, vec![always()]));

    let verdict = ask(vec![deny(), allow_none()]);
    assert!(verdict.allowed);
    assert_eq!(
        verdict.dry_run,
        [policy_key("dry-allow"), policy_key("dry-deny")]
    );

    let verdict = ask(vec![allow_all()]);
    assert!(verdict.allowed && verdict.dry_run.is_empty());

    let verdict = ask(vec![
        named("nothing", Action::Allow, vec![]),
        allow_all(),
        deny(),
    ]);
    assert!(!verdict.allowed);
    assert_eq!(verdict.dry_run, [policy_key("dry-allow")]);
}

#[test]
fn every_field_and_its_negation_is_compared() {
    let client = identity("client");
    let yes = [
        Match {
            namespaces: exact("shop"),
            ..Match::default()
        },
        Match {
            principals: exact("cluster.local/ns/shop/sa/client"),
            ..Match::default()
        },
        Match {
            principals: exact("spiffe://cluster.local/ns/shop/sa/client"),
            ..Match::default()
        },
        Match {
            source_ips: net("10.0.0.0/24"),
            ..Match::default()
        },
        Match {
            destination_ips: net("10.0.1.1/32"),
            ..Match::default()
        },
        Match {
            destination_ports: vec![80, 8080],
            ..Match::default()
        },
        Match {
            service_accounts: account("shop", "client"),
            ..Match::default()
        },
        Match {
            not_namespaces: exact("other"),
            ..Match::default()
        },
        Match {
            not_principals: exact("cluster.local/ns/shop/sa/other"),
            ..Match::default()
        },
        Match {
            not_source_ips: net("10.0.1.0/24"),
            ..Match::default()
        },
        Match {
            not_destination_ips: net("10.0.1.2/32"),
            ..Match::default()
        },
        Match {
            not_destination_ports: vec![80],
            ..Match::default()
        },
        Match {
            not_service_accounts: account("other", "client"),
            ..Match::default()
        },
    ];
    for m in yes {
        assert!(holds(m.clone(), Some(&client)), "{m:?}");
        assert!(!holds(negated(m.clone()), Some(&client)), "not {m:?}");
    }
}

fn account(namespace: &str, name: &str) -> Vec<ServiceAccountMatch> {
    vec![ServiceAccountMatch {
        namespace: namespace.into(),
        service_account: name.into(),
    }]
}

/// Each field in the place of its negation.
fn negated(m: Match) -> Match {
    Match {
        namespaces: m.not_namespaces,
        not_namespaces: m.namespaces,
        principals: m.not_principals,
        not_principals: m.principals,
        source_ips: m.not_source_ips,
        not_source_ips: m.source_ips,
        destination_ips: m.not_destination_ips,
        not_destination_ips: m.destination_ips,
        destination_ports: m.not_destination_ports,
        not_destination_ports: m.destination_ports,
        service_accounts: m.not_service_accounts,
        not_service_accounts: m.service_accounts,
    }
}

#[test]
fn texts_are_compared_whole_from_the_front_from_the_back_or_for_presence() {
    let client = identity("client");
    let principal = |m: StringMatch| {
        holds(
            Match {
                principals: vec![m],
                ..Match::default()
            },
            Some(&client),
        )
    };
    assert!(principal(StringMatch::Prefix(
        "cluster.local/ns/shop/".into()
    )));
    assert!(principal(StringMatch::Prefix(
        "spiffe://cluster.local/".into()
    )));
    assert!(!principal(StringMatch::Prefix(
        "cluster.local/ns/shop2".into()
    )));
    assert!(principal(StringMatch::Suffix("/sa/client".into())));
    assert!(!principal(StringMatch::Suffix("/sa/clien".into())));
    assert!(principal(StringMatch::Presence));
    assert!(!principal(StringMatch::Exact(
        "cluster.local/ns/shop/sa/clien".into()
    )));
    let namespace = |m: StringMatch| {
        holds(
            Match {
                namespaces: vec![m],
                ..Match::default()
            },
            Some(&client),
        )
    };
    assert!(namespace(StringMatch::Prefix("sh".into())));
    assert!(namespace(StringMatch::Suffix("op".into())));
    assert!(namespace(StringMatch::Presence));
    assert!(!namespace(StringMatch::Prefix("op".into())));
}

#[test]
fn plaintext_has_no_identity_to_match() {
    for value in [StringMatch::Presence, StringMatch::Prefix("".into())] {
        let field = vec![value];
        let fields = [
            Match {
                principals: field.clone(),
                ..Match::default()
            },
            Match {
                namespaces: field.clone(),
                ..Match::default()
            },
            Match {
                service_accounts: account("", ""),
                ..Match::default()
            },
        ];
        for m in fields {
            assert!(!holds(m.clone(), None), "{m:?}");
            assert!(holds(negated(m.clone()), None), "not {m:?}");
        }
    }
    let by_ip = Match {
        source_ips: net("10.0.0.1/32"),
        ..Match::default()
    };
    assert!(holds(by_ip, None));
}

#[test]
fn all_fields_of_a_match_must_hold() {
    let m = Match {
        namespaces: exact("shop"),
        destination_ports: vec![8080],
        not_source_ips: net("10.9.0.0/16"),
        ..Match::default()
    };
    let client = identity("client");
    assert!(holds(m.clone(), Some(&client)));
    assert!(!holds(
        Match {
            destination_ports: vec![1],
            ..m.clone()
        },
        Some(&client)
    ));
    assert!(!holds(
        Match {
            namespaces: exact("x"),
            ..m.clone()
        },
        Some(&client)
    ));
    assert!(!holds(
        Match {
            not_source_ips: net("10.0.0.0/16"),
            ..m
        },
        Some(&client)
    ));
}

#[test]
fn clauses_must_all_hold_and_an_empty_match_does_not_count() {
    let client = identity("client");
    let yes = Match {
        namespaces: exact("shop"),
        ..Match::default()
    };
    let no = Match {
        namespaces: exact("other"),
        ..Match::default()
    };
    let allowed = |clauses: Vec<Vec<Match>>| {
        let clauses = clauses
            .into_iter()
            .map(|matches| Clause { matches })
            .collect();
        let rules = vec![Rule { clauses }];
        under(vec![named("p", Action::Allow, rules)], Some(&client)).allowed
    };
    assert!(allowed(vec![]), "a rule without clauses matches everything");
    assert!(allowed(vec![
        vec![no.clone(), yes.clone()],
        vec![yes.clone()]
    ]));
    assert!(!allowed(vec![vec![yes.clone()], vec![no.clone()]]));
    assert!(!allowed(vec![vec![Match::default()]]));
    assert!(!allowed(vec![vec![no, Match::default()]]));
    assert!(allowed(vec![vec![Match::default(), yes]]));
    assert!(
        allowed(vec![vec![]]),
        "a clause without matches says nothing"
    );
}

#[test]
fn ipv4_mapped_addresses_are_ipv4_to_policies() {
    let web = pod("web", &["10.0.1.1"]);
    let mut s = world(vec![], vec![]);
    let m = Match {
        source_ips: net("10.0.0.0/24"),
        destination_ips: net("::ffff:10.0.1.1/128"),
        ..Match::default()
    };
    s.insert_policy(policy("p", Scope::Namespace, Action::Allow, vec![when(m)]));
    let query = InboundQuery {
        workload: &web,
        destination: at("[::ffff:10.0.1.1]:80"),
        source_ip: ip("::ffff:10.0.0.7"),
        peer: None,
    };
    assert!(decide::inbound(&s, &query).allowed);
    let six = Match {
        source_ips: net("::/0"),
        ..Match::default()
    };
    assert!(!holds(six, None), "a range of IPv6 holds no IPv4 address");
}
