//! Limits as a person writes them: a YAML file, read whole, with all its mistakes at once.

use std::path::Path;

use process::config::{ConfigError, Mistakes};
use process::flags::Flags;
use serde_norway::{Mapping, Value};

use super::{Limits, table, yaml};

/// Largest file read, in bytes; the printed one has about 6 KB.
const MAX_FILE_BYTES: u64 = 256 * 1_024;

impl Limits {
    /// Those of the file that the flags name, or the defaults.
    ///
    /// # Errors
    /// All mistakes of the file.
    pub fn of(flags: &Flags) -> Result<Self, ConfigError> {
        of_file(flags.limits.as_deref())
    }
}

fn of_file(file: Option<&Path>) -> Result<Limits, ConfigError> {
    file.map_or_else(|| Ok(Limits::default()), load)
}

/// What the subcommand `limits` of the proxies prints: the limits of a file, or the defaults.
///
/// # Errors
/// All mistakes of the file.
pub fn print(file: Option<&Path>, as_table: bool) -> Result<String, ConfigError> {
    let limits = of_file(file)?;
    Ok(match as_table {
        true => table(&limits),
        false => yaml(&limits),
    })
}

/// The limits of a file, the defaults for what it does not name.
///
/// # Errors
/// All mistakes: the file, unknown keys, values out of range, values that do not fit together.
pub fn load(path: &Path) -> Result<Limits, ConfigError> {
    let wrong = |reason: String| ConfigError {
        mistakes: vec![format!("limits file {path:?}: {reason}")],
    };
    let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?;
    if size.len() > MAX_FILE_BYTES {
        let bytes = size.len();
        return Err(wrong(format!(
            "{bytes} bytes are more than {MAX_FILE_BYTES}"
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    read(&text).map_err(|error| ConfigError {
        mistakes: error
            .mistakes
            .iter()
            .map(|mistake| format!("limits file {path:?}: {mistake}"))
            .collect(),
    })
}

/// The limits of a text; see [`load`].
///
/// # Errors
/// All mistakes.
pub fn read(text: &str) -> Result<Limits, ConfigError> {
    let mut mistakes = Mistakes::new();
    let parsed = mistakes.check("not YAML", serde_norway::from_str::<Value>(text));
    let given = match parsed {
        // All of it is comments.
        None | Some(Value::Null) => Mapping::new(),
        Some(Value::Mapping(given)) => given,
        Some(_) => {
            mistakes.require(false, "not limits", "write `key: value` on each line");
            Mapping::new()
        }
    };
    let mut good = Mapping::new();
    for (key, value) in given {
        // Alone, so that one mistake does not hide the next.
        let alone = Mapping::from_iter([(key.clone(), value.clone())]);
        let name = key.as_str().unwrap_or("a key that is no text").to_owned();
        let read = serde_norway::from_value::<Limits>(Value::Mapping(alone));
        if mistakes.check(&name, read).is_some() {
            good.insert(key, value);
        }
    }
    let limits = serde_norway::from_value::<Limits>(Value::Mapping(good));
    if let Some(limits) = mistakes.check("limits", limits) {
        limits.check(&mut mistakes);
        mistakes.finish()?;
        return Ok(limits);
    }
    mistakes.finish().map(|()| Limits::default())
}

/// Whole numbers.
pub(super) mod count {
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &usize, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(*value as u64)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
        usize::deserialize(from)
    }
}

/// Sizes: whole numbers of bytes, or texts such as `4MiB`.
pub mod bytes {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    /// The size in its largest whole unit.
    pub fn text(bytes: usize) -> String {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let whole = units
            .into_iter()
            .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
        whole.map_or_else(
            || bytes.to_string(),
            |(unit, name)| format!("{}{name}", bytes / unit),
        )
    }

    /// As [`text`].
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &usize, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&text(*value))
    }

    #[derive(Deserialize)]
    #[serde(untagged, expecting = "write bytes, or a number with KiB, MiB or GiB")]
    enum Written {
        Number(u64),
        Text(String),
    }

    /// A number of bytes, or a text with a unit.
    ///
    /// # Errors
    /// A sentence that shows the form.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
        let bytes = match Written::deserialize(from)? {
            Written::Number(bytes) => bytes,
            Written::Text(text) => process::config::size(&text).map_err(D::Error::custom)?,
        };
        usize::try_from(bytes).map_err(D::Error::custom)
    }
}

/// Times in milliseconds, written like `30s`.
pub mod time {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    /// The time in its largest whole unit.
    pub fn text(millis: usize) -> String {
        let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
        let whole = units
            .into_iter()
            .find(|(unit, _)| millis >= *unit && millis.is_multiple_of(*unit));
        match whole {
            Some((unit, name)) => format!("{}{name}", millis / unit),
            None if millis == 0 => "0s".to_owned(),
            None => format!("{millis}ms"),
        }
    }

    /// As [`text`].
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &usize, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&text(*value))
    }

    /// A text with a unit.
    ///
    /// # Errors
    /// A sentence that shows the form.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
        let text = String::deserialize(from)?;
        let time = process::config::duration(&text).map_err(D::Error::custom)?;
        usize::try_from(time.as_millis()).map_err(D::Error::custom)
    }
}
