//! What routes are attached to, and its name on the wire. Knows no route.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::service::ServiceKey;

/// Longest name of a parent in bytes: a service's host name, two namespaces and a port.
const NAME_BYTES_MAX: usize = 512;

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct ServicePort {
    pub service: ServiceKey,
    pub port: u16,
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.port)
    }
}

/// Name of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub struct GatewayKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl fmt::Display for GatewayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What routes are attached to. Its text is its name on the wire:
/// `service/<namespace>/<host name>/<port>`, `consumer/<namespace of the clients>/<namespace>/<host
/// name>/<port>`, `gateway/<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ParentKey {
    /// A port of a service, for all clients without routes of their own namespace.
    Producer(ServicePort),
    /// A port of a service, for clients of this namespace.
    Consumer(Arc<str>, ServicePort),
    /// A waypoint: for what it serves and no route of a service takes.
    Gateway(GatewayKey),
}

impl fmt::Display for ParentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Producer(to) => write!(f, "service/{to}"),
            Self::Consumer(from, to) => write!(f, "consumer/{from}/{to}"),
            Self::Gateway(gateway) => write!(f, "gateway/{gateway}"),
        }
    }
}

/// Why a text names no parent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no port of a service (for all or for a namespace) and no gateway")]
pub struct ParentError(String);

impl FromStr for ParentKey {
    type Err = ParentError;

    fn from_str(text: &str) -> Result<Self, ParentError> {
        let error = || ParentError(text.chars().take(128).collect());
        if text.len() > NAME_BYTES_MAX {
            return Err(error());
        }
        let parts: Vec<_> = text.split('/').collect();
        if parts.iter().any(|part| part.is_empty()) {
            return Err(error());
        }
        let to = |namespace: &str, hostname: &str, port: &str| {
            let digits = port.bytes().all(|byte| byte.is_ascii_digit());
            let number = port.parse().ok().filter(|port| digits && *port > 0);
            Ok(ServicePort {
                service: ServiceKey {
                    namespace: namespace.into(),
                    hostname: hostname.into(),
                },
                port: number.ok_or_else(error)?,
            })
        };
        match parts[..] {
            ["service", namespace, hostname, port] => {
                to(namespace, hostname, port).map(Self::Producer)
            }
            ["consumer", from, namespace, hostname, port] => {
                let to = to(namespace, hostname, port)?;
                Ok(Self::Consumer(from.into(), to))
            }
            ["gateway", namespace, name] => Ok(Self::Gateway(GatewayKey {
                namespace: namespace.into(),
                name: name.into(),
            })),
            _ => Err(error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_from_its_own_text() {
        for text in [
            "service/shop/web.shop.svc.cluster.local/80",
            "consumer/bank/shop/web.shop.svc.cluster.local/65535",
            "gateway/shop/waypoint",
        ] {
            let key: ParentKey = text.parse().unwrap();
            assert_eq!(key.to_string(), text);
        }
    }

    #[test]
    fn what_names_no_parent_is_refused() {
        let long = format!("gateway/a/{}", "b".repeat(NAME_BYTES_MAX));
        for text in [
            "",
            "service",
            "service/shop/web",
            "service/shop/web/0",
            "service/shop/web/+80",
            "service/shop/web/65536",
            "service//web/80",
            "consumer/shop/web/80",
            "gateway/shop",
            "gateway/shop/a/b",
            "route/shop/web/80",
            &long,
        ] {
            assert!(text.parse::<ParentKey>().is_err(), "{text}");
        }
    }
}
