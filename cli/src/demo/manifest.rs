//! The demo's manifests, and the changes that the scenarios make to a copy of them.

use std::fs;
use std::path::{Path, PathBuf};

use crate::demo::DemoError;

/// `demo/manifests/`, compiled in so that the binary works from anywhere.
const FILES: &[(&str, &str)] = &[
    (
        "00-cluster.yaml",
        include_str!("../../../demo/manifests/00-cluster.yaml"),
    ),
    (
        "10-accounts.yaml",
        include_str!("../../../demo/manifests/10-accounts.yaml"),
    ),
    (
        "20-pods.yaml",
        include_str!("../../../demo/manifests/20-pods.yaml"),
    ),
    (
        "30-web.yaml",
        include_str!("../../../demo/manifests/30-web.yaml"),
    ),
];

/// Refuses plaintext for every pod of the namespace.
pub const STRICT: &str = "\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata:
  name: default
  namespace: demo
spec:
  mtls:
    mode: STRICT
";

/// The policy's name as the logs give it.
pub const NO_INTRUDER_NAME: &str = "demo/no-intruder";

/// Refuses one account, by identity, at the Service's pods.
pub const NO_INTRUDER: &str = "\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: no-intruder
  namespace: demo
spec:
  selector:
    matchLabels:
      app: web
  action: DENY
  rules:
    - from:
        - source:
            principals:
              - cluster.local/ns/demo/sa/intruder
";

/// A directory of manifests that a control plane watches.
#[derive(Clone, Debug)]
pub struct Manifests(PathBuf);

impl Manifests {
    /// Writes the demo's files into a new directory.
    pub fn copy_to(directory: PathBuf) -> Result<Self, DemoError> {
        let manifests = Manifests::empty(directory)?;
        for (name, text) in FILES {
            manifests.put(name, text)?;
        }
        Ok(manifests)
    }

    /// A new directory with nothing in it.
    pub fn empty(directory: PathBuf) -> Result<Self, DemoError> {
        let manifests = Manifests(directory);
        fs::create_dir_all(&manifests.0).map_err(|e| manifests.failed("", e))?;
        Ok(manifests)
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// Adds or replaces a file, in one step for whoever watches.
    pub fn put(&self, name: &str, text: &str) -> Result<(), DemoError> {
        // A name with a leading dot is not read as a manifest.
        let new = self.0.join(format!(".{name}.new"));
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, self.0.join(name)))
            .map_err(|e| self.failed(name, e))
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) -> Result<(), DemoError> {
        fs::remove_file(self.0.join(name)).map_err(|e| self.failed(name, e))
    }

    fn failed(&self, name: &str, source: std::io::Error) -> DemoError {
        DemoError::Write {
            path: self.0.join(name),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_directory_is_compiled_in() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/manifests");
        let mut names: Vec<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(
            names,
            FILES.iter().map(|(name, _)| *name).collect::<Vec<_>>()
        );
    }
}
