//! Limits as a person reads them: the file with its comments, and the table of `docs/limits.md`.

use std::fmt::Write as _;

use super::{About, Kind, Limits, bytes, time};

/// Longest line of a comment, in characters.
const COLUMNS: usize = 96;

/// A value as the file has it.
pub(super) fn written(about: &About, value: usize) -> String {
    match about.kind {
        Kind::Count => value.to_string(),
        Kind::Size => bytes::text(value),
        Kind::Time => time::text(value),
    }
}

/// A limits file with these values; each with its unit, its range and its reason.
pub fn yaml(limits: &Limits) -> String {
    let mut page = String::from(
        "# Limits of ztunnel and waypoint. Give this file by --limits FILE (or ZTUNNEL_LIMITS,\n\
         # WAYPOINT_LIMITS); a key that is left out has its default. Past a limit new work is\n\
         # refused with a reason, what exists goes on.\n",
    );
    for (about, value) in limits.about() {
        let (low, high) = about.range;
        page.push('\n');
        comment(&mut page, about.what);
        let range = format!(
            "Unit: {}, from {} to {}.",
            about.unit,
            written(&about, low),
            written(&about, high)
        );
        comment(&mut page, &range);
        comment(&mut page, &format!("Why: {}", about.reason));
        comment(&mut page, &format!("Past it: {}", about.past));
        line(
            &mut page,
            format_args!("{}: {}", about.key, written(&about, value)),
        );
    }
    page
}

/// The rows of `docs/limits.md`.
pub fn table(limits: &Limits) -> String {
    let mut page =
        String::from("| key | default | what | reason | past it |\n|---|---|---|---|---|\n");
    let bare = |text: &str| text.trim_end_matches('.').to_owned();
    for (about, value) in limits.about() {
        let value = written(&about, value);
        let value = match about.kind {
            Kind::Count => format!("{value} {}", about.unit),
            Kind::Size | Kind::Time => value,
        };
        let (what, reason, past) = (bare(about.what), bare(about.reason), bare(about.past));
        let key = about.key;
        line(
            &mut page,
            format_args!("| `{key}` | {value} | {what} | {reason} | {past} |"),
        );
    }
    page
}

fn comment(page: &mut String, text: &str) {
    let mut at = 0;
    for word in text.split(' ') {
        let bytes = 1 + word.len();
        if at > 0 && at + bytes > COLUMNS {
            page.push('\n');
            at = 0;
        }
        if at == 0 {
            page.push('#');
        }
        page.push(' ');
        page.push_str(word);
        at += bytes;
    }
    page.push('\n');
}

fn line(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(page, "{text}");
}
