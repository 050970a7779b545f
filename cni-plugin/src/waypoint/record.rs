//! What is kept of each instance, so that an agent that starts again finds it: one file each,
//! written before anything is made and removed after everything is gone.
//!
//! The sandbox's name ends with its id in CNI calls, and that is the pod's UID without dashes: what
//! has lost its record (see `orphans`) can be taken away by its name or the record's.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use process::grpc::agent::WaypointReplica;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::durable;
use crate::message::PodName;

/// Replicas of a waypoint: the control plane's bound, and the step of pod numbers from one instance
/// of a replica to the next.
pub const REPLICAS: u32 = 16;

/// Largest record read, in bytes: a result of ADD has some KiB.
const MAX_RECORD_BYTES: u64 = 1024 * 1024;

/// Characters of an id, and of an UID.
const ID_CHARS: usize = 32;
const UID_CHARS: usize = ID_CHARS + 4;
/// Most characters of a pod's name in its sandbox's.
const MAX_NAME_IN_SANDBOX: usize = 50;

/// One instance of a replica: a sandbox and the process in it. Fields that are not known here are
/// passed over: an older agent must find what a newer one left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What it was made for.
    pub replica: WaypointReplica,
    /// Number in its pod's name: the replica's, plus 16 for each turn.
    pub number: u32,
    /// UID of its pod, random.
    pub uid: String,
    /// Id of its sandbox in CNI calls: the UID without dashes.
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
        let container_id = random_id();
        // Names of namespaces are file names; the id makes it unique whatever is cut off.
        let pod: String = pod_name(&replica.gateway, number)
            .chars()
            .take(MAX_NAME_IN_SANDBOX)
            .collect();
        let sandbox = format!("{prefix}{pod}-{container_id}");
        Self {
            replica,
            number,
            uid: uid_of(&container_id),
            container_id,
            sandbox,
            made_of,
            added: None,
            ready: false,
            draining: false,
        }
    }

    /// Of a sandbox whose record is lost; it can only be taken away. Without its id in CNI calls
    /// the chain keeps what it has of it.
    pub fn lost(sandbox: String, id: Option<String>) -> Self {
        let container_id = id.unwrap_or_else(random_id);
        let replica = WaypointReplica {
            namespace: "unknown".into(),
            gateway: "lost".into(),
            replica: 0,
            service_account: String::new(),
            revision: String::new(),
            trust_domain: String::new(),
        };
        Self {
            uid: uid_of(&container_id),
            container_id,
            sandbox,
            draining: true,
            ..Self::new(replica, 0, "", String::new())
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

fn random_id() -> String {
    // As an UID it is one of version 4, variant 1 (RFC 9562, 5.4).
    let id = rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62);
    format!("{:032x}", id | 0x4 << 76 | 0x2 << 62)
}

/// The id that ends a text (a sandbox's name, or an UID with or without dashes), if one does.
pub fn id_of(text: &str) -> Option<String> {
    let text = match text.len() {
        UID_CHARS => text.replace('-', ""),
        _ => text.rsplit('-').next().unwrap_or_default().to_owned(),
    };
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == ID_CHARS && text.bytes().all(is_hex)).then_some(text)
}

/// The id with dashes, as UIDs are written.
fn uid_of(id: &str) -> String {
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, id.len())];
    let parts = parts.map(|(from, to)| id.get(from..to).unwrap_or_default());
    parts.join("-")
}

/// What lies in the directory.
#[derive(Debug, Default, PartialEq)]
pub struct Loaded {
    /// The instances.
    pub records: Vec<Record>,
    /// UIDs, by the names of the files, of those whose record is there and cannot be read.
    pub unreadable: Vec<String>,
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
    /// See [`durable::replace`].
    pub fn save(&self, record: &Record) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(record)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)?;
        durable::replace(&self.path(&record.uid), &text, 0o600)
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

    /// All records. One that cannot be read is logged and named, and left where it is.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
    pub fn load(&self) -> io::Result<Loaded> {
        let mut loaded = Loaded::default();
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(loaded),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|ending| ending != "json") {
                continue;
            }
            match read(&path) {
                Ok(record) => loaded.records.push(record),
                Err(error) => {
                    let uid = path.file_stem().unwrap_or_default().to_string_lossy();
                    loaded.unreadable.push(uid.into());
                    let path = path.display();
                    tracing::error!(%path, %error, "a waypoint's record is unreadable");
                }
            }
        }
        Ok(loaded)
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
        assert_eq!(store.load().unwrap(), Loaded::default());
        let mut record = Record::new(replica("gate"), 17, "culvert-", "m".into());
        store.save(&record).unwrap();
        record.added = Some(serde_json::json!({ "ips": [{ "address": "10.0.0.9/24" }] }));
        store.save(&record).unwrap();
        fs::write(base.path().join("waypoints/bad.json"), "{").unwrap();
        let mut foreign = record.clone();
        foreign.sandbox = "../escape".into();
        let text = serde_json::to_vec(&foreign).unwrap();
        fs::write(base.path().join("waypoints/foreign.json"), text).unwrap();
        let mut loaded = store.load().unwrap();
        assert_eq!(loaded.records, [record.clone()]);
        loaded.unreadable.sort();
        assert_eq!(loaded.unreadable, ["bad", "foreign"]);
        assert_eq!(record.addresses(), ["10.0.0.9".parse::<IpAddr>().unwrap()]);
        store.remove(&record.uid).unwrap();
        store.remove(&record.uid).unwrap();
        assert_eq!(store.load().unwrap().records, []);
    }

    #[test]
    fn what_a_newer_agent_wrote_is_read_but_for_what_is_new() {
        let base = tempfile::tempdir().unwrap();
        let store = Store::new(base.path());
        let record = Record::new(replica("gate"), 1, "culvert-", "m".into());
        let mut newer = serde_json::to_value(&record).unwrap();
        newer["zone"] = "a".into();
        newer["replica"]["class"] = "b".into();
        let text = newer.to_string();
        fs::write(base.path().join(format!("{}.json", record.uid)), text).unwrap();
        assert_eq!(store.load().unwrap().records, [record]);
    }

    #[test]
    fn a_sandbox_and_a_record_tell_their_id() {
        let record = Record::new(replica("gate-way"), 1, "culvert-", String::new());
        for text in [&record.sandbox, &record.uid, &record.container_id] {
            assert_eq!(id_of(text).as_ref(), Some(&record.container_id), "{text}");
        }
        assert_eq!(uid_of(&record.container_id), record.uid);
        let uid: Vec<&str> = record.uid.split('-').collect();
        assert_eq!(
            uid.iter().map(|part| part.len()).collect::<Vec<_>>(),
            [8, 4, 4, 4, 12]
        );
        assert!(
            uid[2].starts_with('4') && uid[3].starts_with(['8', '9', 'a', 'b']),
            "{uid:?}"
        );
        for text in ["", "bad", "culvert-gate-1-3c1f9a20", &"g".repeat(32)] {
            assert_eq!(id_of(text), None, "{text}");
        }
        let lost = Record::lost(record.sandbox.clone(), id_of(&record.sandbox));
        let of = |record: Record| (record.sandbox, record.uid, record.container_id);
        assert_eq!(lost.mistake(), None);
        assert_eq!(of(lost), of(record));
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
