//! What a running waypoint was made of, as one text: when it differs from what one started now
//! would be made of, another shall take over. Knows files by what the kernel says of them, not by
//! their content.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use process::grpc::agent::WaypointReplica;
use process::otlp;

use super::Settings;

/// Name of the program.
const PROGRAM: &str = "waypoint";

/// Which version of the program is there. A file that is just being written is none: it must be the
/// same in two looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binary(String);

impl Binary {
    /// The program as it is now; None when it is not there.
    pub fn look(settings: &Settings) -> Option<Self> {
        let path = locate(settings);
        let file = fs::metadata(&path).ok().filter(|file| file.is_file())?;
        let (modified, nanoseconds) = (file.mtime(), file.mtime_nsec());
        Some(Self(format!(
            "{} {}:{} {} {modified}.{nanoseconds}",
            path.display(),
            file.dev(),
            file.ino(),
            file.len()
        )))
    }

    /// What an instance of `replica` that is started now is made of.
    pub fn made_of(&self, replica: &WaypointReplica, settings: &Settings) -> String {
        let told = settings.arguments.join(" ");
        let traced = traced(&|key| env::var_os(key));
        format!("{}\n{told}\n{}{traced}", self.0, replica.revision)
    }
}

/// What the environment says of tracing, as a number: there may be secrets in it. Empty when it
/// says nothing.
fn traced(variable: &dyn Fn(&str) -> Option<OsString>) -> String {
    let mut hasher = DefaultHasher::new();
    let mut says = false;
    for key in otlp::VARIABLES {
        let value = variable(key);
        says |= value.is_some();
        value.hash(&mut hasher);
    }
    if !says {
        return String::new();
    }
    format!("\n{:016x}", hasher.finish())
}

/// Where the program is, or should be.
pub fn locate(settings: &Settings) -> PathBuf {
    if let Some(path) = &settings.binary {
        return path.clone();
    }
    let own = env::current_exe().ok();
    let beside = own.and_then(|own| Some(own.parent()?.join(PROGRAM)));
    let path = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&path).map(|directory| directory.join(PROGRAM));
    let mut places = beside.into_iter().chain(in_path);
    places
        .find(|path| path.is_file())
        .unwrap_or_else(|| Path::new(PROGRAM).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_collector_in_the_environment_is_made_of_something_else_and_shows_no_secret() {
        let headers = |secret: &'static str| {
            traced(&move |key| (key == "OTEL_EXPORTER_OTLP_HEADERS").then(|| secret.into()))
        };
        assert_eq!(traced(&|_| None), "", "as before there was tracing");
        assert_ne!(headers("api-key=1"), headers("api-key=2"));
        assert_eq!(headers("api-key=1"), headers("api-key=1"));
        assert!(!headers("api-key=secret").contains("secret"));
    }

    #[test]
    fn another_program_or_revision_or_argument_is_made_of_something_else() {
        let base = tempfile::tempdir().unwrap();
        let mut settings = super::super::tests::settings(base.path());
        let replica = super::super::tests::replica("gate", 0);
        assert_eq!(Binary::look(&settings), None);
        let path = settings.binary.clone().unwrap();
        fs::write(&path, "one").unwrap();
        let first = Binary::look(&settings).unwrap();
        assert_eq!(Binary::look(&settings).unwrap(), first);
        let made = first.made_of(&replica, &settings);
        fs::write(base.path().join("new"), "two").unwrap();
        fs::rename(base.path().join("new"), &path).unwrap();
        assert_ne!(
            Binary::look(&settings)
                .unwrap()
                .made_of(&replica, &settings),
            made
        );
        let mut other = replica.clone();
        other.revision = "2".into();
        assert_ne!(first.made_of(&other, &settings), made);
        settings.arguments.push("--log=debug".into());
        assert_ne!(first.made_of(&replica, &settings), made);
    }
}
