//! A certificate authority for the tests: signs what the proxies ask for, and makes what a hostile
//! peer would show.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use hbone::tls::Credentials;
use process::certs::{AskError, Authority, Question};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;

/// A root and its key.
#[derive(Clone)]
pub struct Ca {
    issuer: Arc<Issuer<'static, KeyPair>>,
    root: rcgen::Certificate,
    /// How long what it signs is valid; None for years.
    life: Option<Duration>,
    /// Whether it answers now.
    pub is_open: watch::Sender<bool>,
}

impl Ca {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).unwrap();
        Self {
            issuer: Arc::new(Issuer::new(params, key)),
            root,
            life: None,
            is_open: watch::Sender::new(true),
        }
    }

    /// Signs for that long only.
    pub fn for_only(life: Duration) -> Self {
        Self {
            life: Some(life),
            ..Self::new()
        }
    }

    pub fn root(&self) -> CertificateDer<'static> {
        self.root.der().clone()
    }

    /// A certificate of `spiffe_id`, changed by `edit` before it is signed.
    pub fn credentials(
        &self,
        spiffe_id: &str,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(spiffe_id.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        edit(&mut params);
        let leaf = params.signed_by(&key, &*self.issuer).unwrap();
        Credentials {
            chain: vec![leaf.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            roots: vec![self.root()],
        }
    }
}

impl Authority for Ca {
    fn sign(&self, question: Question) -> BoxFuture<'_, Result<Vec<String>, AskError>> {
        async move {
            self.is_open
                .subscribe()
                .wait_for(|open| *open)
                .await
                .unwrap();
            let mut request = CertificateSigningRequestParams::from_pem(&question.csr_pem).unwrap();
            request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            if let Some(life) = self.life {
                request.params.not_after = (SystemTime::now() + life).into();
            }
            let leaf = request.signed_by(&*self.issuer).unwrap();
            Ok(vec![leaf.pem(), self.root.pem()])
        }
        .boxed()
    }
}
