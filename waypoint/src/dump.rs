//! `/config_dump`: what the waypoint knows and does, as JSON. Shows no key.

mod routes;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use carrier::certificate::Certificates;
use carrier::limits::Limits;
use mesh::route::Book;
use mesh::snapshot::Snapshot;
use process::admin::domain;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::config::Config;
use crate::connection::Connection;
use crate::worker::command::Workers;

/// One live connection.
pub struct ConnectionView {
    source: SocketAddr,
    authority: Arc<str>,
    identity: Option<String>,
    endpoint: Option<SocketAddr>,
    is_opaque: bool,
}

impl ConnectionView {
    /// What is known of it now.
    pub fn of(connection: &Connection) -> Self {
        let details = connection.details.borrow();
        let identity = details.source.identity.as_ref();
        Self {
            source: connection.source,
            authority: Arc::clone(&connection.authority),
            identity: identity.map(ToString::to_string),
            endpoint: details.actual,
            is_opaque: connection.is_opaque.get(),
        }
    }

    fn json(&self) -> Value {
        json!({
            "src": self.source,
            "srcIdentity": self.identity,
            "authority": self.authority,
            "actualDst": self.endpoint,
            "protocol": if self.is_opaque { "TCP" } else { "HTTP" },
        })
    }
}

/// Where the dump finds what it shows.
#[derive(Clone)]
pub struct Sources {
    /// What is known of the mesh.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Routes and targeted policies.
    pub books: watch::Receiver<Arc<Book>>,
    /// The certificate.
    pub certificates: Arc<Certificates>,
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
    let connections: Vec<_> = connections.iter().map(ConnectionView::json).collect();
    let snapshot = sources.snapshots.borrow().clone();
    let book = sources.books.borrow().clone();
    Json(json!({
        "workloads": snapshot.workloads().map(|w| domain::workload(w)).collect::<Vec<_>>(),
        "services": snapshot.services().map(|s| domain::service(s)).collect::<Vec<_>>(),
        "policies": snapshot.policies().map(|p| domain::policy(p)).collect::<Vec<_>>(),
        "routes": routes::all(&book),
        "targetPolicies": book.policies.all().map(|p| routes::policy(p)).collect::<Vec<_>>(),
        "certificates": sources.certificates.status(),
        "connections": connections,
        "config": &*sources.config,
        "limits": &sources.limits,
        "version": { "version": env!("CARGO_PKG_VERSION"), "name": "culvert-waypoint" },
    }))
}

#[cfg(test)]
mod tests;
