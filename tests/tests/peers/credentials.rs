//! Certificates for strangers: from a control plane of the world, or self-made.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use netio::netns::Netns;
use process::certs::{CertManager, DEFAULT_TTL, GrpcAuthority};
use process::clock::SystemClock;
use process::grpc::{ControlPlane as Caller, Settings};
use process::tasks::Tasks;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use world::Place;
use world::stack::ControlPlane;

/// A control plane signs within this.
const ISSUED_WITHIN: Duration = Duration::from_secs(10);

/// A chain with its key.
pub struct Credentials {
    pub chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    not_after: SystemTime,
}

/// How long a certificate shall be good.
#[derive(Clone, Copy)]
pub enum Validity {
    Day,
    /// The shortest that the control plane gives.
    Shortest,
}

/// Asks control planes as a node does.
pub struct Issuers {
    pub place: Place,
    pub token: PathBuf,
}

impl Issuers {
    pub fn issue(
        &self,
        control: &ControlPlane,
        identity: &str,
        validity: Validity,
    ) -> anyhow::Result<Credentials> {
        let ttl = match validity {
            Validity::Day => DEFAULT_TTL,
            Validity::Shortest => Duration::from_secs(1),
        };
        let identity = identity.parse().context("an identity")?;
        let root = control.root_certificate();
        let settings = Settings::new(&control.url(), &root, Some(&self.token));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let issued = Netns::open(self.place.netns())?.enter(|| {
            runtime.block_on(async {
                let tasks = Tasks::new();
                let authority = Arc::new(GrpcAuthority::new(Caller::new(settings)?));
                let manager = CertManager::start(&tasks, authority, Arc::new(SystemClock), ttl);
                let issued = manager.certificate(&identity, ISSUED_WITHIN).await?;
                tasks.shutdown(Duration::ZERO).await;
                anyhow::Ok(issued)
            })
        })??;
        Ok(Credentials {
            chain: issued.chain().to_vec(),
            key: issued.key().to_der(),
            not_after: issued.not_after(),
        })
    }
}

impl Credentials {
    /// Signed by itself, with the SPIFFE ID in the right place.
    pub fn self_made(identity: &str) -> anyhow::Result<Self> {
        let mut params = rcgen::CertificateParams::default();
        let uri = rcgen::string::Ia5String::try_from(identity)?;
        params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
        let key = rcgen::KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Credentials {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            not_after: SystemTime::now() + DEFAULT_TTL,
        })
    }

    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    pub fn until_expired(&self) -> Duration {
        self.not_after
            .duration_since(SystemTime::now())
            .unwrap_or_default()
    }
}
