//! What a person sees while the demo works: a spinner on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Fast enough to look alive, slow enough to cost nothing.
const TICK: Duration = Duration::from_millis(120);

/// Where the steps are told.
pub trait Progress {
    /// A new part of the demo begins, in the world with this run id.
    fn chapter(&self, name: &str, world: &str);
    /// What is done now.
    fn step(&self, what: &str);
    /// Nothing more comes: leaves the terminal clean.
    fn done(&self);
}

/// Tells nothing: for tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

struct Spinner(ProgressBar);

struct Lines(Instant);

/// A spinner when stderr is a terminal, else lines with the seconds since the start.
pub(crate) fn for_terminal() -> Box<dyn Progress> {
    if !std::io::stderr().is_terminal() {
        return Box::new(Lines(Instant::now()));
    }
    let bar = ProgressBar::new_spinner();
    // The template is a constant; without it the default look is as good.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed:>3} {prefix:9} {wide_msg}")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    Box::new(Spinner(bar))
}

impl Progress for Silent {
    fn chapter(&self, _name: &str, _world: &str) {}
    fn step(&self, _what: &str) {}
    fn done(&self) {}
}

impl Progress for Spinner {
    fn chapter(&self, name: &str, _world: &str) {
        self.0.set_prefix(name.to_owned());
    }

    fn step(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }

    fn done(&self) {
        self.0.finish_and_clear();
    }
}

impl Lines {
    fn line(&self, what: &str) {
        // Nobody reads any more (a closed pipe): no reason to stop.
        let _ = writeln!(
            std::io::stderr(),
            "{:5.1}s {what}",
            self.0.elapsed().as_secs_f64()
        );
    }
}

impl Progress for Lines {
    fn chapter(&self, name: &str, world: &str) {
        self.line(&format!("== {name}, world {world}"));
    }

    fn step(&self, what: &str) {
        self.line(what);
    }

    fn done(&self) {}
}
