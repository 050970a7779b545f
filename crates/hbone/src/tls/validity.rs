//! When a certificate ends: the one field that webpki checks and does not show.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::parse_x509_certificate;

/// notAfter of a certificate that webpki has found genuine (RFC 5280 4.1.2.5); None when it cannot
/// be read, or was before 1970.
pub(super) fn not_after(certificate: &CertificateDer<'_>) -> Option<UnixTime> {
    let (_, certificate) = parse_x509_certificate(certificate).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    let seconds = u64::try_from(seconds).ok()?;
    Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_the_one_it_was_made_with() {
        // By `date -u -d '2030-02-17' +%s` and so on; the form of the field changes with 2050.
        for ((year, month), expected) in [
            ((2030, 2), 1_897_516_800),
            ((2049, 12), 2_523_312_000),
            ((2050, 1), 2_525_990_400),
            ((2120, 7), 4_750_617_600),
        ] {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::default();
            params.not_after = rcgen::date_time_ymd(year, month, 17);
            let made = params.self_signed(&key).unwrap();
            let end = not_after(made.der()).map(|end| end.as_secs());
            assert_eq!(end, Some(expected), "{year}-{month}");
        }
    }

    #[test]
    fn a_certificate_that_is_cut_has_no_end() {
        let key = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::default()
            .self_signed(&key)
            .unwrap();
        let der = made.der();
        for length in 0..der.len() {
            let cut = CertificateDer::from(&der[..length]);
            assert_eq!(not_after(&cut), None, "{length}");
        }
    }
}
