//! Laws of policies: what must hold for every policy and every connection.

use mesh::decide::{self, InboundQuery, Verdict};
use mesh::policy::{
    Action, Clause, Connection, Match, Rule, Scope, ServiceAccountMatch, StringMatch,
};
use mesh::{Identity, Policy};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::fixture::*;

/// Who may connect, from where and to what: few values, so that matches are frequent.
#[derive(Clone, Debug)]
struct Visit {
    peer: Option<Identity>,
    source: &'static str,
    destination: &'static str,
}

impl Visit {
    fn connection(&self) -> Connection<'_> {
        Connection::new(self.peer.as_ref(), ip(self.source), at(self.destination))
    }
}

fn visit() -> impl Strategy<Value = Visit> {
    let peer = proptest::option::of((select(vec!["a", "ab"]), select(vec!["x", "xy"])));
    let source = select(vec!["10.0.0.1", "10.0.9.1", "fd00::1", "::ffff:10.0.0.1"]);
    let destination = select(vec!["10.0.1.1:80", "10.0.1.1:81", "[fd00::2]:80"]);
    (peer, source, destination).prop_map(|(peer, source, destination)| Visit {
        peer: peer.map(|(ns, sa)| Identity::new("td", ns, sa).unwrap()),
        source,
        destination,
    })
}

fn text() -> impl Strategy<Value = StringMatch> {
    let words = [
        "a",
        "ab",
        "b",
        "td/ns/a/sa/x",
        "spiffe://td/ns/ab/sa/x",
        "td/ns/a",
        "/sa/xy",
        "",
    ];
    (select(words.to_vec()), 0..4).prop_map(|(word, kind)| match kind {
        0 => StringMatch::Exact(word.into()),
        1 => StringMatch::Prefix(word.into()),
        2 => StringMatch::Suffix(word.into()),
        _ => StringMatch::Presence,
    })
}

fn texts() -> impl Strategy<Value = Vec<StringMatch>> {
    prop_oneof![3 => Just(vec![]), 1 => vec(text(), 1..3)]
}

fn ranges() -> impl Strategy<Value = Vec<ipnet::IpNet>> {
    let all = [
        "10.0.0.0/16",
        "10.0.0.1/32",
        "0.0.0.0/0",
        "::/0",
        "fd00::/8",
        "10.0.1.1/32",
    ];
    let one = select(all.to_vec()).prop_map(|text| text.parse().unwrap());
    prop_oneof![3 => Just(vec![]), 1 => vec(one, 1..3)]
}

fn ports() -> impl Strategy<Value = Vec<u16>> {
    prop_oneof![3 => Just(vec![]), 1 => vec(select(vec![80, 81, 82]), 1..3)]
}

fn accounts() -> impl Strategy<Value = Vec<ServiceAccountMatch>> {
    let one = (select(vec!["a", "ab"]), select(vec!["x", "xy"])).prop_map(|(ns, sa)| {
        ServiceAccountMatch {
            namespace: ns.into(),
            service_account: sa.into(),
        }
    });
    prop_oneof![3 => Just(vec![]), 1 => vec(one, 1..3)]
}

prop_compose! {
    fn any_match()(
        namespaces in (texts(), texts()),
        principals in (texts(), texts()),
        sources in (ranges(), ranges()),
        destinations in (ranges(), ranges()),
        ports in (ports(), ports()),
        accounts in (accounts(), accounts()),
    ) -> Match {
        Match {
            namespaces: namespaces.0,
            not_namespaces: namespaces.1,
            principals: principals.0,
            not_principals: principals.1,
            source_ips: sources.0,
            not_source_ips: sources.1,
            destination_ips: destinations.0,
            not_destination_ips: destinations.1,
            destination_ports: ports.0,
            not_destination_ports: ports.1,
            service_accounts: accounts.0,
            not_service_accounts: accounts.1,
        }
    }
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let clause = vec(any_match(), 0..3).prop_map(|matches| Clause { matches });
    vec(vec(clause, 0..3).prop_map(|clauses| Rule { clauses }), 0..3)
}

prop_compose! {
    fn any_policy()(
        scope in select(vec![Scope::Global, Scope::Namespace, Scope::WorkloadSelector]),
        deny in any::<bool>(),
        rules in rules(),
        dry_run in prop::bool::weighted(0.2),
    ) -> Policy {
        let action = if deny { Action::Deny } else { Action::Allow };
        Policy { dry_run, ..policy("", scope, action, rules) }
    }
}

/// Policies with different names.
fn policies() -> impl Strategy<Value = Vec<Policy>> {
    vec(any_policy(), 0..5).prop_map(|policies| {
        let named = policies.into_iter().enumerate();
        named
            .map(|(i, p)| Policy {
                key: policy_key(&format!("p{i}")),
                ..p
            })
            .collect()
    })
}

/// The verdict on a visit to a workload that all of them reach.
fn verdict(policies: &[Policy], visit: &Visit) -> Verdict {
    let workload = {
        let mut made = pod("web", &["10.0.1.1"]);
        made.policies = policies.iter().map(|p| p.key.clone()).collect();
        made
    };
    let mut snapshot = world(vec![], vec![]);
    policies
        .iter()
        .for_each(|p| snapshot.insert_policy(p.clone()));
    let query = InboundQuery {
        workload: &workload,
        destination: at(visit.destination),
        source_ip: ip(visit.source),
        peer: visit.peer.as_ref(),
    };
    decide::inbound(&snapshot, &query)
}

/// The same values in another order, down to the last list.
fn shuffled<T>(items: &mut [T], seed: &[Index]) {
    for (i, index) in seed.iter().enumerate().take(items.len()) {
        let other = index.index(items.len());
        items.swap(i, other);
    }
}

fn shuffle_policy(p: &mut Policy, seed: &[Index]) {
    shuffled(&mut p.rules, seed);
    for rule in &mut p.rules {
        shuffled(&mut rule.clauses, seed);
        for clause in &mut rule.clauses {
            shuffled(&mut clause.matches, seed);
            for m in &mut clause.matches {
                let texts = [
                    &mut m.namespaces,
                    &mut m.not_namespaces,
                    &mut m.principals,
                    &mut m.not_principals,
                ];
                texts.into_iter().for_each(|field| shuffled(field, seed));
                shuffled(&mut m.source_ips, seed);
                shuffled(&mut m.not_source_ips, seed);
                shuffled(&mut m.destination_ips, seed);
                shuffled(&mut m.not_destination_ips, seed);
                shuffled(&mut m.destination_ports, seed);
                shuffled(&mut m.service_accounts, seed);
                shuffled(&mut m.not_service_accounts, seed);
            }
        }
    }
}

fn alone(m: Match, visit: &Visit) -> bool {
    when(m).matches(&visit.connection())
}

proptest! {
    #[test]
    fn a_deny_that_matches_wins_over_everything(policies in policies(), visit in visit()) {
        let connection = visit.connection();
        let in_force = || policies.iter().filter(|p| !p.dry_run);
        let denied =
            in_force().any(|p| p.action == Action::Deny && p.matches(&connection));
        let allows = || in_force().filter(|p| p.action == Action::Allow);
        let expected =
            !denied && (allows().count() == 0 || allows().any(|p| p.matches(&connection)));
        let verdict = verdict(&policies, &visit);
        prop_assert_eq!(verdict.allowed, expected, "{}", verdict.reason);
        prop_assert!(!(denied && verdict.allowed));
    }

    #[test]
    fn order_decides_nothing(
        policies in policies(),
        visit in visit(),
        seed in vec(any::<Index>(), 8),
    ) {
        let before = verdict(&policies, &visit);
        let mut other = policies.clone();
        shuffled(&mut other, &seed);
        other.iter_mut().for_each(|p| shuffle_policy(p, &seed));
        prop_assert_eq!(before, verdict(&other, &visit));
    }

    #[test]
    fn one_more_deny_never_lets_more_in(
        policies in policies(),
        deny in any_policy(),
        visit in visit(),
    ) {
        let before = verdict(&policies, &visit).allowed;
        let mut more = policies;
        more.push(Policy { action: Action::Deny, key: policy_key("more"), ..deny });
        prop_assert!(before || !verdict(&more, &visit).allowed);
    }

    #[test]
    fn one_more_allow_beside_another_never_shuts_out(
        policies in policies(),
        allow in any_policy(),
        visit in visit(),
    ) {
        let is_allow = |p: &Policy| p.action == Action::Allow && !p.dry_run;
        prop_assume!(policies.iter().any(is_allow));
        let before = verdict(&policies, &visit).allowed;
        let mut more = policies;
        more.push(Policy { action: Action::Allow, key: policy_key("more"), ..allow });
        prop_assert!(!before || verdict(&more, &visit).allowed);
    }

    #[test]
    fn dry_run_decides_nothing_and_tells_the_truth(policies in policies(), visit in visit()) {
        let in_force: Vec<Policy> = policies.iter().filter(|p| !p.dry_run).cloned().collect();
        let verdict_now = verdict(&policies, &visit);
        prop_assert_eq!(verdict_now.allowed, verdict(&in_force, &visit).allowed);
        for p in policies.iter().filter(|p| p.dry_run) {
            let mut with = in_force.clone();
            with.push(Policy { dry_run: false, ..p.clone() });
            let turned = verdict(&with, &visit).allowed != verdict_now.allowed;
            prop_assert_eq!(turned, verdict_now.dry_run.contains(&p.key));
        }
    }

    #[test]
    fn a_field_and_its_negation_never_agree(
        text in text(),
        range in ranges(),
        port in ports(),
        account in accounts(),
        visit in visit(),
    ) {
        let m = Match::default;
        let pairs = [
            (
                Match { namespaces: vec![text.clone()], ..m() },
                Match { not_namespaces: vec![text.clone()], ..m() },
            ),
            (
                Match { principals: vec![text.clone()], ..m() },
                Match { not_principals: vec![text], ..m() },
            ),
            (
                Match { source_ips: range.clone(), ..m() },
                Match { not_source_ips: range.clone(), ..m() },
            ),
            (
                Match { destination_ips: range.clone(), ..m() },
                Match { not_destination_ips: range, ..m() },
            ),
            (
                Match { destination_ports: port.clone(), ..m() },
                Match { not_destination_ports: port, ..m() },
            ),
            (
                Match { service_accounts: account.clone(), ..m() },
                Match { not_service_accounts: account, ..m() },
            ),
        ];
        for (yes, no) in pairs.into_iter().filter(|(yes, _)| !yes.is_empty()) {
            prop_assert_ne!(alone(yes.clone(), &visit), alone(no, &visit), "{:?}", yes);
        }
    }

    #[test]
    fn a_further_value_widens_a_field_and_narrows_its_negation(
        rest in any_match(),
        values in (text(), text()),
        further in text(),
        visit in visit(),
    ) {
        let (principals, not_namespaces) = (vec![values.0], vec![values.1]);
        let m = Match { principals, not_namespaces, ..rest };
        let before = alone(m.clone(), &visit);
        let mut wider = m.clone();
        wider.principals.push(further.clone());
        prop_assert!(!before || alone(wider, &visit));
        let mut narrower = m;
        narrower.not_namespaces.push(further);
        prop_assert!(before || !alone(narrower, &visit));
    }
}
