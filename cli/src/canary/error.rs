//! Why a split is not changed or not told.

use std::io;
use std::path::PathBuf;

use process::manifests::DirectoryError;

use crate::manifests::ManifestsError;

/// Why a split is not changed or not told. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// The directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// What is in it.
    #[error(transparent)]
    Manifests(#[from] ManifestsError),
    /// No route has the Service as its parent.
    #[error(
        "no HTTPRoute or GRPCRoute{} in the namespace of Service {service} has it as parentRef; \
         {hint}",
        .route.as_deref().unwrap_or_default()
    )]
    NoRoute {
        /// `namespace/name`.
        service: String,
        /// ` of the name web`.
        route: Option<String>,
        /// What to do: another namespace, a file that may have it, or how to write one.
        hint: String,
    },
    /// Its routes have no rule with these backends.
    #[error(
        "{routes} of Service {service} has no rule with two or more backendRefs{}{others}",
        match .backends.as_str() {
            "" => String::new(),
            backends => format!(" and among them {backends}"),
        }
    )]
    NoRule {
        /// `namespace/name`.
        service: String,
        /// Its routes.
        routes: String,
        /// What was asked for.
        backends: String,
        /// `; rule 4 (split) has web-v1, web-v2`, or nothing.
        others: String,
    },
    /// Several rules fit.
    #[error(
        "Service {service}: {rules} all have these backends; say which with --route and --rule"
    )]
    Several {
        /// `namespace/name`.
        service: String,
        /// The rules.
        rules: String,
    },
    /// The weights stand where they cannot be changed.
    #[error("{rule} in {}: {why}; change it by hand", .file.display())]
    Uneditable {
        /// Which rule.
        rule: String,
        /// Its file.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// The split that was asked for.
    #[error("{0}")]
    Split(String),
    /// The file could not be written; it is as it was.
    #[error("{}: {source}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The counters.
    #[error("metrics of {address}: {why}")]
    Metrics {
        /// As given.
        address: String,
        /// What went wrong.
        why: String,
    },
}
