//! Policies that target a service or the waypoint, at the connection.

use std::io::{Read, Write};

use mesh::PolicyKey;
use mesh::policy::targeted::{PolicyTarget, TargetedPolicy};
use mesh::policy::{Action, Clause, Match, Policy, Rule, Scope, StringMatch};

use crate::app::{accept, expect_reset, talk};
use crate::journal;
use crate::net::serve;
use crate::peer::Client;
use crate::world::{HTTP, TCP, gateway_key, key, on_both_back_ends};

fn policy(action: Action, principal: &str, target: PolicyTarget) -> TargetedPolicy {
    let principals = vec![StringMatch::Exact(principal.into())];
    let clause = Clause {
        matches: vec![Match {
            principals,
            ..Match::default()
        }],
    };
    TargetedPolicy {
        policy: Policy {
            key: PolicyKey {
                namespace: "shop".into(),
                name: "who".into(),
            },
            scope: Scope::WorkloadSelector,
            action,
            rules: vec![Rule {
                clauses: vec![clause],
            }],
            dry_run: false,
        },
        targets: vec![target],
        unenforceable: None,
        audit: false,
    }
}

const FRIEND: &str = "cluster.local/ns/shop/sa/client";

#[test]
fn only_whom_a_policy_of_the_service_allows_gets_in() {
    on_both_back_ends(|world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        let target = PolicyTarget::Service(key("tcp"));
        world.write(|book| book.policies.insert(policy(Action::Allow, FRIEND, target)));
        let other = Client::start(world.backend, &world.netns, &world.ca, "other");
        let deadline = std::time::Instant::now() + crate::net::PATIENCE;
        // The workers hear of it in their own time.
        let (status, why) = loop {
            match other.connect(TCP) {
                Err(refused) => break refused,
                Ok(_) => assert!(std::time::Instant::now() < deadline),
            }
        };
        assert_eq!(status, 401, "{why}");
        let mut client = world.client.connect(TCP).unwrap();
        client.write_all(b"friend").unwrap();
        // What the other one opened before it was refused may still come, and ends without a word.
        let mut word = [0; 6];
        while accept(&app).read_exact(&mut word).is_err() {}
        assert_eq!(&word, b"friend");
        other
            .connect(HTTP)
            .expect("another service is not its target");
    });
}

#[test]
fn a_later_policy_ends_the_connections_that_it_denies() {
    on_both_back_ends(|world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        let client = world.client.connect(TCP).unwrap();
        let far = accept(&app);
        talk(&client, &far, b"before");
        let target = PolicyTarget::Gateway(gateway_key());
        world.write(|book| book.policies.insert(policy(Action::Deny, FRIEND, target)));
        expect_reset(&client);
        expect_reset(&far);
        journal::line(&["connection failed", "later policy", "shop/who"]);
    });
}

#[test]
fn a_policy_that_cannot_be_enforced_refuses_what_it_targets() {
    on_both_back_ends(|world| {
        let target = PolicyTarget::Service(key("http"));
        let mut paths = policy(Action::Allow, FRIEND, target);
        paths.unenforceable = Some("it has paths".into());
        world.write(|book| book.policies.insert(paths));
        let deadline = std::time::Instant::now() + crate::net::PATIENCE;
        let (status, why) = loop {
            match world.client.connect(HTTP) {
                Err(refused) => break refused,
                Ok(_) => assert!(std::time::Instant::now() < deadline),
            }
        };
        assert_eq!(status, 401);
        assert!(why.contains("cannot be enforced: it has paths"), "{why}");
    });
}

#[test]
fn what_an_audit_policy_matches_is_in_the_access_log_and_goes_on() {
    on_both_back_ends(|world| {
        let (app, _server) = (serve(&world.netns, 2), world.server("v1", 2));
        // A connection that is there before the policy, and one that comes after it.
        let early = world.client.connect(TCP).unwrap();
        let early_far = accept(&app);
        let mut audit = policy(Action::Allow, FRIEND, PolicyTarget::Gateway(gateway_key()));
        audit.policy.dry_run = true;
        audit.audit = true;
        world.write(|book| book.policies.insert(audit));
        world.settle();
        let late = world.client.connect(HTTP).unwrap();
        let answered = std::thread::scope(|scope| {
            scope.spawn(|| {
                let far = accept(&app);
                crate::http::head(&far);
                (&far).write_all(crate::http::ANSWER).unwrap();
                far
            });
            (&late).write_all(crate::http::ASK).unwrap();
            crate::http::head(&late)
        });
        assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
        journal::line(&["request complete", "audit=\"shop/who\""]);
        talk(&early, &early_far, b"still there");
        drop((early, early_far));
        journal::line(&["connection complete", "audit=\"shop/who\""]);
        let other = Client::start(world.backend, &world.netns, &world.ca, "other");
        let stream = other.connect(TCP).expect("it refuses nobody");
        drop((stream, accept(&app)));
        let line = journal::line(&["connection complete", "sa/other"]);
        assert!(!line.contains("audit="), "{line}");
    });
}
