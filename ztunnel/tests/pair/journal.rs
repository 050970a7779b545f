//! The access lines of all proxies of this process.

use std::io::Write;
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use crate::net::PATIENCE;

static LINES: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct Pen;

impl Write for Pen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LINES.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Starts to keep them.
pub fn open() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let level = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
        let (subscriber, _control) = process::telemetry::subscriber(
            &level,
            process::telemetry::Format::Plain,
            false,
            || Pen,
        )
        .unwrap();
        tracing::subscriber::set_global_default(subscriber).unwrap();
    });
}

/// The first line with all of these words; fails the test when none comes.
pub fn line(words: &[&str]) -> String {
    line_beside(words, &[])
}

/// As [`line`], without any of the `others`.
pub fn line_beside(words: &[&str], others: &[&str]) -> String {
    let is_it = |line: &str| {
        words.iter().all(|word| line.contains(word))
            && !others.iter().any(|word| line.contains(word))
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = String::from_utf8_lossy(&LINES.lock().unwrap()).into_owned();
        if let Some(line) = text.lines().find(|line| is_it(line)) {
            return line.to_owned();
        }
        if Instant::now() >= deadline {
            let has_some = |line: &&str| words.iter().any(|word| line.contains(word));
            let near: Vec<_> = text.lines().filter(has_some).collect();
            let last = near.len().saturating_sub(10);
            panic!(
                "no line with {words:?}; some of them have\n{}",
                near[last..].join("\n")
            );
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
