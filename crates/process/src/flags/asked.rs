//! What the command line of a proxy asks for: to serve, or to see its limits. Knows no limit.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Parser, arg, value_parser};

/// Names of the environment variables that are each program's own.
#[derive(Clone, Copy, Debug)]
pub struct Variables {
    /// For `--workers`.
    pub workers: &'static str,
    /// For `--limits`.
    pub limits: &'static str,
}

/// What a command line asks for, where `C` are the flags to serve; they have
/// [`Flags`](super::Flags) among them.
#[derive(Debug)]
pub enum Asked<C> {
    /// To serve.
    Serve(Box<C>),
    /// To print the limits, those of a file if one is named, and to end.
    Limits {
        /// The file.
        file: Option<PathBuf>,
        /// As the table of the documentation instead of a file.
        as_table: bool,
    },
}

impl<C: Parser> Asked<C> {
    /// Reads a command line, its first word included.
    ///
    /// # Errors
    /// What is wrong with it, or the help that was asked for.
    pub fn parse_from(
        words: impl IntoIterator<Item = impl Into<OsString> + Clone>,
        variables: Variables,
    ) -> Result<Self, clap::Error> {
        let limits = clap::Command::new("limits")
            .about("Prints every limit with its value, unit and reason, as a file for --limits")
            .arg(
                arg!(--limits <FILE> "File whose limits are printed instead of the defaults")
                    .env(variables.limits)
                    .value_parser(value_parser!(PathBuf)),
            )
            .arg(
                arg!(--table "Prints the table of docs/limits.md instead")
                    .action(ArgAction::SetTrue),
            );
        let command = C::command()
            .mut_arg("workers", |flag| flag.env(variables.workers))
            .mut_arg("limits", |flag| flag.env(variables.limits))
            .subcommand(limits)
            .subcommand_negates_reqs(true)
            .args_conflicts_with_subcommands(true);
        let found = command.try_get_matches_from(words)?;
        match found.subcommand() {
            Some((_, limits)) => Ok(Self::Limits {
                file: limits.get_one("limits").cloned(),
                as_table: limits.get_flag("table"),
            }),
            None => Ok(Self::Serve(Box::new(C::from_arg_matches(&found)?))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::Flags;

    #[derive(Debug, Parser)]
    struct Proxy {
        #[command(flatten)]
        flags: Flags,
    }

    const VARIABLES: Variables = Variables {
        workers: "CULVERT_TEST_WORKERS",
        limits: "CULVERT_TEST_LIMITS",
    };

    const NEEDED: [&str; 11] = [
        "proxy",
        "--node-name",
        "n1",
        "--xds-address",
        "https://127.0.0.1:15012",
        "--ca-address",
        "https://127.0.0.1:15012",
        "--root-cert",
        "/root.pem",
        "--token-file",
        "/token",
    ];

    fn parse(words: &[&'static str]) -> Result<Asked<Proxy>, clap::Error> {
        Asked::parse_from(words.iter().copied(), VARIABLES)
    }

    #[test]
    fn the_limits_are_printed_without_the_flags_that_serving_needs() {
        let asked = parse(&["proxy", "limits"]).unwrap();
        let all = matches!(
            asked,
            Asked::Limits {
                file: None,
                as_table: false
            }
        );
        assert!(all, "{asked:?}");
        let asked = parse(&["proxy", "limits", "--limits", "/x"]).unwrap();
        assert!(
            matches!(asked, Asked::Limits { file: Some(_), .. }),
            "{asked:?}"
        );
        assert!(parse(&["proxy"]).is_err());
    }

    #[test]
    fn to_serve_it_takes_workers_and_a_file_of_limits() {
        let words = [&NEEDED[..], &["--limits", "/x", "--workers", "3"]].concat();
        let Asked::Serve(proxy) = parse(&words).unwrap() else {
            panic!("it shall serve");
        };
        assert_eq!(proxy.flags.limits, Some(PathBuf::from("/x")));
        assert_eq!(proxy.flags.worker_count(), 3);
        let Asked::Serve(proxy) = parse(&NEEDED).unwrap() else {
            panic!("it shall serve");
        };
        assert!(proxy.flags.worker_count() > 0);
        for words in [["--workers", "0"], ["--workers", "many"]] {
            assert!(parse(&[&NEEDED[..], &words].concat()).is_err(), "{words:?}");
        }
    }
}
