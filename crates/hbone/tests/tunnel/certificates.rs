//! A mesh's certificates, and a wall clock that stands still.

use std::collections::BTreeSet;
use std::sync::Arc;

use hbone::tls::{ClientTls, Credentials, ServerTls};
use mesh::identity::Identity;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;

/// Wall clock of all tests: 2026-06-01, within the certificates below.
const NOW: u64 = 1_780_272_000;

#[derive(Debug)]
pub struct StillClock(pub u64);

impl TimeProvider for StillClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            self.0,
        )))
    }
}

pub fn clock() -> Arc<dyn TimeProvider> {
    Arc::new(StillClock(NOW))
}

/// A certificate authority and who it signs for.
pub struct Mesh {
    issuer: Issuer<'static, KeyPair>,
    pub root: CertificateDer<'static>,
}

/// What is odd about a leaf.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    Sound,
    Expired,
    NotYetValid,
    NoUri,
    TwoUris,
    NotSpiffe,
}

impl Mesh {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "root of a mesh");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2040, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            root: certificate.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    pub fn credentials(&self, identity: &Identity) -> Credentials {
        self.leaf(identity, Leaf::Sound)
    }

    pub fn leaf(&self, identity: &Identity, leaf: Leaf) -> Credentials {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        let uri = |text: String| SanType::URI(text.try_into().unwrap());
        params.subject_alt_names = match leaf {
            Leaf::NoUri => vec![SanType::DnsName("web".try_into().unwrap())],
            Leaf::TwoUris => vec![
                uri(identity.to_string()),
                uri("spiffe://x/ns/a/sa/b".into()),
            ],
            Leaf::NotSpiffe => vec![uri("https://example.com/".into())],
            _ => vec![uri(identity.to_string())],
        };
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        (params.not_before, params.not_after) = match leaf {
            Leaf::Expired => (date_time_ymd(2025, 1, 1), date_time_ymd(2026, 1, 1)),
            Leaf::NotYetValid => (date_time_ymd(2027, 1, 1), date_time_ymd(2028, 1, 1)),
            _ => (date_time_ymd(2026, 1, 1), date_time_ymd(2027, 1, 1)),
        };
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Credentials {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            roots: vec![self.root.clone()],
        }
    }

    pub fn client(&self) -> ClientTls {
        ClientTls::new(&self.credentials(&id("client")), clock()).unwrap()
    }

    pub fn server(&self) -> ServerTls {
        ServerTls::new(&self.credentials(&id("web")), "cluster.local", clock()).unwrap()
    }
}

pub fn id(name: &str) -> Identity {
    Identity::new("cluster.local", "shop", name).unwrap()
}

pub fn expected(names: &[&str]) -> BTreeSet<Identity> {
    names.iter().map(|name| id(name)).collect()
}
