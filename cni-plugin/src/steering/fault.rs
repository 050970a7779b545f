//! What can be wrong with a pod's capture, in the words of commands, logs and metrics.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The part that is missing or wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The ip rule of the capture mark.
    Rule,
    /// A route of table 100.
    Route,
    /// A sysctl of the pod's namespace.
    Sysctl,
    /// The sk_lookup link of the namespace, or the pins of its program.
    Link,
    /// A listener's slot.
    Listener,
    /// The pod's addresses as the program knows them.
    Address,
    /// The namespace's cookie in the connect hook's map.
    Cookie,
    /// The node's connect hook.
    Hook,
    /// All parts are in place, and yet a connection was not captured: something else on the node
    /// or in the pod is in the way.
    Connection,
    /// The namespace cannot be looked into.
    Namespace,
}

impl Cause {
    /// All, for metrics.
    pub const ALL: [Self; 10] = [
        Self::Rule,
        Self::Route,
        Self::Sysctl,
        Self::Link,
        Self::Listener,
        Self::Address,
        Self::Cookie,
        Self::Hook,
        Self::Connection,
        Self::Namespace,
    ];

    /// As in JSON and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Route => "route",
            Self::Sysctl => "sysctl",
            Self::Link => "link",
            Self::Listener => "listener",
            Self::Address => "address",
            Self::Cookie => "cookie",
            Self::Hook => "hook",
            Self::Connection => "connection",
            Self::Namespace => "namespace",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The part.
    pub cause: Cause,
    /// What is wrong with it, a sentence.
    pub what: String,
}

impl Fault {
    /// A fault in words.
    pub fn new(cause: Cause, what: impl Into<String>) -> Self {
        Self {
            cause,
            what: what.into(),
        }
    }

    /// Several on one line.
    pub fn join(faults: &[Self]) -> String {
        let all: Vec<String> = faults.iter().map(Self::to_string).collect();
        all.join("; ")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cause.name(), self.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_named_the_same_in_json_and_in_metrics() {
        for cause in Cause::ALL {
            let json = serde_json::to_value(cause).unwrap();
            assert_eq!(json, cause.name());
        }
    }
}
