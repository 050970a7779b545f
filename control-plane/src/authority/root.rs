//! The root: its key, its certificate, and how one is replaced.
//!
//! After a rotation the new root also has a certificate signed by the old one (the cross
//! certificate), which goes out with every leaf: so a peer that knows only the old root verifies
//! a new leaf, and a peer that got a new leaf knows both roots and verifies an old one.
//! Everything is in one file, so that no crash leaves half of a rotation.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use crate::state::{PRIVATE, PUBLIC, StateDir, StateError};

/// File of the state directory with the key, 0600.
pub const FILE: &str = "ca.json";

/// File of the state directory with the roots that nodes pin: the current one, and the one before
/// it until that is retired.
pub const BUNDLE_FILE: &str = "root.pem";

/// Validity of a root: rotation is an act, not an accident.
const ROOT_TTL: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How far into the past a root is valid.
const BACKDATE: Duration = Duration::from_secs(3600);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    /// PKCS #8, PEM.
    key: String,
    root: String,
    /// The root's name and key, signed by `old_root`.
    cross: Option<String>,
    old_root: Option<String>,
}

/// A root that signs.
pub struct Root {
    issuer: Issuer<'static, KeyPair>,
    name: String,
    upstream: Vec<String>,
    cross: Option<CertificateDer<'static>>,
}

impl Root {
    /// Reads the root of a state directory.
    ///
    /// # Errors
    /// There is none, or it cannot be used.
    pub fn load(state: &StateDir) -> Result<Self, StateError> {
        Self::of(read(state)?).map_err(|problem| StateError::new(state.path(FILE), problem))
    }

    fn of(stored: Stored) -> Result<Self, String> {
        let key = KeyPair::from_pem(&stored.key).map_err(|e| format!("key: {e}"))?;
        let issuer = Issuer::from_ca_cert_pem(&stored.root, key);
        let issuer = issuer.map_err(|e| format!("root: {e}"))?;
        let der = |pem: &str| {
            CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| format!("cross: {e}"))
        };
        let cross = stored.cross.as_deref().map(der).transpose()?;
        let upstream = stored.cross.into_iter().chain([stored.root.clone()]);
        let upstream = upstream.chain(stored.old_root).collect();
        Ok(Self {
            issuer,
            name: name(&stored.root)?,
            upstream,
            cross,
        })
    }

    /// Its name, which is new with each root.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What signs.
    pub fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// What follows a leaf in an answer, PEM: the cross certificate, the root, the old root.
    pub fn upstream(&self) -> &[String] {
        &self.upstream
    }

    /// The certificate by the old root, until that is retired.
    pub fn cross(&self) -> Option<&CertificateDer<'static>> {
        self.cross.as_ref()
    }
}

fn name(pem: &str) -> Result<String, String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|e| e.to_string())?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|e| e.to_string())?;
    Ok(parsed.subject().to_string())
}

/// Makes a root when there is none, and writes the bundle when it is not what it should be.
///
/// # Errors
/// A file cannot be written, or what is there cannot be used.
pub fn init(state: &StateDir) -> Result<(), StateError> {
    let _lock = state.lock()?;
    if state.read(FILE)?.is_none() {
        let (root, key) = fresh(SystemTime::now()).map_err(|e| StateError::new(FILE, e))?;
        let stored = Stored {
            key: key.serialize_pem(),
            root,
            cross: None,
            old_root: None,
        };
        write(state, &stored)?;
        return Ok(());
    }
    // A crash between the two writes of a rotation leaves an old bundle.
    let stored = read(state)?;
    let bundle = bundle(&stored);
    if state.read(BUNDLE_FILE)?.as_deref() != Some(&bundle) {
        state.write(BUNDLE_FILE, bundle.as_bytes(), PUBLIC)?;
    }
    Ok(())
}

/// Replaces the root by a new one that the old one vouches for.
///
/// # Errors
/// There is no root, or an earlier rotation was not ended by [`retire`]: peers that know only the
/// root before that one could not verify anybody.
pub fn rotate(state: &StateDir) -> Result<(), StateError> {
    let _lock = state.lock()?;
    let old = read(state)?;
    if old.old_root.is_some() {
        let problem = "an earlier rotation is not finished: retire the old root first \
                       (rotate-root --retire), once all certificates were renewed";
        return Err(StateError::new(state.path(FILE), problem));
    }
    let now = SystemTime::now();
    let (root, key, cross) =
        replaced(&old, now).map_err(|problem| StateError::new(state.path(FILE), problem))?;
    let stored = Stored {
        key: key.serialize_pem(),
        root,
        cross: Some(cross),
        old_root: Some(old.root),
    };
    write(state, &stored)
}

fn replaced(old: &Stored, now: SystemTime) -> Result<(String, KeyPair, String), String> {
    let text = |error: rcgen::Error| error.to_string();
    let old_key = KeyPair::from_pem(&old.key).map_err(text)?;
    let vouching = Issuer::from_ca_cert_pem(&old.root, old_key).map_err(text)?;
    let key = KeyPair::generate().map_err(text)?;
    let params = params(now);
    let root = params.self_signed(&key).map_err(text)?;
    let mut crossed = params.clone();
    crossed.use_authority_key_identifier_extension = true;
    crossed.serial_number = Some(super::serial());
    let cross = crossed.signed_by(&key, &vouching).map_err(text)?;
    Ok((root.pem(), key, cross.pem()))
}

/// Ends a rotation: the old root is trusted no more. Peers that still hold certificates by it are
/// refused by those that were renewed since.
///
/// # Errors
/// There is no root, or no rotation to end.
pub fn retire(state: &StateDir) -> Result<(), StateError> {
    let _lock = state.lock()?;
    let mut stored = read(state)?;
    if stored.old_root.is_none() {
        return Err(StateError::new(
            state.path(FILE),
            "there is no old root to retire",
        ));
    }
    (stored.cross, stored.old_root) = (None, None);
    write(state, &stored)
}

fn fresh(now: SystemTime) -> Result<(String, KeyPair), rcgen::Error> {
    let key = KeyPair::generate()?;
    let root = params(now).self_signed(&key)?;
    Ok((root.pem(), key))
}

fn params(now: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    // Verifiers find an issuer by its name: two roots must not share one.
    let number = rand::random::<u64>();
    subject.push(DnType::OrganizationName, "Culvert");
    subject.push(
        DnType::CommonName,
        format!("Culvert mesh root {number:016x}"),
    );
    params.distinguished_name = subject;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(super::serial());
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + ROOT_TTL).into();
    params
}

fn read(state: &StateDir) -> Result<Stored, StateError> {
    let wrong = |problem: String| StateError::new(state.path(FILE), problem);
    let text = state.read(FILE)?;
    let text = text.ok_or_else(|| wrong("there is no root; run `culvertd init`".to_owned()))?;
    serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))
}

/// The key's file first: nodes must never pin a root that nobody has the key of.
fn write(state: &StateDir, stored: &Stored) -> Result<(), StateError> {
    let content = serde_json::to_vec_pretty(stored).map_err(|e| StateError::new(FILE, e))?;
    state.write(FILE, &content, PRIVATE)?;
    state.write(BUNDLE_FILE, bundle(stored).as_bytes(), PUBLIC)
}

fn bundle(stored: &Stored) -> String {
    format!(
        "{}{}",
        stored.root,
        stored.old_root.as_deref().unwrap_or_default()
    )
}
