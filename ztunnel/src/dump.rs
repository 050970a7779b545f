//! `/config_dump`: what this proxy knows and does, as JSON. Shows no key.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use mesh::snapshot::Snapshot;
use process::admin::domain;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::config::Config;
use crate::connection::{Connection, Direction};
use crate::pod::PodUid;
use crate::pods::PodMap;
use crate::worker::command::Workers;
use carrier::certificate::Certificates;
use carrier::limits::Limits;

/// One live connection.
pub struct ConnectionView {
    /// Its pod.
    pub pod: PodUid,
    /// Which way it goes.
    pub direction: Direction,
    source: SocketAddr,
    original: SocketAddr,
    actual: SocketAddr,
    is_tunnelled: bool,
}

impl ConnectionView {
    /// What is known of it now.
    pub fn of(connection: &Connection) -> Self {
        Self {
            pod: connection.pod.uid.clone(),
            direction: connection.direction,
            source: connection.source(),
            original: connection.destination(),
            actual: connection.actual(),
            is_tunnelled: connection.details.borrow().authority.is_some(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "src": self.source,
            "originalDst": self.original,
            "actualDst": self.actual,
            "protocol": if self.is_tunnelled { "HBONE" } else { "TCP" },
        })
    }
}

/// Where the dump finds what it shows.
#[derive(Clone)]
pub struct Sources {
    /// What is known of the mesh.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Certificates.
    pub certificates: Arc<Certificates>,
    /// Pods of this node.
    pub pods: watch::Receiver<PodMap>,
    /// Who knows the connections.
    pub workers: Workers,
    /// The flags.
    pub config: Arc<Config>,
    /// The limits.
    pub limits: Limits,
}

/// The route.
pub fn routes(sources: Sources) -> Router {
    Router::new()
        .route("/config_dump", get(dump))
        .with_state(sources)
}

async fn dump(State(sources): State<Sources>) -> Json<Value> {
    let connections = sources.workers.dump().await;
    let snapshot = sources.snapshots.borrow().clone();
    let pods = sources.pods.borrow().clone();
    Json(json!({
        "workloads": snapshot.workloads().map(|w| domain::workload(w)).collect::<Vec<_>>(),
        "services": snapshot.services().map(|s| domain::service(s)).collect::<Vec<_>>(),
        "policies": snapshot.policies().map(|p| domain::policy(p)).collect::<Vec<_>>(),
        "certificates": sources.certificates.status(),
        "workloadState": pod_states(&pods, &connections),
        "config": &*sources.config,
        "limits": &sources.limits,
        "version": { "version": env!("CARGO_PKG_VERSION"), "name": "culvert-ztunnel" },
    }))
}

fn pod_states(pods: &PodMap, connections: &[ConnectionView]) -> BTreeMap<String, Value> {
    let list = |uid: &PodUid, direction: Direction| -> Vec<_> {
        let of_pod = connections
            .iter()
            .filter(|c| c.pod == *uid && c.direction == direction);
        of_pod.map(ConnectionView::json).collect()
    };
    let state = |uid: &PodUid, pod: &crate::pod::Pod| {
        json!({
            "state": "Up",
            "info": {
                "name": pod.name,
                "namespace": pod.namespace,
                "serviceAccount": pod.identity.service_account(),
                "trustDomain": pod.identity.trust_domain(),
            },
            "connections": {
                "inbound": list(uid, Direction::Inbound),
                "outbound": list(uid, Direction::Outbound),
            },
        })
    };
    pods.iter()
        .map(|(uid, pod)| (uid.to_string(), state(uid, pod)))
        .collect()
}
