//! What `/config_dump` shows of certificates: public facts only. Knows no key.

use std::time::{Duration, SystemTime};

use mesh::Identity;
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

use super::issued::Issued;

/// One identity and the state of its certificate, in the shape that the ecosystem's tools read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateStatus {
    /// SPIFFE ID.
    pub identity: String,
    /// `Available`, `Initializing`, `Expired`, or `Unavailable: reason`. A certificate in use whose
    /// renewal fails is available, with the reason in `last_error`.
    pub state: String,
    /// What the last attempt ended with, when it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// Leaf and intermediates.
    pub cert_chain: Vec<ChainStatus>,
    /// Roots of the mesh.
    pub root_certs: Vec<ChainStatus>,
}

/// One certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChainStatus {
    /// Hexadecimal, with colons.
    pub serial_number: String,
    /// RFC 3339, UTC.
    pub valid_from: String,
    /// RFC 3339, UTC.
    pub expiration_time: String,
    /// Whether it is valid now.
    pub valid: bool,
}

impl CertificateStatus {
    pub(super) fn new(
        identity: &Identity,
        issued: Option<&Issued>,
        last_error: Option<&str>,
        now: SystemTime,
    ) -> Self {
        let state = match (issued, last_error) {
            (Some(issued), _) if now < issued.not_after() => "Available".to_owned(),
            (Some(_), _) => "Expired".to_owned(),
            (None, Some(error)) => format!("Unavailable: {error}"),
            (None, None) => "Initializing".to_owned(),
        };
        let list = |certificates: &[CertificateDer<'_>]| {
            certificates
                .iter()
                .filter_map(|der| ChainStatus::of(der, now))
                .collect()
        };
        Self {
            identity: identity.to_string(),
            state,
            last_error: last_error.map(str::to_owned),
            cert_chain: issued
                .map(|issued| list(issued.chain()))
                .unwrap_or_default(),
            root_certs: issued
                .map(|issued| list(issued.roots()))
                .unwrap_or_default(),
        }
    }
}

impl ChainStatus {
    fn of(der: &[u8], now: SystemTime) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        let seconds = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let now = ASN1Time::from_timestamp(i64::try_from(seconds).ok()?).ok()?;
        Some(Self {
            serial_number: certificate.tbs_certificate.raw_serial_as_string(),
            valid_from: text(validity.not_before),
            expiration_time: text(validity.not_after),
            valid: validity.is_valid_at(now),
        })
    }
}

/// RFC 3339 in UTC, to the second; the epoch for what is before it.
pub(super) fn rfc3339(at: SystemTime) -> String {
    let seconds = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|at| ASN1Time::from_timestamp(at).ok());
    time.map_or_else(|| format!("{seconds} s after 1970"), text)
}

fn text(time: ASN1Time) -> String {
    let at = time.to_datetime();
    let (date, clock) = (at.date(), at.time());
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        clock.hour(),
        clock.minute(),
        clock.second()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_as_rfc_3339() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(rfc3339(at), "2023-11-14T22:13:20Z");
    }
}
