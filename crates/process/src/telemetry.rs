//! Log lines to stderr, as text or JSON, with a level that can be changed while running.
//!
//! Knows nothing of what is logged, except that access lines have the target [`ACCESS_TARGET`].

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

/// Target of access lines: `info,access=off` silences them and nothing else.
pub const ACCESS_TARGET: &str = "access";

/// Longest level text accepted, in bytes: it comes from a URL.
const MAX_LEVEL_BYTES: usize = 4096;

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One line of text, coloured on a terminal.
    #[default]
    Plain,
    /// One JSON object a line.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "plain" => Ok(Self::Plain),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{text}` is no log format: write plain or json")),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Json => "json",
        })
    }
}

/// Why logging could not be set as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The text is no level; says which part and what to write.
    #[error(
        "log level `{part}`: {reason}; write error, warn, info, debug, trace or off, or \
         target=level parts with commas, as in info,ztunnel=debug,access=off"
    )]
    Level {
        /// The part that is wrong.
        part: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The process has a subscriber already.
    #[error("logging is set up twice in this process")]
    Twice,
}

/// The live log level. Cheap to clone.
#[derive(Clone)]
pub struct LogControl {
    level: Arc<Mutex<String>>,
    reload: reload::Handle<Targets, Registry>,
}

impl LogControl {
    /// The level text as it was last set.
    pub fn get(&self) -> String {
        self.level
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Sets the level for everything logged from now on.
    ///
    /// # Errors
    /// A text that is no level; the old level stays.
    pub fn set(&self, level: &str) -> Result<(), LogError> {
        let filter = filter(level)?;
        let mut current = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        // Fails only when the subscriber is gone, which lives as long as the process.
        self.reload.reload(filter).map_err(|_| LogError::Twice)?;
        *current = level.to_owned();
        Ok(())
    }
}

/// Starts logging for the process: `level` is a text of [`Targets`] such as
/// `info,access=off`.
///
/// # Errors
/// A bad level, or a second call.
pub fn init(level: &str, format: Format) -> Result<LogControl, LogError> {
    let ansi = std::io::stderr().is_terminal();
    let (subscriber, control) = subscriber(level, format, ansi, std::io::stderr)?;
    subscriber.try_init().map_err(|_| LogError::Twice)?;
    Ok(control)
}

/// The subscriber that [`init`] installs, with any writer: for programs that install their own,
/// and for tests.
///
/// # Errors
/// A bad level.
pub fn subscriber<W>(
    level: &str,
    format: Format,
    ansi: bool,
    writer: W,
) -> Result<(impl tracing::Subscriber + Send + Sync + use<W>, LogControl), LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, reload) = reload::Layer::new(filter(level)?);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(ansi);
    let lines = match format {
        Format::Plain => lines.boxed(),
        Format::Json => lines.json().flatten_event(true).boxed(),
    };
    let control = LogControl {
        level: Arc::new(Mutex::new(level.to_owned())),
        reload,
    };
    Ok((
        tracing_subscriber::registry().with(filter).with(lines),
        control,
    ))
}

/// Reads a level text. Stricter than [`Targets`]: a bare word must be a level, because there
/// `inof` would be the target `inof` at level trace, and silence everything else.
///
/// `Targets` and not `EnvFilter`, whose regular expressions are 0.3 MB of every process.
fn filter(level: &str) -> Result<Targets, LogError> {
    let wrong = |part: &str, reason: &str| {
        let part = part.chars().take(100).collect();
        Err(LogError::Level {
            part,
            reason: reason.to_owned(),
        })
    };
    if level.len() > MAX_LEVEL_BYTES {
        return wrong(level, "is too long");
    }
    if level.trim().is_empty() {
        return wrong(level, "is empty");
    }
    for part in level.split(',').map(str::trim) {
        let text = part.rsplit_once('=').map_or(part, |(_, text)| text);
        // `LevelFilter` reads an empty text as `error`.
        if text.is_empty() || text.parse::<LevelFilter>().is_err() {
            return wrong(part, "no such level");
        }
    }
    let read = level.replace(' ', "").parse();
    read.or_else(|error| wrong(level, &format!("cannot be read ({error})")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tracing::subscriber::with_default;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    fn logging(
        level: &str,
        format: Format,
    ) -> (
        impl tracing::Subscriber + Send + Sync + use<>,
        LogControl,
        Lines,
    ) {
        let lines = Lines::default();
        let writer = lines.clone();
        let (subscriber, control) =
            subscriber(level, format, false, move || writer.clone()).unwrap();
        (subscriber, control, lines)
    }

    #[test]
    fn the_level_changes_while_running() {
        let (subscriber, control, lines) = logging("info", Format::Plain);
        with_default(subscriber, || {
            tracing::debug!("one");
            control.set("info,process=debug").unwrap();
            tracing::debug!("two");
            control.set("off").unwrap();
            tracing::error!("three");
        });
        let text = lines.take();
        assert!(
            !text.contains("one") && text.contains("two") && !text.contains("three"),
            "{text}"
        );
        assert_eq!(control.get(), "off");
    }

    #[test]
    fn a_bad_level_is_refused_with_the_fix_and_the_old_one_stays() {
        let (_subscriber, control, _lines) = logging("warn", Format::Plain);
        for level in [
            "inof",
            "",
            "info,",
            "process=loud",
            "info,h2",
            "[",
            &"x".repeat(5000),
        ] {
            let error = control.set(level).unwrap_err().to_string();
            assert!(error.contains("info,ztunnel=debug"), "{level}: {error}");
        }
        assert_eq!(control.get(), "warn");
    }

    #[test]
    fn access_lines_can_be_silenced_alone() {
        let (subscriber, _control, lines) = logging("info,access=off", Format::Plain);
        with_default(subscriber, || {
            tracing::info!(target: ACCESS_TARGET, "connection complete");
            tracing::info!("started");
        });
        let text = lines.take();
        assert!(
            !text.contains("complete") && text.contains("started"),
            "{text}"
        );
    }

    #[test]
    fn json_lines_are_objects_with_the_fields_on_top() {
        let (subscriber, _control, lines) = logging("info", Format::Json);
        with_default(subscriber, || {
            tracing::info!(target: ACCESS_TARGET, bytes_sent = 7, "connection complete");
        });
        let line: serde_json::Value = serde_json::from_str(&lines.take()).unwrap();
        assert_eq!(line["target"], "access");
        assert_eq!(line["bytes_sent"], 7);
        assert_eq!(line["message"], "connection complete");
    }
}
