//! Which token speaks for which node. Only hashes are kept: who reads the state learns no token.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tokio::sync::watch;

use super::{PRIVATE, StateDir, StateError, Version, write_atomically};

/// File of the state directory.
const FILE: &str = "nodes.json";

/// Bytes of a token, as 64 hexadecimal digits on the wire.
const TOKEN_BYTES: usize = 32;

/// Longest node name in bytes (RFC 1123 subdomain).
const MAX_NODE_NAME_BYTES: usize = 253;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    nodes: BTreeMap<String, StoredNode>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredNode {
    /// Of the 64 digits, in hexadecimal.
    token_sha256: String,
}

/// Makes or replaces the token of a node and writes it to `out` (0600).
///
/// # Errors
/// A node name that Kubernetes would not take, or a file that cannot be written; the old token
/// stays valid then.
pub fn rotate(state: &StateDir, node: &str, out: &Path) -> Result<(), StateError> {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.');
    if node.is_empty() || node.len() > MAX_NODE_NAME_BYTES || !node.bytes().all(ok) {
        return Err(StateError::new(
            out,
            format!("`{node}` is no name of a node"),
        ));
    }
    let _lock = state.lock()?;
    let mut stored = load(state)?;
    let token = hex(&rand::random::<[u8; TOKEN_BYTES]>());
    let token_sha256 = hex(digest(&SHA256, token.as_bytes()).as_ref());
    stored
        .nodes
        .insert(node.to_owned(), StoredNode { token_sha256 });
    // The token first: a hash without its token would lock the node out.
    write_atomically(out, format!("{token}\n").as_bytes(), PRIVATE)?;
    let content = serde_json::to_vec_pretty(&stored).map_err(|e| StateError::new(FILE, e))?;
    state.write(FILE, &content, PRIVATE)
}

fn load(state: &StateDir) -> Result<Stored, StateError> {
    let Some(text) = state.read(FILE)? else {
        return Ok(Stored::default());
    };
    serde_json::from_str(&text).map_err(|error| StateError::new(state.path(FILE), error))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |i: usize| u8::from_str_radix(text.get(i..i + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..text.len()).step_by(2).map(digit).collect();
    bytes?.try_into().ok()
}

/// The tokens as the file has them now: read again whenever it was replaced.
#[derive(Clone)]
pub struct Nodes {
    inner: Arc<Inner>,
}

struct Inner {
    state: StateDir,
    current: Mutex<Current>,
    /// Grows with each change, so that open streams look again.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Current {
    version: Option<Version>,
    hashes: Vec<(Arc<str>, [u8; 32])>,
}

/// Who calls: a node, by the token it had then.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Name of the node.
    pub node: Arc<str>,
    hash: [u8; 32],
}

impl Nodes {
    /// The tokens of a state directory.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn open(state: StateDir) -> Result<Self, StateError> {
        load(&state)?;
        let (changes, _) = watch::channel(0);
        let inner = Inner {
            state,
            current: Mutex::default(),
            changes,
        };
        let nodes = Self {
            inner: Arc::new(inner),
        };
        nodes.refresh();
        Ok(nodes)
    }

    /// Reads the file again if it was replaced. When it cannot be read, the last good one counts.
    pub fn refresh(&self) {
        let mut current = self
            .inner
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let version = self.inner.state.version(FILE);
        if version == current.version {
            return;
        }
        match load(&self.inner.state) {
            Ok(stored) => {
                let hash = |node: StoredNode| unhex(&node.token_sha256);
                let read = stored.nodes.into_iter();
                current.hashes = read
                    .filter_map(|(n, h)| Some((n.into(), hash(h)?)))
                    .collect();
                self.inner.changes.send_modify(|change| *change += 1);
            }
            Err(error) => tracing::error!(%error, "tokens cannot be read; the last ones count"),
        }
        current.version = version;
    }

    /// The node that `token` speaks for, if any. Takes the same time whichever it is.
    pub fn authenticate(&self, token: &str) -> Option<Caller> {
        self.refresh();
        let hash: [u8; 32] = digest(&SHA256, token.as_bytes()).as_ref().try_into().ok()?;
        let current = self
            .inner
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let node = find(&current.hashes, &hash)?;
        Some(Caller {
            node: node.clone(),
            hash,
        })
    }

    /// Whether a caller's token is still the one of its node.
    pub fn still_valid(&self, caller: &Caller) -> bool {
        let current = self
            .inner
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        find(&current.hashes, &caller.hash).is_some_and(|node| *node == caller.node)
    }

    /// Tells of each change of the tokens.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }
}

fn find<'a>(hashes: &'a [(Arc<str>, [u8; 32])], hash: &[u8; 32]) -> Option<&'a Arc<str>> {
    let mut found = u64::MAX;
    for (index, (_, known)) in hashes.iter().enumerate() {
        let equal: Choice = known.ct_eq(hash);
        found.conditional_assign(&(index as u64), equal);
    }
    hashes
        .get(usize::try_from(found).ok()?)
        .map(|(node, _)| node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_speaks_for_its_node_until_it_is_rotated() {
        let base = tempfile::tempdir().unwrap();
        let state = StateDir::open(base.path()).unwrap();
        let nodes = Nodes::open(state.clone()).unwrap();
        let out = |name: &str| base.path().join(name);
        let token = |name: &str| {
            std::fs::read_to_string(out(name))
                .unwrap()
                .trim()
                .to_owned()
        };
        rotate(&state, "a", &out("a")).unwrap();
        rotate(&state, "b", &out("b")).unwrap();
        let (a, b) = (token("a"), token("b"));
        assert_eq!(a.len(), 64);
        let caller = nodes.authenticate(&a).unwrap();
        assert_eq!(&*caller.node, "a");
        assert_eq!(&*nodes.authenticate(&b).unwrap().node, "b");
        for wrong in ["", &a[..63], &a.to_uppercase(), &"0".repeat(64)] {
            assert!(nodes.authenticate(wrong).is_none(), "{wrong}");
        }
        assert!(nodes.still_valid(&caller));
        rotate(&state, "a", &out("a")).unwrap();
        assert!(nodes.authenticate(&a).is_none());
        assert!(!nodes.still_valid(&caller));
        assert_eq!(&*nodes.authenticate(&token("a")).unwrap().node, "a");
        let kept = std::fs::read_to_string(out("nodes.json")).unwrap();
        assert!(!kept.contains(&token("a")), "the state holds a token");
    }

    #[test]
    fn a_name_that_is_no_node_gets_no_token() {
        let base = tempfile::tempdir().unwrap();
        let state = StateDir::open(base.path()).unwrap();
        for name in ["", "A", "a/b", "a b"] {
            assert!(
                rotate(&state, name, &base.path().join("t")).is_err(),
                "{name}"
            );
        }
        assert!(!base.path().join("t").exists());
    }
}
