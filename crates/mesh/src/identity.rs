//! SPIFFE identities of workloads: `spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Trust domain of a mesh that names none.
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// Longest SPIFFE ID in bytes (SPIFFE ID specification, 2.3).
pub const MAX_SPIFFE_ID_BYTES: usize = 2048;

/// A workload's identity: one pointer. Cheap to clone; equal by content.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(Arc<Parts>);

/// The text says all; none of its parts has a `/` in it.
#[derive(PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Parts {
    /// `<trust-domain>/ns/<namespace>/sa/<service-account>`
    principal: Box<str>,
    namespace: Place,
    service_account: Place,
}

/// Where a part stands in the text: its first byte, and the one behind it.
type Place = (u16, u16);

/// Why a text is no identity of a workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The text is not of the form `spiffe://td/ns/NS/sa/SA`.
    #[error("`{0}` is not of the form spiffe://<trust-domain>/ns/<namespace>/sa/<service-account>")]
    Form(String),
    /// A part is empty or holds a character outside of letters, digits, `.`, `_` and `-`.
    #[error("{part} `{text}` of a SPIFFE ID may hold letters, digits, '.', '_' and '-' only")]
    Part {
        /// Which part: "trust domain", "namespace" or "service account".
        part: &'static str,
        /// The text given for it.
        text: String,
    },
    /// Longer than [`MAX_SPIFFE_ID_BYTES`].
    #[error("a SPIFFE ID of {0} bytes is longer than {MAX_SPIFFE_ID_BYTES}")]
    Long(usize),
}

impl Identity {
    /// An identity of its three parts.
    ///
    /// # Errors
    /// A part that is empty, or has characters that a SPIFFE ID may not have there.
    pub fn new(
        trust_domain: &str,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, IdentityError> {
        let length = "spiffe:///ns//sa/".len()
            + trust_domain.len()
            + namespace.len()
            + service_account.len();
        if length > MAX_SPIFFE_ID_BYTES {
            return Err(IdentityError::Long(length));
        }
        part("trust domain", trust_domain)?;
        part("namespace", namespace)?;
        part("service account", service_account)?;
        let place = |before: usize, text: &str| {
            let end = before + text.len();
            let short = |place| u16::try_from(place).expect("the length was looked at");
            (short(before), short(end))
        };
        let namespace_at = place(trust_domain.len() + "/ns/".len(), namespace);
        let account_before = usize::from(namespace_at.1) + "/sa/".len();
        Ok(Self(Arc::new(Parts {
            principal: format!("{trust_domain}/ns/{namespace}/sa/{service_account}").into(),
            namespace: namespace_at,
            service_account: place(account_before, service_account),
        })))
    }

    /// The trust domain, `cluster.local` by default.
    pub fn trust_domain(&self) -> &str {
        let (namespace, _) = self.0.namespace;
        self.part((0, namespace - 4))
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.part(self.0.namespace)
    }

    /// The service account.
    pub fn service_account(&self) -> &str {
        self.part(self.0.service_account)
    }

    /// The identity without its scheme (`td/ns/NS/sa/SA`): what policies compare.
    pub fn principal(&self) -> &str {
        &self.0.principal
    }

    /// Whether it is the one of these parts, without making that.
    pub fn is(&self, trust_domain: &str, namespace: &str, service_account: &str) -> bool {
        self.service_account() == service_account
            && self.namespace() == namespace
            && self.trust_domain() == trust_domain
    }

    fn part(&self, (from, to): Place) -> &str {
        &self.0.principal[usize::from(from)..usize::from(to)]
    }
}

fn part(name: &'static str, text: &str) -> Result<(), IdentityError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    // "." and ".." are path steps, not names (SPIFFE ID specification, 2.2).
    if text.is_empty() || !text.chars().all(allowed) || matches!(text, "." | "..") {
        return Err(IdentityError::Part {
            part: name,
            text: text.to_owned(),
        });
    }
    Ok(())
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}", self.principal())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({self})")
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let form = || IdentityError::Form(text.chars().take(128).collect());
        let rest = text.strip_prefix("spiffe://").ok_or_else(form)?;
        match rest.split('/').collect::<Vec<_>>()[..] {
            [td, "ns", namespace, "sa", account] => Self::new(td, namespace, account),
            _ => Err(form()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_what_it_shows() {
        let id = Identity::new("cluster.local", "shop", "web").unwrap();
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/web");
        assert_eq!(id.to_string().parse::<Identity>().unwrap(), id);
        let parts = (id.trust_domain(), id.namespace(), id.service_account());
        assert_eq!(parts, ("cluster.local", "shop", "web"));
        assert_eq!(id.principal(), "cluster.local/ns/shop/sa/web");
        assert!(id.is("cluster.local", "shop", "web"));
        assert!(!id.is("cluster.local", "shop", "we") && !id.is("a", "shop", "web"));
        assert_eq!(size_of::<Option<Identity>>(), 8);
    }

    #[test]
    fn a_text_with_other_steps_is_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe://td/ns/a",
            "spiffe://td/ns/a/sa/b/c",
            "https://td/ns/a/sa/b",
            "spiffe://td/sa/a/ns/b",
            "spiffe://td/ns//sa/b",
            "spiffe://td/ns/../sa/b",
            "spiffe://t d/ns/a/sa/b",
        ] {
            assert!(text.parse::<Identity>().is_err(), "{text} was accepted");
        }
    }
}
