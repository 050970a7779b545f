//! The limits as they are given and shown. Knows no proxy.

use super::*;

#[test]
fn the_defaults_hold_together_and_are_those_of_the_tunnel() {
    let mut mistakes = Mistakes::new();
    Limits::default().check(&mut mistakes);
    assert_eq!(mistakes.finish(), Ok(()));
    let (ours, theirs) = (Limits::default().tunnel(), TunnelConfig::default());
    assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
}

#[test]
fn an_empty_file_or_one_of_comments_means_the_defaults() {
    for text in ["", "\n", "# nothing\n"] {
        assert_eq!(read(text), Ok(Limits::default()), "{text:?}");
    }
}

#[test]
fn what_is_printed_is_a_file_with_the_same_limits() {
    let limits = Limits {
        connections_per_pod: 7,
        stream_window: 300 * KIB + 1,
        ..Limits::default()
    };
    let page = yaml(&limits);
    assert_eq!(read(&page), Ok(limits), "{page}");
    for (about, _) in limits.about() {
        assert!(
            page.contains(&format!("\n{}: ", about.key)),
            "{}",
            about.key
        );
        for text in [about.what, about.unit, about.reason, about.past] {
            assert!(!text.is_empty(), "{}", about.key);
            let first = text.split(' ').next().unwrap_or_default();
            assert!(page.contains(first), "{}: `{text}`", about.key);
        }
    }
    assert!(page.lines().all(|line| line.len() <= 100), "{page}");
}

#[test]
fn sizes_are_read_with_and_without_a_unit() {
    let limits = read("stream_window: 65536\nstream_window_max: 1MiB\n").unwrap();
    assert_eq!(
        (limits.stream_window, limits.stream_window_max),
        (64 * KIB, MIB)
    );
    assert_eq!(limits.tunnel().stream_window_bytes, 65_536);
}

#[test]
fn all_mistakes_are_told_at_once_with_key_and_reason() {
    let text = "conections_per_pod: 5\n\
                connections_per_pod: 20000\n\
                handshakes_per_worker: 0\n\
                open_files: many\n\
                tunnel_window: 3 pints\n\
                stream_backlog: 8MiB\n";
    let error = read(text).unwrap_err();
    let all = error.to_string();
    for part in [
        "unknown field `conections_per_pod`",
        "connections_per_pod: 20000 is more than connections_per_worker (16384)",
        "handshakes_per_worker: 0 is not from 1 to",
        "open_files: ",
        "`3 pints` is no size",
        "stream_backlog: 8MiB is more than tunnel_backlog (4MiB)",
    ] {
        assert!(all.contains(part), "no `{part}` in {all}");
    }
}

#[test]
fn what_is_no_list_of_keys_is_refused() {
    for text in [
        "- 1\n- 2\n",
        "5",
        "a: [",
        "connections_per_pod: 1\nconnections_per_pod: 2\n",
    ] {
        assert!(read(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_file_that_is_missing_is_named() {
    let error = load("/nowhere/limits.yaml".as_ref())
        .unwrap_err()
        .to_string();
    assert!(error.contains("/nowhere/limits.yaml"), "{error}");
}

#[test]
fn the_page_of_the_limits_has_them_as_they_are() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/limits.md");
    let page = std::fs::read_to_string(path).unwrap();
    let table = table(&Limits::default());
    assert!(
        page.contains(&table),
        "docs/limits.md must have the table that `ztunnel limits --table` prints:\n{table}"
    );
}
