//! A certificate authority for tests.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer,
    DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

/// What a leaf is valid for.
#[derive(Clone, Copy)]
pub struct Validity {
    pub from: SystemTime,
    pub to: SystemTime,
}

pub struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2090, 1, 1);
    params
}

impl Ca {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        Self {
            issuer: CertifiedIssuer::self_signed(ca_params(name), key).unwrap(),
        }
    }

    pub fn root_pem(&self) -> String {
        self.issuer.pem()
    }

    /// This CA's name and key in a certificate of another CA.
    pub fn cross_signed_by(&self, old: &Ca, name: &str) -> String {
        ca_params(name)
            .signed_by(self.issuer.key(), &old.issuer)
            .unwrap()
            .pem()
    }

    /// Certificate and key (PEM) of a server at an address, valid for decades.
    pub fn server(&self, ip: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress(ip.parse::<IpAddr>().unwrap())];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2090, 1, 1);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Signs the key of a CSR for `identity`, as a certificate authority of the mesh does.
    pub fn sign(&self, csr_pem: &str, identity: &str, validity: Validity) -> String {
        let mut csr = CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        csr.params = leaf_params(identity, validity);
        csr.signed_by(&self.issuer).unwrap().pem()
    }

    /// A certificate of a key that nobody asked for.
    pub fn sign_own_key(&self, identity: &str, validity: Validity) -> String {
        let key = KeyPair::generate().unwrap();
        leaf_params(identity, validity)
            .signed_by(&key, &self.issuer)
            .unwrap()
            .pem()
    }
}

fn leaf_params(identity: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = identity
        .split_whitespace()
        .map(|id| SanType::URI(Ia5String::try_from(id).unwrap()))
        .collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let epoch = date_time_ymd(1970, 1, 1);
    let since = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    params.not_before = epoch + since(validity.from);
    params.not_after = epoch + since(validity.to);
    params
}

/// A validity of `seconds` from `now`.
pub fn lasting(now: SystemTime, seconds: u64) -> Validity {
    Validity {
        from: now,
        to: now + Duration::from_secs(seconds),
    }
}
