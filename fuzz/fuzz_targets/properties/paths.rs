//! Paths: a replaced prefix is there, what came behind it is kept, and a `Location` leads where its
//! parts say.

use std::sync::Arc;

use mesh::route::Request;
use mesh::route::filter::{PathChange, Redirect, Scheme};
use mesh::route::path::{
    PATH_BYTES_MAX, check, has_prefix, normal_prefix, prefixes, replace_prefix,
};

/// Input: three lines: the target of a request, a prefix that it has, what takes its place.
pub fn holds(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    let mut lines = text.lines();
    let [Some(target), Some(prefix), Some(replacement)] = [(); 3].map(|()| lines.next()) else {
        return;
    };
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    // Of others a manifest is refused, or a request.
    if check(prefix).is_err() || check(replacement).is_err() || !path.starts_with('/') {
        return;
    }
    let matched = normal_prefix(prefix);
    assert_eq!(
        has_prefix(path, matched),
        prefixes(path).any(|one| one == matched),
        "the index and the rule differ on what a prefix is"
    );
    if !has_prefix(path, matched) {
        return;
    }
    let replaced = replace_prefix(path, matched, replacement);
    replaced_well(path, matched, replacement, &replaced);
    leads_there(path, query, matched, replacement, &replaced);
}

/// What lies between slashes.
fn segments(path: &str) -> Vec<&str> {
    path.split('/').filter(|one| !one.is_empty()).collect()
}

fn replaced_well(path: &str, matched: &str, replacement: &str, replaced: &str) {
    assert!(replaced.starts_with('/'), "{replaced:?} is not absolute");
    assert!(
        has_prefix(replaced, normal_prefix(replacement)),
        "{replaced:?} is not below {replacement:?}"
    );
    let kept = &segments(path)[segments(matched).len()..];
    let mut expected = segments(replacement);
    expected.extend(kept);
    assert_eq!(segments(replaced), expected, "segments are lost or made");
    let new_flaw = check(path).is_ok() && replaced.len() <= PATH_BYTES_MAX;
    assert!(
        !new_flaw || check(replaced).is_ok(),
        "{path:?} was a path, {replaced:?} is none"
    );
    let back = replace_prefix(replaced, normal_prefix(replacement), matched);
    assert_eq!(segments(&back), segments(path), "there is no way back");
}

fn leads_there(path: &str, query: Option<&str>, matched: &str, replacement: &str, replaced: &str) {
    let request = Request {
        method: "GET",
        scheme: "http",
        authority: "shop:8080",
        port: 8080,
        path,
        query,
        headers: &Vec::new(),
    };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    let to = |scheme, port, path| Redirect {
        scheme,
        host: None,
        port,
        path,
        status: 302,
    };
    let prefix = Some(PathChange::Prefix(Arc::from(replacement)));
    for (redirect, expected) in [
        (
            to(None, None, None),
            format!("http://shop:8080{path}{query}"),
        ),
        (
            to(Some(Scheme::Https), None, prefix.clone()),
            format!("https://shop{replaced}{query}"),
        ),
        (
            to(None, Some(80), prefix),
            format!("http://shop{replaced}{query}"),
        ),
    ] {
        assert_eq!(redirect.location(&request, matched), expected);
    }
}
