//! What is kept of each instance, so that an agent that starts again finds it: one file each,
//! written before anything is made and removed after everything is gone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use process::grpc::agent::WaypointReplica;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::message::PodName;

/// Replicas of a waypoint: the control plane's bound, and the step of pod numbers from one instance
/// of a replica to the next.
pub const REPLICAS: u32 = 16;

/// Largest record read, in bytes: a result of ADD has some KiB.
const MAX_RECORD_BYTES: u64 = 1024 * 1024;

/// One instance of a replica: a sandbox and the process in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What it was made for.
    pub replica: WaypointReplica,
    /// Number in its pod's name: the replica's, plus 16 for each turn.
    pub number: u32,
    /// UID of its pod, random.
    pub uid: String,
    /// Id of its sandbox in CNI calls, random.
    pub container_id: String,
    /// Name of its network namespace, and of its cgroup.
    pub sandbox: String,
    /// What the running process was made of; see `made`.
    pub made_of: String,
    /// The chain's result; None until ADD is done.
    pub added: Option<Value>,
    /// It was ready when it was last asked: an agent that starts must not withdraw it before it
    /// has asked itself.
    pub ready: bool,
    /// It shall end.
    pub draining: bool,
}

impl Record {
    /// Of a new instance.
    pub fn new(replica: WaypointReplica, number: u32, prefix: &str, made_of: String) -> Self {
        let uid = random_uid();
        let container_id = random_uid().replace('-', "");
        // Names of namespaces are file names; the UID makes it unique whatever is cut off.
        let pod: String = pod_name(&replica.gateway, number)
            .chars()
            .take(60)
            .collect();
        let sandbox = format!("{prefix}{pod}-{}", &uid[..8]);
        Self {
            replica,
            number,
            uid,
            container_id,
            sandbox,
            made_of,
            added: None,
            ready: false,
            draining: false,
        }
    }

    /// Name of its pod.
    pub fn name(&self) -> String {
        pod_name(&self.replica.gateway, self.number)
    }

    /// What is wrong with it, if anything: it names files and becomes an argument.
    pub fn mistake(&self) -> Option<String> {
        let pod = PodName {
            uid: self.uid.clone(),
            namespace: self.replica.namespace.clone(),
            name: self.name(),
        };
        let fits = !self.sandbox.contains('/') && !self.sandbox.starts_with('.');
        let no_file = || (!fits).then(|| format!("sandbox {:?} is no file name", self.sandbox));
        pod.mistake().or_else(no_file)
    }

    /// The addresses that the chain gave it.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.added
            .as_ref()
            .map(chain::addresses)
            .unwrap_or_default()
    }
}

fn pod_name(gateway: &str, number: u32) -> String {
    format!("{gateway}-{number}")
}

fn random_uid() -> String {
    let hex = format!("{:032x}", rand::random::<u128>());
    // Version 4, variant 1 (RFC 9562, 5.4).
    format!(
        "{}-{}-4{}-8{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..]
    )
}

/// The directory of records.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// Of that directory, which need not be there.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
        }
    }

    /// Writes a record; a reader sees the old or the new one.
    ///
    /// # Errors
    /// When it cannot be written, naming the file.
    pub fn save(&self, record: &Record) -> io::Result<()> {
        let path = self.path(&record.uid);
        let beside = path.with_extension("new");
        let text = serde_json::to_vec_pretty(record)?;
        let write = || {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.dir)?;
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            options.open(&beside)?.write_all(&text)?;
            fs::rename(&beside, &path)
        };
        write().map_err(|error| {
            // The error that is reported is the first one.
            let _ = fs::remove_file(&beside);
            io::Error::new(error.kind(), format!("{}: {error}", path.display()))
        })
    }

    /// Removes a record. Unknown is fine.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove(&self, uid: &str) -> io::Result<()> {
        match fs::remove_file(self.path(uid)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All records. One that cannot be read is logged, named, and left where it is.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
    pub fn load(&self) -> io::Result<Vec<Record>> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut records = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|ending| ending != "json") {
                continue;
            }
            match read(&path) {
                Ok(record) => records.push(record),
                Err(error) => {
                    let path = path.display();
                    tracing::error!(%path, %error, "a waypoint's record is unreadable");
                }
            }
        }
        Ok(records)
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.dir.join(format!("{uid}.json"))
    }
}

fn read(path: &Path) -> io::Result<Record> {
    let file = File::open(path)?.take(MAX_RECORD_BYTES);
    let record: Record = serde_json::from_reader(file)?;
    match record.mistake() {
        None => Ok(record),
        Some(mistake) => Err(io::Error::new(io::ErrorKind::InvalidData, mistake)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(gateway: &str) -> WaypointReplica {
        super::super::tests::replica(gateway, 1)
    }

    #[test]
    fn records_come_back_and_go_and_a_bad_one_hides_no_other() {
        let base = tempfile::tempdir().unwrap();
        let store = Store::new(&base.path().join("waypoints"));
        assert_eq!(store.load().unwrap(), []);
        let mut record = Record::new(replica("gate"), 17, "culvert-", "m".into());
        store.save(&record).unwrap();
        record.added = Some(serde_json::json!({ "ips": [{ "address": "10.0.0.9/24" }] }));
        store.save(&record).unwrap();
        fs::write(base.path().join("waypoints/bad.json"), "{").unwrap();
        let mut foreign = record.clone();
        foreign.sandbox = "../escape".into();
        let text = serde_json::to_vec(&foreign).unwrap();
        fs::write(base.path().join("waypoints/foreign.json"), text).unwrap();
        assert_eq!(store.load().unwrap(), [record.clone()]);
        assert_eq!(record.addresses(), ["10.0.0.9".parse::<IpAddr>().unwrap()]);
        store.remove(&record.uid).unwrap();
        store.remove(&record.uid).unwrap();
        assert_eq!(store.load().unwrap(), []);
    }

    #[test]
    fn two_instances_of_a_replica_share_no_name() {
        let first = Record::new(replica("gate"), 1, "culvert-", String::new());
        let second = Record::new(replica("gate"), 17, "culvert-", String::new());
        assert_eq!(
            (first.name(), second.name()),
            ("gate-1".into(), "gate-17".into())
        );
        assert_ne!(first.uid, second.uid);
        assert_ne!(first.sandbox, second.sandbox);
        assert_eq!(first.mistake(), None);
        let long = Record::new(replica(&"g".repeat(250)), 1, "culvert-", String::new());
        assert!(long.sandbox.len() < 100, "a file name of bounded length");
    }

    #[test]
    fn a_gateway_that_is_no_name_is_refused() {
        for bad in ["../x", "a/b", "A", "a b"] {
            let record = Record::new(replica(bad), 1, "culvert-", String::new());
            assert!(record.mistake().is_some(), "{bad}");
        }
    }
}
