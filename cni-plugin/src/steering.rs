//! Steering: how the connections of an enrolled pod come to the proxy's listeners, without
//! iptables. `steering.md` has the design; the order of its steps is the agent's.
//!
//! Knows namespaces, addresses and sockets; knows no CNI, no ZDS and no control plane.

pub mod abi;
pub mod connections;
pub mod fault;
pub mod hook;
pub mod listeners;
pub mod pod;
pub mod probe;
pub mod program;
pub mod routes;
pub mod sysctls;
pub mod watch;

use std::fmt;

/// A step with BPF that failed: what was tried and the innermost reason.
#[derive(Debug)]
pub struct BpfError {
    step: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl BpfError {
    pub(crate) fn step<E>(step: &'static str) -> impl FnOnce(E) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        move |source| Self {
            step: step.to_owned(),
            source: Some(Box::new(source)),
        }
    }

    pub(crate) fn missing(what: &str) -> Self {
        Self {
            step: format!("the compiled object has no {what}"),
            source: None,
        }
    }
}

impl fmt::Display for BpfError {
    /// With all causes on one line: what the verifier or the kernel said is at their end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.step)?;
        let mut cause: Option<&(dyn std::error::Error + 'static)> = None;
        if let Some(source) = &self.source {
            cause = Some(source.as_ref());
        }
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for BpfError {}
