//! What outlives the process: the last good documents, the last reports of nodes, the addresses
//! given to services. Without the reports a restarted culvertd would for some seconds say that no
//! pod has an address, and traffic to them would leave in plaintext; without the documents a
//! policy that is broken at that moment would be gone.
//!
//! All of it is a memory, not a source: what cannot be read is logged and forgotten.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use translate::collection::Kept;
use translate::object::Name;
use translate::{Allocations, Collection, PodReport, WaypointReport};

use crate::state::{PRIVATE, StateDir};

const DOCUMENTS_FILE: &str = "documents.json";
const REPORTS_FILE: &str = "reports.json";
const VIPS_FILE: &str = "vips.json";

/// Writes to the state directory.
pub(super) struct Memory {
    state: StateDir,
}

/// What was there.
pub(super) struct Remembered {
    pub(super) collection: Collection,
    pub(super) reports: BTreeMap<Arc<str>, Vec<PodReport>>,
    pub(super) vips: Allocations,
}

#[derive(Serialize, Deserialize)]
struct StoredReport {
    namespace: String,
    name: String,
    uid: String,
    ips: Vec<std::net::IpAddr>,
    enrolled: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    waypoint: Option<WaypointReport>,
}

impl Memory {
    pub(super) fn open(state: StateDir) -> (Self, Remembered) {
        let memory = Self { state };
        let kept: Vec<Kept> = memory.read(DOCUMENTS_FILE);
        let stored: BTreeMap<String, Vec<StoredReport>> = memory.read(REPORTS_FILE);
        let mut reports = BTreeMap::new();
        for (node, pods) in stored {
            let node: Arc<str> = node.into();
            let pods = pods.into_iter().map(|pod| PodReport {
                node: node.clone(),
                name: Name::new(&pod.namespace, &pod.name),
                uid: pod.uid.into(),
                ips: pod.ips,
                enrolled: pod.enrolled,
                waypoint: pod.waypoint,
            });
            let pods = pods.collect();
            reports.insert(node, pods);
        }
        let vips = memory.read(VIPS_FILE);
        let collection = Collection::restore(&kept);
        (
            memory,
            Remembered {
                collection,
                reports,
                vips,
            },
        )
    }

    pub(super) fn keep_documents(&self, collection: &Collection) {
        self.write(DOCUMENTS_FILE, &collection.export());
    }

    pub(super) fn keep_reports(&self, reports: &BTreeMap<Arc<str>, Vec<PodReport>>) {
        let stored = |pod: &PodReport| StoredReport {
            namespace: pod.name.namespace.to_string(),
            name: pod.name.name.to_string(),
            uid: pod.uid.to_string(),
            ips: pod.ips.clone(),
            enrolled: pod.enrolled,
            waypoint: pod.waypoint.clone(),
        };
        let nodes: BTreeMap<&str, Vec<StoredReport>> = reports
            .iter()
            .map(|(node, pods)| (&**node, pods.iter().map(stored).collect()))
            .collect();
        self.write(REPORTS_FILE, &nodes);
    }

    pub(super) fn keep_vips(&self, vips: &Allocations) {
        self.write(VIPS_FILE, vips);
    }

    fn read<T: DeserializeOwned + Default>(&self, name: &str) -> T {
        let text = match self.state.read(name) {
            Ok(None) => return T::default(),
            Ok(Some(text)) => text,
            Err(error) => {
                tracing::warn!(%error, "not remembered");
                return T::default();
            }
        };
        serde_json::from_str(&text).unwrap_or_else(|error| {
            tracing::warn!(file = name, %error, "not remembered");
            T::default()
        })
    }

    fn write<T: Serialize>(&self, name: &str, content: &T) {
        let written = serde_json::to_vec(content)
            .map_err(|error| crate::state::StateError::new(self.state.path(name), error))
            .and_then(|bytes| self.state.write(name, &bytes, PRIVATE));
        if let Err(error) = written {
            tracing::warn!(%error, "will not be remembered");
        }
    }
}
