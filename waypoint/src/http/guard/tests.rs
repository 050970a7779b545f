//! The guard's tests: each way of smuggling, each bound, and that cuts between reads say nothing.

use proptest::prelude::*;

use super::*;

/// Feeds `input` in pieces; what passed, and how it ended.
fn passed(input: &[u8], cuts: &[usize]) -> (Vec<u8>, Option<Violation>) {
    let mut guard = Guard::default();
    let (mut passed, mut held, mut at) = (Vec::new(), Vec::new(), 0);
    let mut cuts = cuts.iter().cycle();
    while at < input.len() {
        let step = *cuts.next().unwrap();
        let end = (at + step.max(1)).min(input.len());
        held.extend_from_slice(&input[at..end]);
        at = end;
        let count = guard.scan(&held);
        passed.extend(held.drain(..count));
    }
    (passed, guard.broken().map(|(violation, _)| violation))
}

fn whole(input: &str) -> (usize, Option<Violation>) {
    let (passed, violation) = passed(input.as_bytes(), &[usize::MAX / 2]);
    (passed.len(), violation)
}

#[test]
fn what_is_proper_passes_whole() {
    for input in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost:a:80\r\nX: \t y\t\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\n\
         Host: [::1]\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5;a=\"b c\"\r\n\
         hello\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n00A\r\n\
         0123456789\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\nGET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
    ] {
        assert_eq!(whole(input), (input.len(), None), "{input:?}");
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    let head = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    for input in [
        head("Content-Length: 5\r\nTransfer-Encoding: chunked"),
        head("Transfer-Encoding: chunked\r\nContent-Length: 5"),
        head("Content-Length: 5\r\nContent-Length: 6"),
        head("Content-Length: 5\r\nContent-Length: 5"),
        head("Content-Length: 5, 5"),
        head("Content-Length: +5"),
        head("Content-Length: 0x5"),
        head("Content-Length:"),
        head("Content-Length: 99999999999999999999"),
        head("Transfer-Encoding: gzip, chunked"),
        head("Transfer-Encoding: chunked, identity"),
        head("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        head("Transfer-Encoding: xchunked"),
        head("Transfer-Encoding : chunked"),
        head("Transfer-Encoding\t: chunked"),
        head("X: a\r\n b"),
        head("X: a\r\n\tb"),
        head("X: a\nY: b"),
        head("X: a\rY: b"),
        head("X: a\0b"),
        head(": b"),
        head("X"),
        head("X y: b"),
        head("Host: b"),
        "GET / HTTP/1.1\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\nHost: a\n\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(),
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET /\tb HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n".to_owned(),
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/1.2\r\nHost: a\r\n\r\n".to_owned(),
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(),
        "GET /\r\nHost: a\r\n\r\n".to_owned(),
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "GE(T / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx".to_owned(),
    ] {
        let (passed, violation) = whole(&input);
        assert_eq!(passed, 0, "{input:?}");
        assert!(matches!(violation, Some(Violation::Syntax(_))), "{input:?}");
    }
}

#[test]
fn a_body_whose_chunks_are_broken_passes_up_to_there() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, good) in [
        ("5\r\nhelloX", "5\r\nhello"),
        ("5\r\nhello\nX", "5\r\nhello"),
        ("5\nhello", "5"),
        ("5 \r\nhello", "5"),
        (" 5\r\nhello", ""),
        ("-5\r\nhello", ""),
        ("0x5\r\nhello", "0"),
        ("\r\nhello", ""),
        (";a\r\n", ""),
        ("5;a\0\r\n", "5;a"),
        ("5;a\n", "5;a"),
        ("1000000000000000\r\n", "100000000000000"),
        ("0\r\nX: a\r\n b\r\n\r\n", "0\r\n"),
        ("0\r\nX : a\r\n\r\n", "0\r\n"),
        ("0\r\nContent-Length: 5\r\n\r\n", "0\r\n"),
        ("0\r\n\n", "0\r\n"),
    ] {
        let input = format!("{head}{body}");
        let (count, violation) = whole(&input);
        assert_eq!(&input[head.len()..count], good, "{body:?}");
        assert!(matches!(violation, Some(Violation::Syntax(_))), "{body:?}");
    }
    let long = format!("{head}5;{}\r\n", "a".repeat(CHUNK_LINE));
    assert!(whole(&long).1.is_some());
}

const CHUNK_LINE: usize = super::super::limits::CHUNK_LINE_BYTES_MAX;

#[test]
fn what_is_too_large_is_refused_with_its_own_status() {
    let line = |length: usize| {
        let path = "a".repeat(length - "GET / HTTP/1.1".len());
        format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n")
    };
    assert_eq!(whole(&line(REQUEST_LINE_BYTES_MAX)).1, None);
    let too_long = Some(Violation::TargetTooLong);
    assert_eq!(whole(&line(REQUEST_LINE_BYTES_MAX + 1)).1, too_long);
    // Its end need not have come.
    assert_eq!(whole(&"a".repeat(REQUEST_LINE_BYTES_MAX + 2)).1, too_long);

    let fields = |count: usize| {
        let fields = "x: y\r\n".repeat(count - 1);
        format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
    };
    assert_eq!(whole(&fields(FIELDS_MAX)).1, None);
    let too_large = Some(Violation::FieldsTooLarge);
    assert_eq!(whole(&fields(FIELDS_MAX + 1)).1, too_large);

    let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
    let large = |total: usize| format!("{start}{}\r\n\r\n", "y".repeat(total - start.len() - 4));
    assert_eq!(whole(&large(HEAD_BYTES_MAX)).1, None);
    assert_eq!(whole(&large(HEAD_BYTES_MAX + 1)).1, too_large);
    let endless = format!("{start}{}", "y".repeat(HEAD_BYTES_MAX));
    assert_eq!(whole(&endless).1, too_large);
    for (violation, status) in [
        (Violation::TargetTooLong, 414),
        (Violation::FieldsTooLarge, 431),
        (Violation::TooSlow, 408),
        (Violation::Syntax(""), 400),
    ] {
        assert_eq!(violation.status().as_u16(), status);
    }
}

#[test]
fn what_follows_an_upgrade_waits_for_its_answer() {
    let head = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n";
    let input = [&head[..], b"\x81\x05hello"].concat();
    let mut guard = Guard::default();
    assert_eq!(guard.scan(&input), head.len());
    assert!(guard.is_undecided());
    assert_eq!(guard.scan(&input[head.len()..]), 0);
    guard.open();
    assert_eq!(guard.scan(&input[head.len()..]), 7);

    let next = b"GET / HTTP/1.0\r\n\r\n";
    let mut guard = Guard::default();
    let connect = b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";
    assert_eq!(guard.scan(connect), connect.len());
    guard.resume();
    assert_eq!(guard.scan(next), next.len());
    assert_eq!(guard.heads(), 2);
}

#[test]
fn what_came_before_the_violation_still_passes() {
    let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let input = format!("{good}GET / HTTP/1.1\r\nHost : a\r\n\r\n{good}");
    let (count, violation) = whole(&input);
    assert_eq!(count, good.len());
    assert!(violation.is_some());
}

/// Heads and bodies, most of them proper, some of them cut or with a byte changed.
fn traffic() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        Just("Host: a\r\n".to_owned()),
        Just("Content-Length: 5\r\n".to_owned()),
        Just("Transfer-Encoding: chunked\r\n".to_owned()),
        "[A-Za-z-]{1,8}: ?[ -~]{0,12}\r\n",
    ];
    let message = (proptest::collection::vec(field, 0..4), 0..3_u8).prop_map(|(fields, body)| {
        let body = ["", "hello", "5\r\nhello\r\n0\r\nA: b\r\n\r\n"][usize::from(body)];
        format!(
            "POST /p HTTP/1.1\r\nHost: a\r\n{}\r\n{body}",
            fields.concat()
        )
    });
    let change = proptest::option::of((any::<prop::sample::Index>(), any::<u8>()));
    (proptest::collection::vec(message, 1..4), change).prop_map(|(messages, change)| {
        let mut bytes = messages.concat().into_bytes();
        if let Some((at, byte)) = change {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn how_the_bytes_are_cut_changes_nothing(
        input in traffic(),
        cuts in proptest::collection::vec(1_usize..40, 1..8),
    ) {
        prop_assert_eq!(passed(&input, &cuts), passed(&input, &[usize::MAX / 2]));
    }

    #[test]
    fn only_a_beginning_of_what_came_passes(
        input in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let (passed, _) = passed(&input, &[7]);
        prop_assert!(input.starts_with(&passed));
    }
}
