//! Checks of a certificate request. What is wrong with one is told to its sender: there is no
//! secret in it.

use mesh::Identity;
use rcgen::SubjectPublicKeyInfo;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// Longest request in bytes of PEM: one with a P-384 key and the longest SPIFFE ID has 4 KiB.
pub const MAX_CSR_BYTES: usize = 16 * 1024;

/// Object identifiers of what is taken: an EC key on a NIST curve, signed with ECDSA.
const EC_PUBLIC_KEY: &str = "1.2.840.10045.2.1";
const CURVES: [&str; 2] = ["1.2.840.10045.3.1.7", "1.3.132.0.34"];
const ECDSA: [&str; 2] = ["1.2.840.10045.4.3.2", "1.2.840.10045.4.3.3"];

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// No PEM of one request.
    #[error("the CSR is no PEM of one certificate request: {0}")]
    Form(String),
    /// The key is of a kind that no proxy of the mesh uses.
    #[error("the CSR's key or signature is not ECDSA with P-256 or P-384")]
    Key,
    /// Whoever made it does not have the key.
    #[error("the CSR's signature does not verify")]
    Signature,
    /// It asks for more than a name.
    #[error("the CSR asks for {0}; only the extension subjectAltName may be in it")]
    Foreign(String),
    /// It does not have exactly one name.
    #[error("the CSR has {0} names; exactly one URI must be in it")]
    Names(usize),
    /// It has another name than the one asked for.
    #[error("the CSR is for `{0}`, which is not the identity asked for")]
    OtherIdentity(String),
}

/// The public key of a request that is for `identity` and for nothing else.
///
/// # Errors
/// Anything in it that is not as it should be.
pub fn check(pem: &str, identity: &Identity) -> Result<SubjectPublicKeyInfo, CsrError> {
    let der = der(pem)?;
    let (rest, csr) = X509CertificationRequest::from_der(&der)
        .map_err(|_| CsrError::Form("the content cannot be read".to_owned()))?;
    if !rest.is_empty() {
        return Err(CsrError::Form(
            "there are bytes behind the request".to_owned(),
        ));
    }
    let info = &csr.certification_request_info;
    let algorithm = &info.subject_pki.algorithm;
    let curve = algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
    let curve = curve.map(|oid| oid.to_id_string()).unwrap_or_default();
    if algorithm.algorithm.to_id_string() != EC_PUBLIC_KEY
        || !CURVES.contains(&curve.as_str())
        || !ECDSA.contains(&csr.signature_algorithm.algorithm.to_id_string().as_str())
    {
        return Err(CsrError::Key);
    }
    csr.verify_signature().map_err(|_| CsrError::Signature)?;
    check_name(&csr, identity)?;
    SubjectPublicKeyInfo::from_der(info.subject_pki.raw).map_err(|_| CsrError::Key)
}

fn der(text: &str) -> Result<Vec<u8>, CsrError> {
    if text.len() > MAX_CSR_BYTES {
        return Err(CsrError::Form(format!(
            "{} bytes are more than {MAX_CSR_BYTES}",
            text.len()
        )));
    }
    let blocks = pem::parse_many(text).map_err(|error| CsrError::Form(error.to_string()))?;
    match &blocks[..] {
        [one] if one.tag() == "CERTIFICATE REQUEST" || one.tag() == "NEW CERTIFICATE REQUEST" => {
            Ok(one.contents().to_vec())
        }
        [one] => Err(CsrError::Form(format!("it is a {}", one.tag()))),
        many => Err(CsrError::Form(format!("it has {} blocks", many.len()))),
    }
}

fn check_name(csr: &X509CertificationRequest<'_>, identity: &Identity) -> Result<(), CsrError> {
    let mut names = Vec::new();
    for attribute in csr.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(request) = attribute.parsed_attribute() else {
            return Err(CsrError::Foreign(format!(
                "the attribute {}",
                attribute.oid
            )));
        };
        for extension in &request.extensions {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(san) => {
                    names.extend(san.general_names.iter());
                }
                _ => {
                    return Err(CsrError::Foreign(format!(
                        "the extension {}",
                        extension.oid
                    )));
                }
            }
        }
    }
    match names[..] {
        [GeneralName::URI(uri)] if *uri == identity.to_string() => Ok(()),
        [GeneralName::URI(uri)] => Err(CsrError::OtherIdentity(uri.chars().take(256).collect())),
        _ => Err(CsrError::Names(names.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData, SanType};

    #[test]
    fn no_damage_to_a_request_gets_another_key_or_name_signed() {
        let identity = Identity::new("cluster.local", "shop", "web").unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = Ia5String::try_from(identity.to_string()).unwrap();
        params.subject_alt_names = vec![SanType::URI(uri)];
        let csr = params
            .serialize_request(&KeyPair::generate().unwrap())
            .unwrap();
        let encode = |der: &[u8]| pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", der));
        let key = check(&encode(csr.der()), &identity).unwrap();
        for at in 0..csr.der().len() {
            for flip in [0x01, 0x80] {
                let mut damaged = csr.der().to_vec();
                damaged[at] ^= flip;
                // The frame around the signed part may differ without harm.
                if let Ok(taken) = check(&encode(&damaged), &identity) {
                    assert_eq!(taken.der_bytes(), key.der_bytes(), "byte {at} ^ {flip:#x}");
                }
            }
            assert!(
                check(&encode(&csr.der()[..at]), &identity).is_err(),
                "cut at {at}"
            );
        }
    }
}
