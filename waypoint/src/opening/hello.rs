//! The server name in a TLS ClientHello (RFC 8446 4.1.2, RFC 6066 3). Reads nothing else of it.

use super::Opening;

/// Record type of handshakes.
const HANDSHAKE: u8 = 0x16;
/// Handshake type of a ClientHello.
const CLIENT_HELLO: u8 = 1;
/// Largest payload of a record in plaintext (RFC 8446 5.1).
const RECORD_BYTES: usize = 1 << 14;
/// The extension with the server name.
const SERVER_NAME: u16 = 0;
/// A server name that is a DNS name.
const HOST_NAME: u8 = 0;
/// Longest DNS name.
const NAME_BYTES: usize = 255;

/// What stops reading.
enum Stop {
    /// There are not enough bytes yet.
    Short,
    /// It is no ClientHello.
    Wrong,
}

/// Looks at bytes that begin like a TLS handshake.
pub(super) fn look(bytes: &[u8]) -> Opening {
    let message = match message(bytes) {
        Ok(message) => message,
        Err(Stop::Short) => return Opening::Unclear,
        Err(Stop::Wrong) => return Opening::Other,
    };
    match server_name(&message) {
        Some(name) => Opening::Tls(name),
        None => Opening::Other,
    }
}

/// The ClientHello, out of as many records as it takes.
fn message(mut bytes: &[u8]) -> Result<Vec<u8>, Stop> {
    let mut message = Vec::new();
    loop {
        let [kind, major, _, high, low, rest @ ..] = bytes else {
            let plausible = matches!(bytes, [] | [HANDSHAKE] | [HANDSHAKE, 3, ..]);
            return Err(if plausible { Stop::Short } else { Stop::Wrong });
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if (*kind, *major) != (HANDSHAKE, 3) || length == 0 || length > RECORD_BYTES {
            return Err(Stop::Wrong);
        }
        message.extend_from_slice(&rest[..length.min(rest.len())]);
        if let [kind, a, b, c, body @ ..] = &message[..] {
            if *kind != CLIENT_HELLO {
                return Err(Stop::Wrong);
            }
            let wanted = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if body.len() >= wanted {
                return Ok(body[..wanted].to_vec());
            }
        }
        bytes = rest.get(length..).ok_or(Stop::Short)?;
    }
}

/// Takes `count` bytes off.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count)?;
    *bytes = rest;
    Some(taken)
}

fn number(bytes: &mut &[u8]) -> Option<u16> {
    let taken = take(bytes, 2)?;
    Some(u16::from_be_bytes([taken[0], taken[1]]))
}

/// A vector with a length of one byte, or of two.
fn vector<'a>(bytes: &mut &'a [u8], is_long: bool) -> Option<&'a [u8]> {
    let length = match is_long {
        true => number(bytes)?,
        false => u16::from(take(bytes, 1)?[0]),
    };
    take(bytes, usize::from(length))
}

/// None when it is no ClientHello, `Some(None)` when it has no name.
fn server_name(mut body: &[u8]) -> Option<Option<String>> {
    let bytes = &mut body;
    // Version and random.
    take(bytes, 34)?;
    // Session, cipher suites, compression.
    vector(bytes, false)?;
    vector(bytes, true)?;
    vector(bytes, false)?;
    if bytes.is_empty() {
        return Some(None);
    }
    let mut extensions = vector(bytes, true)?;
    while !extensions.is_empty() {
        let kind = number(&mut extensions)?;
        let mut extension = vector(&mut extensions, true)?;
        if kind != SERVER_NAME {
            continue;
        }
        let mut names = vector(&mut extension, true)?;
        while !names.is_empty() {
            let kind = take(&mut names, 1)?[0];
            let name = vector(&mut names, true)?;
            if kind == HOST_NAME {
                return Some(Some(host(name)?));
            }
        }
    }
    Some(None)
}

/// A DNS name in lower case, without a final dot.
fn host(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let fits = !name.is_empty() && name.len() <= NAME_BYTES;
    (fits && name.bytes().all(is_name)).then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body of a ClientHello with this server name extension.
    fn hello(extension: Option<&[u8]>) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        if let Some(extension) = extension {
            // Another extension comes first.
            let mut extensions = vec![0, 43, 0, 3, 2, 3, 4, 0, 0];
            extensions.extend((extension.len() as u16).to_be_bytes());
            extensions.extend(extension);
            body.extend((extensions.len() as u16).to_be_bytes());
            body.extend(extensions);
        }
        let mut message = vec![1];
        message.extend(&(body.len() as u32).to_be_bytes()[1..]);
        message.extend(body);
        message
    }

    fn name(text: &[u8]) -> Vec<u8> {
        let mut name = vec![0];
        name.extend((text.len() as u16).to_be_bytes());
        name.extend(text);
        let mut extension = (name.len() as u16).to_be_bytes().to_vec();
        extension.extend(name);
        extension
    }

    /// In records of so many bytes.
    fn records(message: &[u8], bytes: usize) -> Vec<u8> {
        let record = |part: &[u8]| {
            let length = (part.len() as u16).to_be_bytes();
            [&[0x16, 3, 1, length[0], length[1]], part].concat()
        };
        message.chunks(bytes).flat_map(record).collect()
    }

    #[test]
    fn the_name_is_found_in_one_record_and_in_many() {
        let message = hello(Some(&name(b"Web.Shop.example.")));
        for bytes in [1, 3, 40, 16_000] {
            let wire = records(&message, bytes);
            let found = Opening::Tls(Some("web.shop.example".to_owned()));
            assert_eq!(look(&wire), found, "records of {bytes}");
            for part in 1..wire.len() {
                assert_eq!(look(&wire[..part]), Opening::Unclear, "{part}");
            }
        }
    }

    #[test]
    fn a_hello_needs_no_name() {
        assert_eq!(look(&records(&hello(None), 900)), Opening::Tls(None));
        let empty = records(&hello(Some(&[0, 0])), 900);
        assert_eq!(look(&empty), Opening::Tls(None));
    }

    #[test]
    fn what_is_no_hello_is_something_else() {
        let long = vec![b'a'; 256];
        for extension in [
            &name(b"")[..],
            &name(b"a b"),
            &name("größe".as_bytes()),
            &name(&long),
            &[0, 9, 0],
        ] {
            let wire = records(&hello(Some(extension)), 900);
            assert_eq!(look(&wire), Opening::Other, "{extension:?}");
        }
        for bytes in [
            &[0x16, 2][..],
            &[0x16, 3, 1, 0, 0],
            &[0x16, 3, 1, 0x40, 1],
            &[0x16, 3, 1, 0, 4, 2, 0, 0, 0],
            &[0x16, 3, 1, 0, 4, 1, 0, 0, 0],
        ] {
            assert_eq!(look(bytes), Opening::Other, "{bytes:?}");
        }
    }
}
