//! Certificates for the peers: one root, one leaf for both sides, with SPIFFE ID and DNS name.
//!
//! It knows no proxy; the files are PEM, which Envoy reads too.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The name that the near side asks the far side for.
pub(crate) const PEER_NAME: &str = "peer.bench";
/// A control plane of the bench is reached at loopback.
const LOCAL: &str = "127.0.0.1";
/// What both sides speak inside TLS.
const ALPN: &[u8] = b"h2";

/// A directory with `root.pem`, `leaf.pem` and `key.pem`.
#[derive(Clone, Debug)]
pub struct Certificates(PathBuf);

impl Certificates {
    /// Those that are in a directory.
    pub fn at(directory: &Path) -> Self {
        Certificates(directory.to_owned())
    }

    /// Makes a root and a leaf that is good for both sides.
    pub(crate) fn make(directory: &Path) -> anyhow::Result<Self> {
        let mut root = CertificateParams::new(Vec::new())?;
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        root.distinguished_name
            .push(DnType::CommonName, "root of the bench");
        let root_key = KeyPair::generate()?;
        let root_pem = root.self_signed(&root_key)?.pem();
        let issuer = Issuer::new(root, root_key);
        let id = "spiffe://cluster.local/ns/bench/sa/peer";
        Certificates::write(directory, &issuer, (&root_pem, id))
    }

    /// A leaf by the root of culvertd's state directory, for a load that plays one of the proxies.
    pub(crate) fn of_the_mesh(state: &Path, id: &str, directory: &Path) -> anyhow::Result<Self> {
        #[derive(serde::Deserialize)]
        struct Stored {
            key: String,
            root: String,
        }
        let stored = std::fs::read(state.join("ca.json")).context("the root of the mesh")?;
        let stored: Stored = serde_json::from_slice(&stored)?;
        let key = KeyPair::from_pem(&stored.key)?;
        let issuer = Issuer::from_ca_cert_pem(&stored.root, key)?;
        Certificates::write(directory, &issuer, (&stored.root, id))
    }

    fn write(
        directory: &Path,
        issuer: &Issuer<'_, KeyPair>,
        (root, id): (&str, &str),
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let (leaf, key) = leaf(issuer, id)?;
        let files = Certificates::at(directory);
        std::fs::write(files.root(), root)?;
        std::fs::write(files.leaf(), leaf)?;
        std::fs::write(files.key(), key)?;
        Ok(files)
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.0
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.0.join("root.pem")
    }

    pub(crate) fn leaf(&self) -> PathBuf {
        self.0.join("leaf.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.0.join("key.pem")
    }

    /// What a client shows and trusts; TLS 1.3.
    pub(crate) fn client(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let (chain, key) = self.identity()?;
        let mut config = ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config))
    }

    /// What a server shows, and the clients it takes; TLS 1.3.
    pub(crate) fn server(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let (chain, key) = self.identity()?;
        let clients = WebPkiClientVerifier::builder(Arc::new(self.roots()?)).build()?;
        let mut config = ServerConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config))
    }

    fn roots(&self) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(self.root())? {
            roots.add(root?)?;
        }
        Ok(roots)
    }

    fn identity(&self) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = CertificateDer::pem_file_iter(self.leaf())?.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_file(self.key()).context("key.pem")?;
        Ok((chain, key))
    }
}

/// A leaf with a SPIFFE ID, good for both sides: its certificate and key as PEM.
fn leaf(issuer: &Issuer<'_, KeyPair>, spiffe_id: &str) -> anyhow::Result<(String, String)> {
    let mut leaf = CertificateParams::new([PEER_NAME, LOCAL].map(str::to_owned))?;
    leaf.subject_alt_names
        .push(SanType::URI(spiffe_id.try_into()?));
    // Envoy's validator refuses a leaf without these two.
    leaf.is_ca = IsCa::ExplicitNoCa;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate()?;
    Ok((leaf.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}
