//! The key and the certificate request of an identity. Knows no CA and no time.

use mesh::Identity;
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};

use super::issued::PrivateKey;

/// A new ECDSA P-256 key and a CSR (PEM) with it: no distinguished name, and the SPIFFE ID as the
/// only subject alternative name, critical since there is no name (RFC 5280, 4.2.1.6).
pub(super) fn make(identity: &Identity) -> Result<(PrivateKey, String), String> {
    let text = |error: rcgen::Error| error.to_string();
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(text)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let name = Ia5String::try_from(identity.to_string()).map_err(text)?;
    params.subject_alt_names = vec![SanType::URI(name)];
    let csr = params
        .serialize_request(&pair)
        .and_then(|csr| csr.pem())
        .map_err(text)?;
    Ok((PrivateKey::of(pair), csr))
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::*;

    #[test]
    fn a_request_has_no_name_a_critical_spiffe_id_and_a_good_signature() {
        let identity = Identity::new("cluster.local", "shop", "web").unwrap();
        let (_, csr) = make(&identity).unwrap();
        let block = ::pem::parse(csr).unwrap();
        assert_eq!(block.tag(), "CERTIFICATE REQUEST");
        let (_, csr) = X509CertificationRequest::from_der(block.contents()).unwrap();
        csr.verify_signature().unwrap();
        let info = &csr.certification_request_info;
        assert_eq!(info.subject.iter().count(), 0);
        let key = info.subject_pki.parsed().unwrap();
        assert_eq!(key.key_size(), 256);
        let extensions: Vec<_> = csr.requested_extensions().unwrap().collect();
        let [ParsedExtension::SubjectAlternativeName(names)] = extensions[..] else {
            panic!("other extensions: {extensions:?}");
        };
        assert_eq!(
            names.general_names,
            [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")]
        );
        // OID of the SAN extension followed by BOOLEAN TRUE: critical.
        let critical = [0x06, 0x03, 0x55, 0x1d, 0x11, 0x01, 0x01, 0xff];
        assert!(
            block
                .contents()
                .windows(critical.len())
                .any(|bytes| bytes == critical)
        );
    }

    #[test]
    fn every_request_has_its_own_key() {
        let identity = Identity::new("cluster.local", "shop", "web").unwrap();
        let (one, _) = make(&identity).unwrap();
        let (two, _) = make(&identity).unwrap();
        assert_ne!(one.public_key(), two.public_key());
    }
}
