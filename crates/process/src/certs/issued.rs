//! A certificate that was issued, and the checks that an answer of the CA must pass before it is
//! one. Knows no network and no schedule.

use std::fmt;
use std::time::{Duration, SystemTime};

use mesh::Identity;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroize;

/// How far the clocks of CA and node may be apart at the edges of the validity.
const SKEW: Duration = Duration::from_secs(60);
/// Certificates in one answer: a leaf, a few intermediates, old and new roots.
const MAX_CHAIN: usize = 16;

/// A private key: in memory, wiped when dropped, never shown.
pub struct PrivateKey {
    key: PrivateKeyDer<'static>,
    public_key: Vec<u8>,
}

impl PrivateKey {
    pub(super) fn of(mut pair: KeyPair) -> Self {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let public_key = pair.subject_public_key_info();
        pair.zeroize();
        Self { key, public_key }
    }

    /// A key of ours (ECDSA P-256, PKCS 8) that another process made.
    fn from_der(der: &[u8]) -> Result<Self, Unacceptable> {
        let pair = KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(der),
            &PKCS_ECDSA_P256_SHA256,
        );
        // The error's own words might repeat bytes of the key.
        pair.map(Self::of).map_err(|_| Unacceptable::Key)
    }

    /// A copy, for a TLS configuration.
    pub fn to_der(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    /// The public half, as DER SubjectPublicKeyInfo.
    pub fn public_key(&self) -> &[u8] {
        &self.public_key
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(not shown)")
    }
}

/// A certificate of one identity with its key, checked.
pub struct Issued {
    identity: Identity,
    key: PrivateKey,
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<CertificateDer<'static>>,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Issued {
    /// What another process held, checked like an answer of the CA. `certificates` are DER: leaf,
    /// intermediates, roots.
    ///
    /// # Errors
    /// It would not be accepted from the CA either.
    pub fn from_der(
        identity: &Identity,
        key: &[u8],
        certificates: &[Vec<u8>],
        now: SystemTime,
    ) -> Result<Self, Unacceptable> {
        if !(2..=MAX_CHAIN).contains(&certificates.len()) {
            return Err(Unacceptable::Count(certificates.len()));
        }
        let certificates = certificates.iter().cloned().map(CertificateDer::from);
        check(
            identity,
            PrivateKey::from_der(key)?,
            &certificates.collect::<Vec<_>>(),
            now,
        )
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The key of the leaf.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// Leaf first, then intermediates; no root. What is shown to a peer.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Roots of the mesh as the CA gave them; at least one. What peers are checked against.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// Serial number of the leaf, hexadecimal.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Start of the leaf's validity.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// End of the leaf's validity.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether it may be shown now: it has begun, give or take [`SKEW`], and has not ended.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        self.not_before <= now + SKEW && now < self.not_after
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued")
            .field("identity", &self.identity.to_string())
            .field("serial", &self.serial)
            .field("not_before", &super::status::rfc3339(self.not_before))
            .field("not_after", &super::status::rfc3339(self.not_after))
            .finish_non_exhaustive()
    }
}

/// What is wrong with an answer of the CA. It is not used; the old certificate stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unacceptable {
    /// A text is no certificate.
    #[error("certificate {0} of the answer cannot be read: {1}")]
    Unreadable(usize, String),
    /// Nothing, or far too much.
    #[error("the answer holds {0} certificates; 2 to {MAX_CHAIN} were expected")]
    Count(usize),
    /// The key that came with it is none of the kind that we make.
    #[error("the key beside the certificate is no ECDSA P-256 key")]
    Key,
    /// The leaf is for a key that is not ours.
    #[error("the certificate is for another key than the one it was asked for")]
    ForeignKey,
    /// The leaf is for somebody else.
    #[error("the certificate is for {0}")]
    OtherIdentity(String),
    /// No self-signed certificate is in the answer.
    #[error("the answer holds no root (self-signed) certificate")]
    NoRoot,
    /// Validity does not cover now.
    #[error("the certificate is valid from {0} to {1}: check the clocks of this node and the CA")]
    NotValidNow(String, String),
    /// The leaf does not lead to a root of the answer, or may not be used for TLS both ways.
    #[error("the certificate does not lead to a root of the answer for mutual TLS: {0}")]
    Chain(String),
}

/// Checks an answer as peers will check it, and that it is what was asked for.
///
/// The texts are PEM, leaf first; all self-signed ones behind it are roots, the others
/// intermediates.
pub(super) fn accept(
    identity: &Identity,
    key: PrivateKey,
    texts: &[String],
    now: SystemTime,
) -> Result<Issued, Unacceptable> {
    check(identity, key, &read(texts)?, now)
}

fn check(
    identity: &Identity,
    key: PrivateKey,
    certificates: &[CertificateDer<'static>],
    now: SystemTime,
) -> Result<Issued, Unacceptable> {
    let (leaf, tail) = certificates.split_first().ok_or(Unacceptable::Count(0))?;
    let parsed = parse(0, leaf)?;
    if parsed.public_key().raw != key.public_key() {
        return Err(Unacceptable::ForeignKey);
    }
    check_identity(identity, &parsed)?;
    let (roots, intermediates) = split(tail)?;
    let validity = Validity::of(&parsed);
    let at = validity.moment(now)?;
    check_path(leaf, &intermediates, &roots, at)?;
    let serial = parsed.tbs_certificate.raw_serial_as_string();
    let chain = std::iter::once(leaf.clone()).chain(intermediates).collect();
    let identity = identity.clone();
    let Validity {
        not_before,
        not_after,
    } = validity;
    Ok(Issued {
        identity,
        key,
        chain,
        roots,
        serial,
        not_before,
        not_after,
    })
}

fn read(texts: &[String]) -> Result<Vec<CertificateDer<'static>>, Unacceptable> {
    let mut certificates = Vec::new();
    for (index, text) in texts.iter().enumerate().take(MAX_CHAIN + 1) {
        let unreadable = |reason: String| Unacceptable::Unreadable(index, reason);
        let blocks = pem::parse_many(text).map_err(|error| unreadable(error.to_string()))?;
        if blocks.is_empty() {
            return Err(unreadable("no PEM block".to_owned()));
        }
        for block in blocks {
            if block.tag() != "CERTIFICATE" {
                return Err(unreadable(format!("a PEM block `{}`", block.tag())));
            }
            certificates.push(CertificateDer::from(block.into_contents()));
        }
    }
    match certificates.len() {
        2..=MAX_CHAIN => Ok(certificates),
        count => Err(Unacceptable::Count(count)),
    }
}

fn parse(index: usize, der: &[u8]) -> Result<X509Certificate<'_>, Unacceptable> {
    let unreadable = |reason: &str| Unacceptable::Unreadable(index, reason.to_owned());
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(unreadable("bytes behind its end")),
        Err(error) => Err(unreadable(&error.to_string())),
    }
}

/// Exactly one URI SAN, and it is the identity (SPIFFE X.509-SVID, 2).
fn check_identity(identity: &Identity, leaf: &X509Certificate<'_>) -> Result<(), Unacceptable> {
    let names = leaf
        .subject_alternative_name()
        .map_err(|error| Unacceptable::Unreadable(0, error.to_string()))?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris[..] {
        [uri] if uri == identity.to_string() => Ok(()),
        [] => Err(Unacceptable::OtherIdentity(
            "nobody (no URI SAN)".to_owned(),
        )),
        _ => Err(Unacceptable::OtherIdentity(uris.join(" and "))),
    }
}

type Certificates = Vec<CertificateDer<'static>>;

/// Roots and intermediates.
fn split(tail: &[CertificateDer<'static>]) -> Result<(Certificates, Certificates), Unacceptable> {
    let (mut roots, mut intermediates) = (Vec::new(), Vec::new());
    for (index, der) in tail.iter().enumerate() {
        let parsed = parse(index + 1, der)?;
        let self_issued = parsed.subject().as_raw() == parsed.issuer().as_raw();
        // A cross-signed root has a foreign issuer name, or at least a foreign signature.
        if self_issued && parsed.verify_signature(None).is_ok() {
            roots.push(der.clone());
        } else {
            intermediates.push(der.clone());
        }
    }
    if roots.is_empty() {
        Err(Unacceptable::NoRoot)
    } else {
        Ok((roots, intermediates))
    }
}

/// Validity of the leaf.
struct Validity {
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Validity {
    fn of(leaf: &X509Certificate<'_>) -> Self {
        let time = |seconds: i64| {
            SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
        };
        let validity = leaf.validity();
        let not_before = time(validity.not_before.timestamp());
        Self {
            not_before,
            not_after: time(validity.not_after.timestamp()),
        }
    }

    /// Now, or the start of the validity when that is at most [`SKEW`] ahead.
    fn moment(&self, now: SystemTime) -> Result<SystemTime, Unacceptable> {
        if now + SKEW >= self.not_before && now < self.not_after {
            return Ok(now.max(self.not_before));
        }
        let text = super::status::rfc3339;
        Err(Unacceptable::NotValidNow(
            text(self.not_before),
            text(self.not_after),
        ))
    }
}

fn check_path(
    leaf: &CertificateDer<'static>,
    intermediates: &[CertificateDer<'static>],
    roots: &[CertificateDer<'static>],
    at: SystemTime,
) -> Result<(), Unacceptable> {
    let chain = |error: webpki::Error| Unacceptable::Chain(error.to_string());
    let anchors: Vec<_> = roots
        .iter()
        .map(webpki::anchor_from_trusted_cert)
        .collect::<Result<_, _>>()
        .map_err(chain)?;
    let leaf = EndEntityCert::try_from(leaf).map_err(chain)?;
    let at = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let at = UnixTime::since_unix_epoch(at);
    let algorithms = webpki::ALL_VERIFICATION_ALGS;
    for usage in [KeyUsage::client_auth(), KeyUsage::server_auth()] {
        leaf.verify_for_usage(algorithms, &anchors, intermediates, at, usage, None, None)
            .map_err(chain)?;
    }
    Ok(())
}
