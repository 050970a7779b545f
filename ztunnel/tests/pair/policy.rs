//! Who may pass, and what a push does to those who pass already.

use std::sync::Arc;

use mesh::Policy;
use mesh::policy::{Action, Clause, Match, PolicyKey, Rule, Scope, StringMatch};

use crate::app::{accept, expect_reset, talk};
use crate::journal::line;
use crate::world::{on_both_back_ends, policy_key, uid, workload};

/// Denies, or allows, connections of these service accounts; of nobody known for an empty name.
fn policy(name: &str, action: Action, account: &str) -> Policy {
    let principal: Arc<str> = format!("cluster.local/ns/shop/sa/{account}").into();
    let matches = vec![Match {
        principals: vec![StringMatch::Exact(principal)],
        ..Match::default()
    }];
    Policy {
        key: policy_key(name),
        scope: Scope::Namespace,
        action,
        rules: vec![Rule {
            clauses: vec![Clause { matches }],
        }],
        dry_run: false,
    }
}

/// Denies whoever shows no identity.
fn strict() -> Policy {
    let matches = vec![Match {
        not_principals: vec![StringMatch::Presence],
        ..Match::default()
    }];
    Policy {
        rules: vec![Rule {
            clauses: vec![Clause { matches }],
        }],
        ..policy("strict", Action::Deny, "")
    }
}

#[test]
fn a_client_that_a_policy_denies_sees_a_reset_and_the_log_names_the_policy() {
    on_both_back_ends(|world| {
        world.push_policy(policy("no-client", Action::Deny, "client"));
        let _listener = world.server.serve(false);
        let source = world.client.expect_refusal(world.server.address(false));
        let out = line(&["connection failed", &source, "direction=\"outbound\""]);
        assert!(out.contains("(401)"), "{out}");
        let inside = line(&[
            "connection failed",
            "direction=\"inbound\"",
            "shop/no-client",
        ]);
        assert!(inside.contains("src.identity=\"spiffe://cluster.local/ns/shop/sa/client\""));
        world.stop();
    });
}

#[test]
fn plaintext_is_refused_when_a_policy_wants_an_identity_and_mutual_tls_passes() {
    on_both_back_ends(|mut world| {
        world.push_policy(strict());
        let outside = world.net.pod("outside", 9);
        let listener = world.server.serve(false);
        let source = outside.expect_plain_refusal(world.server.address(false));
        line(&[
            "connection failed",
            &source,
            "direction=\"inbound\"",
            "by policy shop/strict",
        ]);
        let client = world.client.connect(world.server.address(false));
        let server = accept(&listener);
        talk(&client, &server, b"word");
        world.stop();
    });
}

#[test]
fn a_push_closes_the_live_connections_that_it_denies_and_no_other() {
    on_both_back_ends(|mut world| {
        let other = world.near_pod("other", 7);
        let outside = world.net.pod("outside", 9);
        let listener = world.server.serve(false);
        let to = world.server.address(false);
        let meet = |client: std::net::TcpStream| {
            let server = accept(&listener);
            talk(&client, &server, b"before");
            (client, server)
        };
        let first = meet(world.client.connect(to));
        let second = meet(other.connect(to));
        let plain = meet(outside.connect_plainly(to));

        world.push_policy(policy("no-client", Action::Deny, "client"));
        expect_reset(&first.0);
        expect_reset(&first.1);
        let closed = line(&["AuthorizationPolicyLateRejection shop/no-client"]);
        assert_eq!(closed.matches("shop/no-client").count(), 1, "{closed}");
        assert!(closed.contains("sa/client"), "{closed}");
        talk(&second.0, &second.1, b"after the first push");
        talk(&plain.0, &plain.1, b"after the first push");

        world.push_policy(strict());
        expect_reset(&plain.0);
        expect_reset(&plain.1);
        talk(&second.0, &second.1, b"after the second push");
        world.stop();
    });
}

#[test]
fn a_push_that_only_forgets_closes_nothing() {
    on_both_back_ends(|world| {
        let listener = world.server.serve(false);
        let client = world.client.connect(world.server.address(false));
        let server = accept(&listener);
        talk(&client, &server, b"before");
        world.push(|snapshot| {
            snapshot.remove_workload(&uid("client"));
            snapshot.remove_workload(&uid("server"));
        });
        talk(&client, &server, b"after");
        world.stop();
    });
}

#[test]
fn a_policy_that_nobody_knows_refuses_new_connections_and_ends_none() {
    on_both_back_ends(|world| {
        let listener = world.server.serve(false);
        let to = world.server.address(false);
        let client = world.client.connect(to);
        let server = accept(&listener);
        talk(&client, &server, b"before");
        let unknown = PolicyKey {
            namespace: "shop".into(),
            name: "unknown".into(),
        };
        world.push(|snapshot| {
            let mut server = workload(
                "server",
                &world.server,
                mesh::workload::TunnelProtocol::Hbone,
            );
            server.policies.push(unknown);
            snapshot.insert_workload(server);
        });
        world.client.expect_refusal(to);
        line(&["connection failed", "direction=\"inbound\"", "shop/unknown"]);
        talk(&client, &server, b"after");
        world.stop();
    });
}

#[test]
fn a_connection_waits_for_discovery_that_is_not_complete() {
    on_both_back_ends(|world| {
        let complete = world.snapshots.send_replace(Arc::default());
        world.settle();
        let listener = world.server.serve(false);
        let client = world.client.connect(world.server.address(false));
        std::thread::sleep(std::time::Duration::from_millis(300));
        world.snapshots.send_replace(complete);
        let server = accept(&listener);
        talk(&client, &server, b"word");
        world.stop();
    });
}

#[test]
fn a_connection_waits_for_the_certificate_of_its_pod() {
    on_both_back_ends(|mut world| {
        world.ca.is_open.send_replace(false);
        let late = world.near_pod("late", 7);
        let listener = world.server.serve(false);
        let client = late.connect(world.server.address(false));
        std::thread::sleep(std::time::Duration::from_millis(300));
        world.ca.is_open.send_replace(true);
        let server = accept(&listener);
        talk(&client, &server, b"word");
        drop((client, server));
        world.stop();
    });
}

#[test]
fn a_destination_that_stays_unknown_while_discovery_is_not_complete_is_refused_not_passed() {
    on_both_back_ends(|mut world| {
        let outside = world.net.pod("outside", 9);
        let listener = outside.serve(false);
        listener.set_nonblocking(true).unwrap();
        // The pod itself is known, so that only the missing rest keeps its connection waiting.
        let mut partial = mesh::Snapshot::default();
        let client = mesh::workload::TunnelProtocol::Hbone;
        partial.insert_workload(workload("client", &world.client, client));
        partial.set_policies_synced();
        world.snapshots.send_replace(Arc::new(partial));
        world.settle();
        let source = world.client.expect_refusal(outside.address(false));
        line(&["connection failed", &source, "discovery is not complete"]);
        let nobody = listener
            .accept()
            .expect_err("nothing was passed in plaintext");
        assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
        world.stop();
    });
}

#[test]
fn a_pod_without_a_certificate_is_refused_not_passed() {
    on_both_back_ends(|mut world| {
        world.ca.is_open.send_replace(false);
        let bare = world.near_pod("bare", 7);
        let listener = world.server.serve(false);
        listener.set_nonblocking(true).unwrap();
        let source = bare.expect_refusal(world.server.address(false));
        line(&["connection failed", &source, "no certificate for"]);
        let nobody = listener
            .accept()
            .expect_err("nothing was passed in plaintext");
        assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
        world.stop();
    });
}
