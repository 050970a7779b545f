//! Regular expressions of routes: compiled once, bounded, always anchored at both ends.
//!
//! The dialect is RE2's (linear time in the text; no look-around, no back references), as the
//! field's proxies have it.

use std::fmt;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};

/// Most memory in bytes that one compiled expression may take. A route has at most 128 matches of
/// at most 33 expressions each; honest ones take 1 to 20 KB.
const COMPILED_BYTES_MAX: usize = 256 << 10;

/// A regular expression that must match a whole text. Equal when the texts are.
/// One pointer large: most conditions have none.
#[derive(Clone)]
pub struct Pattern(Arc<Compiled>);

struct Compiled {
    text: Box<str>,
    regex: Regex,
}

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no regular expression (RE2 syntax): {why}")]
pub struct PatternError {
    /// What was given.
    pub text: String,
    /// What the compiler says, in one line.
    pub why: String,
}

impl Pattern {
    /// Compiles it.
    ///
    /// # Errors
    /// Bad syntax, or an expression that would take too much memory compiled (256 KiB).
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let error = |why: String| PatternError {
            text: text.to_owned(),
            why,
        };
        // Compiled alone first: `a)(b` is none, though it would be one inside the group below.
        let compile = |text: &str| {
            RegexBuilder::new(text)
                .size_limit(COMPILED_BYTES_MAX)
                .build()
        };
        let last_line = |e: regex::Error| {
            let text = e.to_string();
            let last = text.lines().last().unwrap_or_default().trim();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        };
        compile(text).map_err(|e| error(last_line(e)))?;
        let regex = compile(&format!("^(?:{text})$")).map_err(|e| error(last_line(e)))?;
        let text = text.into();
        Ok(Self(Arc::new(Compiled { text, regex })))
    }

    /// Whether all of `text` matches.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.0.regex.is_match(text)
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.text == other.0.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.0.text).finish()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_text_has_to_match() {
        let pattern = Pattern::new("v[12]|canary").unwrap();
        for (text, matches) in [
            ("v1", true),
            ("canary", true),
            ("v12", false),
            ("my canary", false),
            ("", false),
        ] {
            assert_eq!(pattern.matches(text), matches, "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_alone_is_none_inside_the_anchors_either() {
        for text in ["a)(b", "(", "a{2,1}", "(?=look)", r"(a)\1"] {
            let error = Pattern::new(text).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn an_expression_that_would_be_huge_is_refused() {
        assert!(Pattern::new("((a{100}){100}){100}").is_err());
    }
}
