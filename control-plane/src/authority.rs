//! The certificate authority: whose key signs, what a leaf says, and what is served with it.
//!
//! Takes only the public key of a request; every other word in a certificate is written here.
//! Knows identities, not pods: who may ask for one is checked by the caller.

pub mod csr;
pub mod root;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use mesh::Identity;
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType, SerialNumber, SubjectPublicKeyInfo,
};

use crate::state::{StateDir, StateError, Version};
use root::Root;

/// How far into the past a certificate is valid: clocks of nodes differ by this at most.
const BACKDATE: Duration = Duration::from_secs(120);

/// Shortest validity that is signed: a shorter one would be renewed without end.
pub const MIN_LEAF_TTL: Duration = Duration::from_secs(5);

/// Why no certificate could be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The signer refused.
    #[error("cannot sign: {0}")]
    Sign(#[from] rcgen::Error),
}

/// A signed certificate with what verifies it, PEM: leaf, the cross certificate after a rotation,
/// then roots.
#[derive(Clone, Debug)]
pub struct Issued {
    /// One certificate a string.
    pub chain: Vec<String>,
    /// When it ends.
    pub not_after: SystemTime,
}

/// The authority of a state directory. Follows a rotation of its root at once.
#[derive(Clone)]
pub struct Authority {
    inner: Arc<Inner>,
}

struct Inner {
    state: StateDir,
    leaf_ttl: Duration,
    current: Mutex<(Option<Version>, Arc<Root>)>,
}

impl Authority {
    /// Opens the authority, makes a root when there is none.
    ///
    /// # Errors
    /// The state is there and cannot be used, or none can be made.
    pub fn open(state: StateDir, leaf_ttl: Duration) -> Result<Self, StateError> {
        root::init(&state)?;
        let version = state.version(root::FILE);
        let current = Mutex::new((version, Arc::new(Root::load(&state)?)));
        Ok(Self {
            inner: Arc::new(Inner {
                state,
                leaf_ttl,
                current,
            }),
        })
    }

    /// The root as it is now. While a new one cannot be read the last good one signs.
    pub fn root(&self) -> Arc<Root> {
        let mut current = self
            .inner
            .current
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let version = self.inner.state.version(root::FILE);
        if version != current.0 {
            match Root::load(&self.inner.state) {
                Ok(root) => {
                    tracing::info!(root = root.name(), "the root was replaced");
                    current.1 = Arc::new(root);
                }
                Err(error) => tracing::error!(%error, "the last root goes on signing"),
            }
            current.0 = version;
        }
        current.1.clone()
    }

    /// A certificate for a workload: `asked` at most, and never longer than the leaf TTL; zero
    /// asks for the longest.
    ///
    /// # Errors
    /// The signer refused.
    pub fn workload(
        &self,
        identity: &Identity,
        key: &SubjectPublicKeyInfo,
        asked: Duration,
        now: SystemTime,
    ) -> Result<Issued, IssueError> {
        let asked = if asked.is_zero() {
            self.inner.leaf_ttl
        } else {
            asked
        };
        let ttl = asked.max(MIN_LEAF_TTL).min(self.inner.leaf_ttl);
        let uri = Ia5String::try_from(identity.to_string())?;
        let mut params = leaf(vec![SanType::URI(uri)], now, ttl);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let root = self.root();
        let signed = params.signed_by(key, root.issuer())?;
        let mut chain = vec![signed.pem()];
        chain.extend(root.upstream().iter().cloned());
        Ok(Issued {
            chain,
            not_after: now + ttl,
        })
    }

    /// A certificate for culvertd's own listener, with a key made here: DER, leaf first, without
    /// roots; and when it ends.
    ///
    /// # Errors
    /// The signer refused.
    pub fn listener(
        &self,
        names: Vec<SanType>,
        now: SystemTime,
    ) -> Result<(rustls::sign::CertifiedKey, SystemTime), IssueError> {
        let key = KeyPair::generate()?;
        let mut params = leaf(names, now, self.inner.leaf_ttl);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let root = self.root();
        let signed = params.signed_by(&key, root.issuer())?;
        let mut chain = vec![signed.der().clone()];
        chain.extend(root.cross().cloned());
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let signing = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|error| StateError::new("listener key", error))?;
        Ok((
            rustls::sign::CertifiedKey::new(chain, signing),
            now + self.inner.leaf_ttl,
        ))
    }
}

/// What all leaves have in common: no subject (so the name is critical, RFC 5280, 4.1.2.6), no
/// signing of others, a random serial.
fn leaf(names: Vec<SanType>, now: SystemTime, ttl: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = names;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial());
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + ttl).into();
    params
}

/// 127 random bits: positive, and at most 20 octets (RFC 5280, 4.1.2.2).
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}
