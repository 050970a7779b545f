//! The client's side of TLS: one per source identity, any number of connections from it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use mesh::identity::Identity;
use rustls::ClientConfig;
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{ServerName, TrustAnchor};
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;

use super::credentials::{ALPN, Credentials, TlsSetupError, anchors, certified_key, provider};
use super::verify::ExpectedServer;

/// TLS for connections that one workload opens. Cheap to clone; made anew when the certificate or
/// the roots change (connections that are open keep theirs).
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    provider: Arc<CryptoProvider>,
    roots: Arc<[TrustAnchor<'static>]>,
}

impl ClientTls {
    /// TLS under these credentials; `time` is the wall clock that certificates are checked against.
    ///
    /// # Errors
    /// Credentials that cannot be used.
    pub fn new(
        credentials: &Credentials,
        time: Arc<dyn TimeProvider>,
    ) -> Result<Self, TlsSetupError> {
        let provider = provider();
        let roots = anchors(credentials)?;
        let key = certified_key(credentials, &provider)?;
        // Nobody is expected until a connection says whom.
        let nobody = verifier(&roots, &provider, BTreeSet::new());
        let mut config = ClientConfig::builder_with_details(provider.clone(), time)
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| TlsSetupError::Config(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(nobody)
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        // For our own records alone: no caller ever sees the configuration or a connection of it.
        config.enable_secret_extraction = true;
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
            provider,
            roots,
        })
    }

    /// A session towards a server that must be one of `expected`.
    pub(super) fn start(
        &self,
        expected: BTreeSet<Identity>,
    ) -> Result<UnbufferedClientConnection, rustls::Error> {
        let mut config = ClientConfig::clone(&self.config);
        let verifier = verifier(&self.roots, &self.provider, expected);
        config.dangerous().set_certificate_verifier(verifier);
        // No name is sent and none is checked; rustls wants one (the stock peer uses the same).
        let name = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        UnbufferedClientConnection::new(Arc::new(config), name)
    }
}

fn verifier(
    roots: &Arc<[TrustAnchor<'static>]>,
    provider: &CryptoProvider,
    expected: BTreeSet<Identity>,
) -> Arc<ExpectedServer> {
    let algorithms = provider.signature_verification_algorithms;
    Arc::new(ExpectedServer::new(roots.clone(), algorithms, expected))
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}
