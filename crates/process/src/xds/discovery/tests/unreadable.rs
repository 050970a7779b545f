//! Policies that cannot be read. Knows no socket.

use super::*;

/// A policy of these fields with a match that cannot be read: an address of three bytes.
fn unreadable(name: &str, edit: impl FnOnce(&mut security::Authorization)) -> wire::Resource {
    let source = security::Address {
        address: vec![1, 2, 3],
        length: 8,
    };
    let broken = security::Match {
        source_ips: vec![source],
        ..Default::default()
    };
    let clause = security::Clause {
        matches: vec![broken],
    };
    let rule = security::Rule {
        clauses: vec![clause],
    };
    let mut policy = security::Authorization {
        name: name.to_owned(),
        namespace: "shop".to_owned(),
        scope: security::Scope::Namespace.into(),
        action: security::Action::Deny.into(),
        rules: vec![rule],
        ..Default::default()
    };
    edit(&mut policy);
    named(Kind::Policies, &format!("shop/{name}"), "1", &policy)
}

/// Whether a plain connection to the pod `web` is let in.
fn lets_in(discovery: &Discovery) -> bool {
    let snapshot = discovery.snapshot();
    let query = mesh::decide::InboundQuery {
        workload: snapshot.workload(&uid("web")).unwrap(),
        destination: "10.0.0.1:80".parse().unwrap(),
        source_ip: "10.0.0.9".parse().unwrap(),
        peer: None,
    };
    mesh::decide::inbound(snapshot, &query).allowed
}

fn with_web() -> Discovery {
    let mut discovery = discovery(Scope::Wildcard);
    discovery.open();
    discovery.apply(response(
        Kind::Addresses,
        [pod("web", "10.0.0.1", "1")],
        &[],
    ));
    discovery.apply(response(Kind::Policies, [], &[]));
    assert!(lets_in(&discovery));
    discovery
}

#[test]
fn a_new_policy_that_cannot_be_read_denies_what_it_applies_to_until_it_can_or_is_gone() {
    type Edit = fn(&mut security::Authorization);
    let edits: [(&str, Edit); 4] = [
        ("deny", |_| ()),
        ("allow", |policy| {
            policy.action = security::Action::Allow.into()
        }),
        ("an unknown action", |policy| policy.action = 7),
        ("the whole mesh", |policy| {
            policy.scope = security::Scope::Global.into()
        }),
    ];
    for (what, edit) in edits {
        let mut discovery = with_web();
        let applied = discovery.apply(response(Kind::Policies, [unreadable("p", edit)], &[]));
        assert!(applied.changed && applied.rejected[0].denies, "{what}");
        assert!(applied.requests[0].error_detail.is_some(), "{what}: a NACK");
        assert!(!lets_in(&discovery), "{what}");
        // A successor is told of it, and asks for it anew.
        let carried = Carried::from_wire(&discovery.carried().unwrap().to_wire()).unwrap();
        let mut resumed = Discovery::resume(Node::default(), carried);
        assert!(!lets_in(&resumed), "{what}: handed over");
        let versions = &resumed.open()[1].initial_resource_versions;
        assert_eq!(versions["shop/p"], "", "{what}");
        // Readable it is as it says; removed it is gone.
        discovery.apply(response(Kind::Policies, [policy("p", "2")], &[]));
        let reads = discovery
            .snapshot()
            .policies()
            .all(|p| p.action == mesh::policy::Action::Allow);
        assert!(reads, "{what}");
        discovery.apply(response(Kind::Policies, [], &["shop/p"]));
        assert!(lets_in(&discovery), "{what}");
    }
}

#[test]
fn a_policy_that_cannot_be_read_any_more_stays_as_it_was() {
    let mut discovery = with_web();
    let readable = security::Authorization {
        name: "p".to_owned(),
        namespace: "shop".to_owned(),
        scope: security::Scope::Namespace.into(),
        action: security::Action::Deny.into(),
        ..Default::default()
    };
    let readable = named(Kind::Policies, "shop/p", "1", &readable);
    discovery.apply(response(Kind::Policies, [readable], &[]));
    let applied = discovery.apply(response(Kind::Policies, [unreadable("p", |_| ())], &[]));
    assert!(!applied.changed && !applied.rejected[0].denies);
    assert!(lets_in(&discovery));
}

#[test]
fn what_applies_nowhere_that_can_be_told_denies_nothing_and_is_refused() {
    type Edit = fn(&mut security::Authorization);
    let edits: [(&str, Edit); 4] = [
        ("no name", |policy| policy.name.clear()),
        ("no namespace", |policy| policy.namespace.clear()),
        ("an unknown scope", |policy| policy.scope = 9),
        ("a dry run", |policy| policy.dry_run = true),
    ];
    for (what, edit) in edits {
        let mut discovery = with_web();
        let applied = discovery.apply(response(Kind::Policies, [unreadable("p", edit)], &[]));
        assert!(!applied.changed && applied.rejected.len() == 1, "{what}");
        assert!(!applied.rejected[0].denies && lets_in(&discovery), "{what}");
    }
}
