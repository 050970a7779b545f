//! The control plane's source is empty, unreadable, gone, and garbage.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use cli::demo::manifest::NO_INTRUDER;
use nix::sys::signal::Signal;
use scenarios::faults::{Bed, Start};
use scenarios::{Scenario, scenario};

use super::gone::FOUND_WITHIN;
use super::rule;

/// The control plane looks at its directory every 5 s, and sooner when it is told to.
const SEEN_WITHIN: Duration = Duration::from_secs(90);
/// A control plane that refuses to serve has ended within this.
const ENDS_WITHIN: Duration = Duration::from_secs(90);

pub fn scenarios() -> Vec<Scenario<Bed>> {
    vec![
        scenario(
            "over an empty source the control plane refuses to serve and proxies keep the mesh",
            |bed| {
                refuses_over(bed, "no object that can be served", |path| {
                    Ok(fs::create_dir(path)?)
                })
            },
        ),
        scenario(
            "over a source that is no directory the control plane refuses to serve",
            |bed| refuses_over(bed, "manifests", |path| Ok(fs::write(path, "a: file")?)),
        ),
        scenario(
            "over a source that is not there the control plane refuses to serve",
            |bed| refuses_over(bed, "manifests", |_| Ok(())),
        ),
        scenario(
            "over a source in which every file is garbage what was good before is served",
            all_garbage,
        ),
        scenario(
            "a source that vanishes while it is served is missed in words, not in the mesh",
            vanishes,
        ),
        scenario(
            "a source that is emptied while it is served is missed in words, not in the mesh",
            emptied,
        ),
        scenario(
            "a policy file that becomes garbage or empty leaves the last good policy in force",
            policy_garbage,
        ),
        scenario(
            "a policy file that is cut off behind its name lets nobody in",
            policy_cut,
        ),
    ]
}

/// The source put aside, with something else or nothing in its place, until it is put back.
struct Aside {
    place: PathBuf,
    aside: PathBuf,
}

impl Aside {
    fn put(bed: &Bed) -> anyhow::Result<Self> {
        let place = bed.manifests.directory().to_owned();
        let aside = place.with_extension("aside");
        fs::rename(&place, &aside)?;
        Ok(Aside { place, aside })
    }

    fn back(self) -> anyhow::Result<()> {
        match fs::symlink_metadata(&self.place) {
            Ok(it) if it.is_dir() => fs::remove_dir_all(&self.place)?,
            Ok(_) => fs::remove_file(&self.place)?,
            Err(_) => {}
        }
        Ok(fs::rename(&self.aside, &self.place)?)
    }
}

/// Restarts the control plane over what `make` makes at the source's place.
fn refuses_over(
    bed: &mut Bed,
    words: &str,
    make: impl FnOnce(&PathBuf) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    bed.end_culvertd(Signal::SIGKILL)?;
    let aside = Aside::put(bed)?;
    make(&aside.place)?;
    bed.launch_culvertd(&Start::default())?;
    let culvertd = bed.culvertd.take().context("just started")?;
    let status = culvertd.wait_end(ENDS_WITHIN)?;
    let said = culvertd.log();
    let ready = bed.culvertd_readiness();
    bed.right()?;
    aside.back()?;
    bed.start_culvertd(&Start::default())?;
    ensure!(!status.success(), "it ended as if nothing were wrong");
    ensure!(ready.0 == 0, "it is ready: {ready:?}");
    ensure!(said.contains(words), "it does not say why: {said}");
    ensure!(!said.contains("serving"), "it served: {said}");
    bed.until_right(FOUND_WITHIN)
}

fn all_garbage(bed: &mut Bed) -> anyhow::Result<()> {
    bed.end_culvertd(Signal::SIGTERM)?;
    let aside = Aside::put(bed)?;
    fs::create_dir(&aside.place)?;
    for entry in fs::read_dir(&aside.aside)? {
        let name = entry?.file_name();
        fs::write(aside.place.join(name), "\u{0}{{{ : garbage")?;
    }
    bed.start_culvertd(&Start::default())?;
    let errors = errors(bed)?;
    ensure!(
        errors.iter().any(|error| error.contains(rule::FILE)),
        "the errors do not name the file: {errors:?}"
    );
    // A proxy that knows nothing yet is told what was good.
    bed.end_ztunnel(1, Signal::SIGTERM)?;
    bed.start_ztunnel(1, &Start::default())?;
    bed.until_right(FOUND_WITHIN)?;
    aside.back()?;
    no_errors(bed)?;
    bed.right()
}

fn vanishes(bed: &mut Bed) -> anyhow::Result<()> {
    let aside = Aside::put(bed)?;
    missed_in_words(bed)?;
    aside.back()?;
    no_errors(bed)?;
    rule::is_followed(bed)
}

fn emptied(bed: &mut Bed) -> anyhow::Result<()> {
    let aside = Aside::put(bed)?;
    fs::create_dir(&aside.place)?;
    missed_in_words(bed)?;
    aside.back()?;
    no_errors(bed)?;
    rule::is_followed(bed)
}

/// The control plane says what is wrong and serves what it knows, also to a proxy that comes new.
fn missed_in_words(bed: &mut Bed) -> anyhow::Result<()> {
    bed.eventually("the directory among the errors", SEEN_WITHIN, || {
        errors(bed).is_ok_and(|errors| errors.iter().any(|it| it.contains("(directory)")))
    })?;
    ensure!(bed.culvertd_readiness().0 == 200, "it serves no more");
    bed.end_ztunnel(0, Signal::SIGTERM)?;
    bed.start_ztunnel(0, &Start::default())?;
    bed.until_right(FOUND_WITHIN)
}

fn policy_garbage(bed: &mut Bed) -> anyhow::Result<()> {
    for bad in ["\u{0}{{{ : garbage", "kind: [", "", "\n---\n"] {
        bed.manifests.put(rule::FILE, bad)?;
        let kept = keeps_last_good(bed).with_context(|| format!("{bad:?}"));
        bed.manifests.put(rule::FILE, NO_INTRUDER)?;
        kept?;
        no_errors(bed)?;
    }
    bed.right()
}

fn keeps_last_good(bed: &Bed) -> anyhow::Result<()> {
    bed.eventually("the file among the errors", SEEN_WITHIN, || {
        errors(bed).is_ok_and(|errors| errors.iter().any(|it| it.contains(rule::FILE)))
    })?;
    bed.right()
}

/// The beginning of a policy may be a policy, if a stricter one; whichever it is, it must not be
/// weaker than the whole.
fn policy_cut(bed: &mut Bed) -> anyhow::Result<()> {
    let lines: Vec<&str> = NO_INTRUDER.lines().collect();
    // Before its name is whole it is another object, as good as any.
    let named = lines.iter().position(|line| line.contains("namespace:"));
    for count in named.context("no namespace")? + 1..lines.len() {
        let revision = revision(bed)?;
        bed.manifests.put(rule::FILE, &lines[..count].join("\n"))?;
        let closed = bed
            .eventually("the cut file to be read", SEEN_WITHIN, || {
                self::revision(bed).is_ok_and(|now| now != revision)
            })
            .and_then(|()| bed.refused(&bed.intruder, &["401"]));
        let closed = closed.with_context(|| format!("after {:?}", lines[count - 1]));
        let before = self::revision(bed)?;
        bed.manifests.put(rule::FILE, NO_INTRUDER)?;
        bed.eventually("the whole file to be read", SEEN_WITHIN, || {
            self::revision(bed).is_ok_and(|now| now != before)
        })?;
        closed?;
    }
    no_errors(bed)?;
    bed.until_right(FOUND_WITHIN)
}

/// Grows with each change of what is served, or of what is wrong with the source.
fn revision(bed: &Bed) -> anyhow::Result<u64> {
    let status = bed.culvertd_status()?;
    status["revision"].as_u64().context("no revision")
}

fn no_errors(bed: &Bed) -> anyhow::Result<()> {
    bed.eventually("no error of the source", SEEN_WITHIN, || {
        errors(bed).is_ok_and(|errors| errors.is_empty())
    })
}

/// What the control plane says is wrong with its source.
fn errors(bed: &Bed) -> anyhow::Result<Vec<String>> {
    let status = bed.culvertd_status()?;
    let errors = status["source"]["errors"].as_array().cloned();
    let errors = errors.context("no errors in the status page")?;
    Ok(errors.iter().map(ToString::to_string).collect())
}
