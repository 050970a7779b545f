//! Openings: what the first bytes say does not change when more of them come, and a name that is
//! believed can be one.

use waypoint::opening::{OPENING_BYTES, Opening, look};

/// Input: how many bytes come at a time, then what a client sends.
pub fn holds(input: &[u8]) {
    let Some((step, bytes)) = input.split_first() else {
        return;
    };
    let step = usize::from(*step).max(1);
    let mut said: Option<Opening> = None;
    for end in (0..bytes.len()).step_by(step).chain([bytes.len()]) {
        let now = look(&bytes[..end]);
        if let Some(before) = &said {
            assert_eq!(&now, before, "more bytes change what they say, at {end}");
        }
        assert!(
            now != Opening::Unclear || end < OPENING_BYTES,
            "nothing is said of {end} bytes"
        );
        said = said.or_else(|| (now != Opening::Unclear).then_some(now));
    }
    check(bytes, &look(bytes));
}

fn check(bytes: &[u8], opening: &Opening) {
    let first = bytes
        .iter()
        .find(|byte| !matches!(byte, b'\r' | b'\n'))
        .copied()
        .unwrap_or_default();
    match opening {
        Opening::Http => assert!(
            first.is_ascii_uppercase() || first == b'-',
            "HTTP without a method"
        ),
        Opening::Tls(name) => {
            assert_eq!(bytes.first(), Some(&0x16), "TLS without a handshake");
            if let Some(name) = name {
                assert!(!name.is_empty() && name.len() <= 255, "{name:?}");
                assert!(
                    name.bytes().all(|byte| byte.is_ascii_graphic())
                        && *name == name.to_ascii_lowercase(),
                    "{name:?}"
                );
            }
        }
        Opening::Unclear | Opening::Other => {}
    }
}
