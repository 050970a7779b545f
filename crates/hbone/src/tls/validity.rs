//! When a certificate ends: the one field that webpki checks and does not show.
//!
//! Reads certificates that webpki has found genuine, and no other field of them.

use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]`, the version.
const VERSION: u8 = 0xa0;

const SECONDS_PER_DAY: u64 = 86_400;

/// notAfter of a certificate (RFC 5280 4.1.2.5); None when it cannot be read.
pub(super) fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (certificate, _) = value(SEQUENCE, certificate)?;
    let (mut fields, _) = value(SEQUENCE, certificate)?;
    if let Some((_, rest)) = value(VERSION, fields) {
        fields = rest;
    }
    // Serial number, signature, issuer.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        fields = value(tag, fields)?.1;
    }
    let (validity, _) = value(SEQUENCE, fields)?;
    let (_, end) = time(validity)?;
    time(end)?.0
}

/// The content of the first value, which must have that tag, and what stands behind it.
fn value(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first > 0x80 {
        let (bytes, behind) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if bytes.len() > size_of::<u32>() {
            return None;
        }
        length = bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte));
        rest = behind;
    }
    if found != tag || first == 0x80 {
        return None;
    }
    rest.split_at_checked(length)
}

/// A moment, None inside when it is none; and what stands behind it.
fn time(der: &[u8]) -> Option<(Option<SystemTime>, &[u8])> {
    if let Some((text, rest)) = value(GENERALIZED_TIME, der) {
        return Some((moment(text), rest));
    }
    let (text, rest) = value(UTC_TIME, der)?;
    // Two digits mean 1950 to 2049.
    let century: &[u8] = if *text.first()? < b'5' { b"20" } else { b"19" };
    Some((moment(&[century, text].concat()), rest))
}

/// `YYYYMMDDHHMMSSZ`, which is the only form that RFC 5280 allows. A moment before 1970 is none.
fn moment(text: &[u8]) -> Option<SystemTime> {
    let digits = text.strip_suffix(b"Z").filter(|it| it.len() == 14)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |from: usize, count: usize| {
        let digits = &digits[from..from + count];
        digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0'))
    };
    let (year, month, day) = (number(0, 4), number(4, 2), number(6, 2));
    let (hour, minute, second) = (number(8, 2), number(10, 2), number(12, 2));
    let is_sound = (1..=12).contains(&month) && (1..=31).contains(&day);
    if !is_sound || hour > 23 || minute > 59 || second > 60 || year < 1970 {
        return None;
    }
    // Years that begin in March end with their leap day; 719,468 days lie between the first of
    // March of the year 0 and 1970.
    let year = if month > 2 { year } else { year - 1 };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + of_year;
    let days = days.checked_sub(719_468)?;
    let seconds = days * SECONDS_PER_DAY + hour * 3_600 + minute * 60 + second;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        let moment = moment(text.as_bytes())?;
        Some(
            moment
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap()
                .as_secs(),
        )
    }

    #[test]
    fn moments_are_read_to_the_second() {
        // By `date -u -d '...' +%s`.
        for (text, expected) in [
            ("19700101000000Z", 0),
            ("20000229235959Z", 951_868_799),
            ("20000301000000Z", 951_868_800),
            ("20261123061530Z", 1_795_414_530),
            ("21000301000000Z", 4_107_542_400),
            ("99991231235959Z", 253_402_300_799),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_none() {
        for text in [
            "",
            "Z",
            "20261123061530",
            "20261323061530Z",
            "20261100061530Z",
            "20261123241530Z",
            "2026112306153xZ",
            "20261123061530+0100Z",
            "19691231235959Z",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn the_end_of_a_certificate_is_the_one_it_was_made_with() {
        for (year, month) in [(2030, 2), (2049, 12), (2050, 1), (2120, 7)] {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::default();
            params.not_after = rcgen::date_time_ymd(year, month, 17);
            let made = params.self_signed(&key).unwrap();
            let expected = seconds(&format!("{year}{month:02}17000000Z")).unwrap();
            let end = not_after(made.der()).unwrap();
            assert_eq!(
                end.duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap()
                    .as_secs(),
                expected
            );
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
