//! A runner for scenarios that share a world, and what `make prove` and `make soak` do.
//!
//! libtest has no place for something that is made once, used by tests in their order, and removed
//! at the end also when one of them fails. This runner has; it takes the same filter words and
//! prints the same lines. It must not know what the scenarios do.

pub mod attack;
pub mod faults;
pub mod prove;
pub mod stranger;
pub mod traffic;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::Instant;

/// What a scenario does with the bed.
type Run<B> = Box<dyn FnOnce(&mut B) -> anyhow::Result<()>>;

/// A scenario on a shared bed.
pub struct Scenario<B> {
    /// A sentence: what is true when it passes.
    pub name: String,
    /// Panics or gives an error when it is not true.
    pub run: Run<B>,
}

/// A scenario from its name and what it does.
pub fn scenario<B>(
    name: impl Into<String>,
    run: impl FnOnce(&mut B) -> anyhow::Result<()> + 'static,
) -> Scenario<B> {
    Scenario {
        name: name.into(),
        run: Box::new(run),
    }
}

/// Runs the scenarios that the arguments of the process select, in their order, on a bed that
/// `make` makes and dropping removes. Nothing is made when nothing is selected.
pub fn run<B>(make: impl FnOnce() -> anyhow::Result<B>, scenarios: Vec<Scenario<B>>) -> ExitCode {
    let arguments = Arguments::of_the_process();
    let (selected, rest): (Vec<_>, Vec<_>) = scenarios
        .into_iter()
        .partition(|scenario| arguments.select(&scenario.name));
    if arguments.list {
        selected
            .iter()
            .for_each(|scenario| println!("{}: test", scenario.name));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", selected.len());
    if selected.is_empty() {
        return ExitCode::SUCCESS;
    }
    let start = Instant::now();
    let mut bed = match catch(make) {
        Ok(bed) => bed,
        Err(why) => {
            println!("the bed of these tests could not be made: {why}");
            return ExitCode::FAILURE;
        }
    };
    let mut failures = Vec::new();
    let count = selected.len();
    for scenario in selected {
        let began = Instant::now();
        let result = catch(|| (scenario.run)(&mut bed));
        let mark = if result.is_ok() { "ok" } else { "FAILED" };
        println!(
            "test {} ... {mark} ({:.1}s)",
            scenario.name,
            began.elapsed().as_secs_f64()
        );
        if let Err(why) = result {
            println!("    {why}");
            failures.push(scenario.name);
        }
    }
    drop(bed);
    let verdict = if failures.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; \
         finished in {:.2}s\n",
        count - failures.len(),
        failures.len(),
        rest.len(),
        start.elapsed().as_secs_f64()
    );
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What `cargo test -- ...` gave. Options of libtest that mean nothing here are passed over.
#[derive(Default)]
struct Arguments {
    words: Vec<String>,
    skip: Vec<String>,
    exact: bool,
    list: bool,
}

impl Arguments {
    fn of_the_process() -> Self {
        let mut arguments = Arguments::default();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--exact" => arguments.exact = true,
                "--list" => arguments.list = true,
                "--skip" => arguments.skip.extend(words.next()),
                "--test-threads" | "--format" | "--color" | "-Z" => drop(words.next()),
                option if option.starts_with('-') => {}
                _ => arguments.words.push(word),
            }
        }
        arguments
    }

    fn select(&self, name: &str) -> bool {
        let fits = |word: &String| {
            if self.exact {
                name == word
            } else {
                name.contains(word)
            }
        };
        (self.words.is_empty() || self.words.iter().any(fits)) && !self.skip.iter().any(fits)
    }
}

/// An error or a panic as one text. The panic's own message went to stderr already.
fn catch<T>(work: impl FnOnce() -> anyhow::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(text.unwrap_or_else(|| "panicked".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_select_by_part_or_exactly_and_skip_wins() {
        let mut arguments = Arguments {
            words: vec!["pod".to_owned()],
            ..Arguments::default()
        };
        assert!(arguments.select("a pod is added"));
        assert!(!arguments.select("a node is added"));
        arguments.skip.push("added".to_owned());
        assert!(!arguments.select("a pod is added"));
        let exact = Arguments {
            words: vec!["pod".to_owned()],
            exact: true,
            ..Arguments::default()
        };
        assert!(!exact.select("a pod is added"));
    }

    #[test]
    fn an_error_and_a_panic_both_count_as_failures() {
        assert_eq!(catch(|| Ok(1)), Ok(1));
        assert_eq!(
            catch(|| anyhow::bail!("no")) as Result<(), _>,
            Err("no".to_owned())
        );
        assert_eq!(catch::<()>(|| panic!("so")), Err("so".to_owned()));
    }
}
