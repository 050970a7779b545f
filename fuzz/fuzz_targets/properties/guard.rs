//! The guard of HTTP/1: only a beginning of what came passes, however it is cut, and nothing that
//! two parsers could read in two ways is in it.

use waypoint::http::guard::Guard;

/// Input: a byte that says where to cut, then what a client sends.
pub fn holds(input: &[u8]) {
    let Some((cut, bytes)) = input.split_first() else {
        return;
    };
    let whole = passed(bytes, bytes.len().max(1));
    assert!(
        bytes.starts_with(&whole),
        "something else than what came passes"
    );
    assert_eq!(
        passed(bytes, usize::from(*cut).max(1)),
        whole,
        "cuts change what passes"
    );
    check_head(&whole);
}

fn passed(bytes: &[u8], step: usize) -> Vec<u8> {
    let mut guard = Guard::default();
    let (mut passed, mut held) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(step) {
        held.extend_from_slice(piece);
        let count = guard.scan(&held);
        passed.extend(held.drain(..count));
    }
    passed
}

/// The first head that passed, looked at line by line and in no other way than the eye does.
fn check_head(passed: &[u8]) {
    let passed = passed.strip_prefix(b"\r\n").unwrap_or(passed);
    let Some(end) = passed.windows(4).position(|four| four == b"\r\n\r\n") else {
        assert!(passed.is_empty(), "a part of a head passes");
        return;
    };
    let (mut lengths, mut codings) = (0, 0);
    for line in passed[..end].split(|byte| *byte == b'\n').skip(1) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(!line.contains(&b'\r'), "a bare CR");
        assert!(
            !line.starts_with(b" ") && !line.starts_with(b"\t"),
            "a folded line"
        );
        let colon = line.iter().position(|byte| *byte == b':');
        let name = &line[..colon.expect("a field has a colon")];
        assert!(
            !name.ends_with(b" ") && !name.ends_with(b"\t"),
            "a space before the colon"
        );
        lengths += u32::from(name.eq_ignore_ascii_case(b"content-length"));
        codings += u32::from(name.eq_ignore_ascii_case(b"transfer-encoding"));
    }
    assert!(lengths + codings <= 1, "two lengths");
    let feeds = passed[..end]
        .windows(2)
        .filter(|two| two[1] == b'\n' && two[0] != b'\r');
    assert_eq!(feeds.count(), 0, "a bare LF");
}
