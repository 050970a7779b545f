//! A program to run, and what a finished one left.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use crate::error::WorldError;

/// How long [`crate::Place::run`] lets a program run unless it is told otherwise.
const DEFAULT_LIMIT: Duration = Duration::from_secs(30);

/// A command line with its environment, input and time limit.
#[derive(Clone, Debug)]
pub struct Program {
    pub(crate) words: Vec<OsString>,
    pub(crate) env: Vec<(String, OsString)>,
    pub(crate) clear_env: bool,
    pub(crate) stdin: Vec<u8>,
    pub(crate) limit: Duration,
}

impl Program {
    /// A program by path or by name in PATH, without arguments, with a limit of 30 s.
    pub fn new(program: impl Into<OsString>) -> Self {
        Program {
            words: vec![program.into()],
            env: Vec::new(),
            clear_env: false,
            stdin: Vec::new(),
            limit: DEFAULT_LIMIT,
        }
    }

    /// A whole command line, split at white space; for words without blanks or quotes.
    pub fn line(line: &str) -> Self {
        let mut words = line.split_whitespace();
        Program::new(words.next().unwrap_or_default()).args(words)
    }

    /// One more argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.words.push(argument.into());
        self
    }

    /// More arguments.
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.words.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// The same, started by another program whose words come before: `prlimit --nofile=64`.
    pub fn started_by<A: Into<OsString>>(mut self, words: impl IntoIterator<Item = A>) -> Self {
        self.words.splice(0..0, words.into_iter().map(Into::into));
        self
    }

    /// One more environment variable.
    pub fn env(mut self, key: &str, value: impl Into<OsString>) -> Self {
        self.env.push((key.to_owned(), value.into()));
        self
    }

    /// Nothing of our own environment except PATH.
    pub fn without_inherited_env(mut self) -> Self {
        self.clear_env = true;
        self
    }

    /// What it reads on stdin; nothing by default.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long it may run before it is killed. Only for [`crate::Place::run`].
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The command line for messages, the program without its directory.
    pub fn shown(&self) -> String {
        let mut words = self
            .words
            .iter()
            .map(|word| word.to_string_lossy().into_owned());
        let first = words.next().unwrap_or_default();
        let name = Path::new(&first)
            .file_name()
            .map_or_else(|| first.clone(), |name| name.to_string_lossy().into_owned());
        std::iter::once(name)
            .chain(words)
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// What a program that has ended left.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it wrote on stdout.
    pub stdout: Vec<u8>,
    /// Everything it wrote on stderr, as text.
    pub stderr: String,
    /// Whether it was killed because its time was over.
    pub timed_out: bool,
    /// From before its start to after its end.
    pub took: Duration,
    pub(crate) program: String,
}

impl Output {
    /// Whether it ended by itself with status 0.
    pub fn ok(&self) -> bool {
        self.status.success() && !self.timed_out
    }

    /// Its stdout as text, without the blanks at both ends.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// Itself when it ended well, else an error with the end of what it wrote.
    pub fn success(self) -> Result<Self, WorldError> {
        if self.ok() {
            return Ok(self);
        }
        let written = format!("{} {}", self.stderr.trim(), self.text());
        Err(WorldError::Failed {
            program: self.program.clone(),
            outcome: if self.timed_out {
                format!("did not end within {:?}", self.took)
            } else {
                self.status.to_string()
            },
            output: tail(written.trim(), 2000).to_owned(),
        })
    }
}

/// The last `max` bytes of a text, cut at a character.
pub(crate) fn tail(text: &str, max: usize) -> &str {
    let mut from = text.len().saturating_sub(max);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_cut_at_a_character() {
        assert_eq!(tail("aäb", 2), "b");
        assert_eq!(tail("ab", 9), "ab");
    }

    #[test]
    fn a_command_line_is_shown_without_the_directory_of_the_program() {
        assert_eq!(
            Program::new("/usr/lib/cni/bridge").arg("x").shown(),
            "bridge x"
        );
    }
}
