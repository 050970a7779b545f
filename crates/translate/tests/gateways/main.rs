//! Gateways of a waypoint class: their waypoints, their listeners, what they ask for in vain, and
//! the policies that are for them. Here is what all of these tests begin with.

#![allow(clippy::unwrap_used)] // The helpers are tests too.

mod asked;
mod listeners;
mod made;
mod targets;

use std::fmt::Write as _;

use translate::object::Name;
use translate::{
    Allocations, Collection, Input, Objects, Options, Output, PodReport, WaypointReport, translate,
};

/// A listener that makes a Gateway a waypoint.
const HBONE: &str = "  - {name: mesh, port: 15008, protocol: HBONE}\n";

/// Gateway `shop/wp` with these further fields of its spec, and these listeners.
fn gateway(spec: &str, listeners: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
         metadata: {{name: wp, namespace: shop}}\n\
         spec:\n  gatewayClassName: culvert-waypoint\n{spec}  listeners:\n{listeners}---\n"
    )
}

/// What an agent reports of a replica of `shop/wp`.
fn replica(name: &str, ip: &str, ready: bool, draining: bool) -> PodReport {
    PodReport {
        node: "node-a".into(),
        name: Name::new("shop", name),
        uid: format!("uid-{name}").into(),
        ips: vec![ip.parse().unwrap()],
        enrolled: false,
        waypoint: Some(WaypointReport {
            gateway: "wp".into(),
            replica: 0,
            revision: "1".into(),
            ready,
            draining,
            problem: if ready { "" } else { "starting" }.into(),
        }),
    }
}

fn loaded(text: &str) -> (Objects, Vec<String>) {
    let mut collection = Collection::default();
    collection.load("f.yaml", text);
    let (objects, errors) = collection.objects();
    (objects, errors.into_iter().map(|e| e.reason).collect())
}

fn translated(text: &str, reports: &[PodReport]) -> Output {
    let (objects, errors) = loaded(text);
    assert!(errors.is_empty(), "{errors:?}\n{text}");
    translate(&Input {
        objects: &objects,
        reports,
        vips: &Allocations::new(),
        options: &Options::default(),
    })
}

/// All conditions of an object, one a line.
fn said(output: &Output, object: &str) -> String {
    let mut text = String::new();
    let all = output.statuses.iter();
    for (_, conditions) in all.filter(|(key, _)| key.to_string() == object) {
        for c in conditions {
            let at = c.parent.as_deref().unwrap_or("-");
            let (kind, status, reason) = (c.kind, c.status, c.reason);
            writeln!(text, "{at} {kind} {status:?} {reason}: {}", c.message).unwrap();
        }
    }
    text
}
