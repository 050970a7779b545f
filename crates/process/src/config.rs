//! Reading flags and files: durations, sizes, and all mistakes of a configuration at once.
//!
//! Knows no flag of any program. The parsers have the shape of clap's `value_parser`.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;

/// Largest configuration file read, in bytes: written by people, so a larger one is a mistake.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Reads `250ms`, `5s`, `1m30s`, `24h`, `90d`: whole numbers with a unit each, largest unit first
/// or not. A plain `0` needs no unit.
///
/// # Errors
/// A sentence that shows the form.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!("`{text}` is no duration: write a number and a unit (ms, s, m, h, d), as in 1m30s")
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, unit, tail) = number_and_unit(rest).ok_or_else(wrong)?;
        let step = match unit {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3_600),
            "d" => Duration::from_secs(86_400),
            _ => return Err(wrong()),
        };
        let part = u32::try_from(number)
            .ok()
            .and_then(|count| step.checked_mul(count));
        total = part
            .and_then(|part| total.checked_add(part))
            .ok_or_else(wrong)?;
        rest = tail;
    }
    if text.is_empty() {
        Err(wrong())
    } else {
        Ok(total)
    }
}

/// Reads a size in bytes: `1048576`, `64KiB`, `1MiB`, `2GiB`.
///
/// # Errors
/// A sentence that shows the form.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is no size: write bytes, or a number with KiB, MiB or GiB");
    let (number, unit, tail) = number_and_unit(text).ok_or_else(wrong)?;
    let step: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    match tail {
        "" => number.checked_mul(step).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

/// The digits, the letters after them, and what is left.
fn number_and_unit(text: &str) -> Option<(u64, &str, &str)> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let letters = rest
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    let (unit, tail) = rest.split_at(letters);
    Some((number.parse().ok()?, unit, tail))
}

/// Mistakes found so far. Check everything, then call [`Mistakes::finish`], so that a person sees
/// them all in one go.
#[derive(Debug, Default)]
pub struct Mistakes {
    found: Vec<String>,
}

/// All mistakes of a configuration, one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// `what: reason`, in the order in which they were found; never empty.
    pub mistakes: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mistakes.as_slice() {
            [one] => write!(f, "configuration: {one}"),
            many => {
                write!(f, "configuration has {} mistakes:", many.len())?;
                many.iter()
                    .try_for_each(|mistake| write!(f, "\n  {mistake}"))
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl Mistakes {
    /// No mistake yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value, or None after noting why `what` (a flag or key) is wrong.
    pub fn check<T, E: fmt::Display>(&mut self, what: &str, result: Result<T, E>) -> Option<T> {
        result
            .map_err(|error| self.found.push(format!("{what}: {error}")))
            .ok()
    }

    /// Notes that `what` is wrong for `reason` unless `good`.
    pub fn require(&mut self, good: bool, what: &str, reason: &str) {
        if !good {
            self.found.push(format!("{what}: {reason}"));
        }
    }

    /// # Errors
    /// All mistakes, if there was one.
    pub fn finish(self) -> Result<(), ConfigError> {
        if self.found.is_empty() {
            Ok(())
        } else {
            Err(ConfigError {
                mistakes: self.found,
            })
        }
    }
}

/// Reads a JSON file into a struct that refuses unknown keys (`#[serde(deny_unknown_fields)]`).
///
/// # Errors
/// One mistake that names the file, and line and column for content.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let wrong = |reason: String| ConfigError {
        mistakes: vec![format!("{path:?}: {reason}")],
    };
    let size = std::fs::metadata(path)
        .map_err(|error| wrong(error.to_string()))?
        .len();
    if size > MAX_FILE_BYTES {
        return Err(wrong(format!(
            "{size} bytes are more than {MAX_FILE_BYTES}"
        )));
    }
    let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_units() {
        for (text, millis) in [
            ("0", 0),
            ("250ms", 250),
            ("5s", 5_000),
            ("1m30s", 90_000),
            ("24h", 86_400_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn a_duration_without_unit_or_number_is_refused_with_the_form() {
        for text in ["", "5", "s", "5 s", "-1s", "1.5s", "5x", "99999999999d"] {
            let error = duration(text).unwrap_err();
            assert!(error.contains("1m30s"), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_are_read_and_overflow_is_refused() {
        assert_eq!(size("1048576"), Ok(1 << 20));
        assert_eq!(size("64KiB"), Ok(64 << 10));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        for text in ["", "KiB", "1KB", "1MiB2", "99999999999999GiB"] {
            assert!(size(text).is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let mut mistakes = Mistakes::new();
        assert_eq!(mistakes.check("--ok", size("1")), Some(1));
        assert_eq!(mistakes.check("--a", size("x")), None);
        mistakes.require(false, "--b", "must not be empty");
        let error = mistakes.finish().unwrap_err();
        assert_eq!(error.mistakes.len(), 2);
        let text = error.to_string();
        assert!(text.contains("2 mistakes") && text.contains("--a") && text.contains("--b"));
    }

    #[test]
    fn an_unknown_key_of_a_file_is_refused_with_file_and_line() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Known {
            #[allow(dead_code)]
            known: u32,
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"known\": 1,\n\"unknown\": 2}").unwrap();
        let error = read_json::<Known>(file.path()).unwrap_err().to_string();
        assert!(
            error.contains("unknown field `unknown`") && error.contains("line 2"),
            "{error}"
        );
    }
}
