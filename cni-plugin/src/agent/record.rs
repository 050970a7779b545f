//! What the agent must know of a pod after its own restart, one small JSON file a pod.
//!
//! The files lie in /run: they end with the boot, as namespaces and pins do. Knows no BPF.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable;
use crate::message::PodName;
use crate::steering::sysctls::Before;

/// Longest record that is read, in bytes; a pod with 64 IPv6 addresses has 4 KiB.
const MAX_RECORD_BYTES: u64 = 64 * 1024;

/// How far a pod's capture has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Known, not captured.
    NotEnrolled,
    /// Between the first and the last step: what is found in this phase is undone.
    Enrolling,
    /// Captured.
    Enrolled,
    /// Un-enrolled; rules and proxy stay for the connections that were captured.
    Leaving,
}

impl Phase {
    /// All, for metrics.
    pub const ALL: [Self; 4] = [
        Self::NotEnrolled,
        Self::Enrolling,
        Self::Enrolled,
        Self::Leaving,
    ];

    /// As in the record, the status and the metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotEnrolled => "not_enrolled",
            Self::Enrolling => "enrolling",
            Self::Enrolled => "enrolled",
            Self::Leaving => "leaving",
        }
    }
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Who.
    pub pod: PodName,
    /// The runtime's sandbox; empty for a pod that only a command named.
    pub container_id: String,
    /// Where the agent can open the namespace; None when the runtime's path means nothing here.
    pub netns: Option<PathBuf>,
    /// Cookie of the namespace.
    pub cookie: u64,
    /// Its addresses, the runtime's first.
    pub ips: Vec<IpAddr>,
    /// The addresses that the runtime gave it, or that it had when a command enrolled it; empty
    /// while it is not known. Only these are its own for the mesh: a pod can give itself any.
    #[serde(default)]
    pub given: Vec<IpAddr>,
    /// How far it is.
    pub phase: Phase,
    /// Why it is in this phase, a sentence.
    pub reason: String,
    /// Its service account; empty while it is not known.
    pub service_account: String,
    /// The sysctls as they were before enrolment.
    #[serde(default)]
    pub sysctls_before: Before,
    /// While it is being enrolled: why it was known as not enrolled before, if it was. It is that
    /// again when the enrolment fails.
    #[serde(default)]
    pub passed: Option<String>,
}

impl Record {
    /// The addresses that the control plane is told: those it has of the given ones.
    pub fn reported(&self) -> Vec<IpAddr> {
        let has = |ip: &&IpAddr| self.given.is_empty() || self.given.contains(ip);
        self.ips.iter().filter(has).copied().collect()
    }
}

/// What lies in the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The pods.
    pub records: Vec<Record>,
    /// Uids, by the names of the files, of pods whose record is there and cannot be read.
    pub unreadable: BTreeSet<String>,
}

/// The directory of the records.
#[derive(Clone, Debug)]
pub struct StateDir {
    dir: PathBuf,
}

impl StateDir {
    /// Makes the directory (0700) if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// Writes a record; a reader sees the old or the new one.
    ///
    /// # Errors
    /// See [`durable::replace`].
    pub fn save(&self, record: &Record) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(record)?;
        durable::replace(&self.path(&record.pod.uid), &text, 0o600)
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
    /// When the directory cannot be read.
    pub fn load(&self) -> io::Result<Loaded> {
        let mut loaded = Loaded::default();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_none_or(|ending| ending != "json") {
                continue;
            }
            match read(&path) {
                Ok(record) => loaded.records.push(record),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "a pod's record is unreadable");
                    let uid = path.file_stem().unwrap_or_default();
                    loaded.unreadable.insert(uid.to_string_lossy().into());
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
    let file = File::open(path)?;
    let record: Record = serde_json::from_reader(io::Read::take(file, MAX_RECORD_BYTES))?;
    match record.pod.mistake() {
        None => Ok(record),
        Some(mistake) => Err(io::Error::new(io::ErrorKind::InvalidData, mistake)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(uid: &str) -> Record {
        Record {
            pod: PodName {
                uid: uid.into(),
                namespace: "shop".into(),
                name: "web".into(),
            },
            container_id: "c1".into(),
            netns: Some("/run/netns/x".into()),
            cookie: u64::MAX,
            ips: vec!["10.0.0.1".parse().unwrap()],
            given: vec!["10.0.0.1".parse().unwrap()],
            phase: Phase::Enrolled,
            reason: "label".into(),
            service_account: "web".into(),
            sysctls_before: [("net/ipv4/tcp_fwmark_accept".to_owned(), "0".to_owned())].into(),
            passed: None,
        }
    }

    #[test]
    fn an_address_that_a_pod_gave_itself_is_not_reported() {
        let ips = |texts: &[&str]| -> Vec<IpAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let mut record = record("u-1");
        record.given = ips(&["10.0.0.1", "fd00::1"]);
        record.ips = ips(&["fd00::1", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(record.reported(), ips(&["fd00::1", "10.0.0.1"]));
        record.ips = ips(&["10.0.0.2"]);
        assert_eq!(record.reported(), ips(&[]));
        // A record of an agent that did not know the difference.
        record.given.clear();
        assert_eq!(record.reported(), ips(&["10.0.0.2"]));
    }

    #[test]
    fn records_come_back_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(&dir.path().join("pods")).unwrap();
        let mut first = record("u-1");
        state.save(&first).unwrap();
        first.phase = Phase::Leaving;
        state.save(&first).unwrap();
        assert_eq!(state.load().unwrap().records, [first]);
        state.remove("u-1").unwrap();
        state.remove("u-1").unwrap();
        assert_eq!(state.load().unwrap(), Loaded::default());
    }

    #[test]
    fn an_unreadable_record_is_named_and_hides_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        fs::write(dir.path().join("bad.json"), "{").unwrap();
        let mut foreign = record("u-2");
        foreign.pod.uid = "../escape".into();
        fs::write(
            dir.path().join("foreign.json"),
            serde_json::to_vec(&foreign).unwrap(),
        )
        .unwrap();
        state.save(&record("u-1")).unwrap();
        let loaded = state.load().unwrap();
        assert_eq!(loaded.records, [record("u-1")]);
        let unreadable = ["bad".to_owned(), "foreign".to_owned()];
        assert_eq!(loaded.unreadable, unreadable.into());
    }
}
