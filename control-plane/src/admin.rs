//! What an operator sees: readiness, metrics, the log level, and `/debug/status`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use process::admin::{Readiness, json, logging, metrics, readiness};
use process::telemetry::LogControl;
use prometheus_client::registry::Registry;
use serde::Serialize;
use translate::{Condition, ListenerStatus, SourceError};

use crate::discovery::acks::{Acks, StreamStatus};
use crate::engine::EngineHandle;

#[derive(Serialize)]
struct Page {
    revision: u64,
    addresses: usize,
    policies: usize,
    source: Source,
    streams: Vec<StreamStatus>,
    /// Pods reported, by node.
    reports: BTreeMap<String, Vec<Report>>,
    /// Conditions by object.
    objects: BTreeMap<String, Vec<Condition>>,
    /// Of Gateways: what there is beside conditions.
    listeners: BTreeMap<String, Vec<ListenerStatus>>,
}

#[derive(Serialize)]
struct Source {
    objects: usize,
    errors: Vec<SourceError>,
}

#[derive(Serialize)]
struct Report {
    pod: String,
    uid: String,
    ips: Vec<std::net::IpAddr>,
    enrolled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    waypoint: Option<translate::WaypointReport>,
}

/// All routes.
pub fn router(
    engine: EngineHandle,
    acks: Acks,
    registry: Registry,
    ready: Readiness,
    log: Option<LogControl>,
) -> Router {
    let router = metrics(Arc::new(registry))
        .merge(readiness(ready))
        .merge(json("/debug/status", move || page(&engine, &acks)));
    match log {
        Some(control) => router.merge(logging(control)),
        None => router,
    }
}

fn page(engine: &EngineHandle, acks: &Acks) -> Page {
    let published = engine.now();
    let report = |pod: &translate::PodReport| Report {
        pod: pod.name.to_string(),
        uid: pod.uid.to_string(),
        ips: pod.ips.clone(),
        enrolled: pod.enrolled,
        waypoint: pod.waypoint.clone(),
    };
    let reports = published.reports.iter();
    let objects = published.statuses.iter();
    let listeners = published.listeners.iter();
    Page {
        revision: published.revision,
        addresses: published.addresses.len(),
        policies: published.policies.len(),
        source: Source {
            objects: published.objects.len(),
            errors: published.errors.clone(),
        },
        streams: acks.status(),
        reports: reports
            .map(|(node, pods)| (node.to_string(), pods.iter().map(report).collect()))
            .collect(),
        objects: objects
            .map(|(key, conditions)| (key.to_string(), conditions.clone()))
            .collect(),
        listeners: listeners
            .map(|(key, listeners)| (key.to_string(), listeners.clone()))
            .collect(),
    }
}
