//! A route for a Service that has none.

use std::path::{Path, PathBuf};

use mesh::Service;

use super::error::CanaryError;
use super::split::Share;
use crate::manifests::Manifests;

/// The file and the text of a new route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct New {
    pub(super) file: PathBuf,
    pub(super) text: String,
}

/// A route that splits the Service's requests like this, for a file of its own.
///
/// # Errors
/// The Service or a backend is not in the manifests, or fewer than two backends are named.
pub(super) fn route(
    directory: &Path,
    (service, namespace): (&str, &str),
    shares: &[Share],
) -> Result<New, CanaryError> {
    if shares.len() < 2 || shares.iter().all(|share| share.weight == 0) {
        return Err(CanaryError::Split(
            "a new route needs the weight of every backend, at least two, and one above 0: \
             v1=95 v2=5"
                .to_owned(),
        ));
    }
    let manifests = Manifests::read(directory)?;
    let find = |name: &str| {
        let mut services = manifests.output.services.values();
        services.find(|s| *s.name == *name && *s.key.namespace == *namespace)
    };
    let missing = |what: &str| {
        CanaryError::Split(format!(
            "there is no Service {what} in namespace {namespace} of {}",
            directory.display()
        ))
    };
    find(service).ok_or_else(|| missing(service))?;
    let mut backends = String::new();
    // The largest share first: the first backend is the one that `rollback` goes back to.
    let mut shares: Vec<&Share> = shares.iter().collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.weight));
    for share in shares {
        let long = format!("{service}-{}", share.backend);
        let backend = find(&share.backend).or_else(|| find(&long));
        let backend = backend.ok_or_else(|| missing(&share.backend))?;
        let port = first_port(backend)
            .ok_or_else(|| CanaryError::Split(format!("Service {} has no port", backend.name)))?;
        let (name, weight) = (&backend.name, share.weight);
        backends.push_str(&format!(
            "        - name: {name}\n          port: {port}\n          weight: {weight}\n"
        ));
    }
    let text = format!(
        "# Written by `culvert canary set {service} --create`; the weights may be edited.\n\
         apiVersion: gateway.networking.k8s.io/v1\n\
         kind: HTTPRoute\n\
         metadata:\n  name: {service}\n  namespace: {namespace}\n\
         spec:\n  parentRefs:\n    - group: \"\"\n      kind: Service\n      name: {service}\n  \
         rules:\n    - backendRefs:\n{backends}"
    );
    let file = directory.join(format!("canary-{namespace}-{service}.yaml"));
    if file.exists() {
        return Err(CanaryError::Split(format!(
            "{} is there already",
            file.display()
        )));
    }
    Ok(New { file, text })
}

fn first_port(service: &Service) -> Option<u16> {
    service.ports.iter().map(|port| port.service_port).min()
}
