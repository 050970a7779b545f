//! Routes of a waypoint: a canary by weight, retries, a header match, a rewrite, a mirror, and
//! weights that change while requests come.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use world::stack::{Binaries, READY_WITHIN};
use world::{Program, WorldError};

use crate::canary::{Command, Set, told};
use crate::demo::report::{Canary, Changed, Retries, Routes};
use crate::demo::servers::HTTP_PORT;
use crate::demo::{BackEnd, Claim, DemoError, Mesh, Progress};
use crate::statistics::{LEAST_P, split_p};

/// The manifests of the store, its route and its waypoint.
const STORE: &str = include_str!("../../../../demo/routes/store.yaml");
const STORE_FILE: &str = "40-store.yaml";
/// The address of Service `store`.
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 20));
/// Requests under the canary's split: 5 % of them are 100, give or take 49 (five sigma).
const CANARY_REQUESTS: u32 = 2000;
/// The canary's share, in percent.
const CANARY_PERCENT: u32 = 5;
/// Requests to a path of which every tenth fails: fewer retries than the budget of 20 %.
const FLAKY_REQUESTS: u32 = 300;
/// Requests while the weights change.
const LOAD_REQUESTS: u32 = 3000;
/// Changes meanwhile.
const CHANGES: u32 = 10;
/// Between two changes. Those after the load's end are not counted.
const BETWEEN: Duration = Duration::from_millis(100);
/// A copy of a request arrives within this.
const COPIED_WITHIN: Duration = Duration::from_secs(60);
/// All requests of a check.
const ASKED_WITHIN: Duration = Duration::from_secs(240);

/// An answer: its status, and what the server saw.
struct Answer(u16, Value);

impl Answer {
    fn is_by(&self, server: &str) -> bool {
        self.0 == 200 && self.1["server"] == server
    }
}

/// All checks of routes. The waypoint and the route stay.
pub fn routes(mesh: &Mesh, progress: &dyn Progress) -> Result<BackEnd, DemoError> {
    let mut found = BackEnd::default();
    let binary = Binaries::of_this_build()?.path("waypoint");
    if !binary.is_file() {
        let missing = format!(
            "{} is not built (cargo build -p waypoint)",
            binary.display()
        );
        return Err(WorldError::Missing(vec![missing]).into());
    }
    progress.step("a waypoint for a Service with two versions, run by a node's agent");
    mesh.manifests.put(STORE_FILE, STORE)?;
    // The rule of the header is there when all are: one route is one unit.
    until(
        mesh,
        "the waypoint to apply the route",
        |answer| answer.is_by("web-v2"),
        "version: v2",
    )?;
    progress.step("a header match, a rewrite, a mirror");
    matches(mesh, &mut found)?;
    mirror(mesh, &mut found)?;
    progress.step("retries that hide a failing server");
    let retries = retries(mesh, &mut found)?;
    progress.step("a canary: culvert canary set store v2=5");
    let canary = canary(mesh, &mut found)?;
    progress.step("weights that change under load");
    let changed = change_under_load(mesh, &mut found)?;
    found.routes(Routes {
        canary,
        retries,
        changed,
    });
    Ok(found)
}

fn matches(mesh: &Mesh, found: &mut BackEnd) -> Result<(), DemoError> {
    let plain = ask(mesh, "/", "", 20)?;
    let marked = ask(mesh, "/", "version: v2", 20)?;
    let to = |answers: &[Answer], server| answers.iter().filter(|a| a.is_by(server)).count();
    let (old, new) = (to(&plain, "web-v1"), to(&marked, "web-v2"));
    found.find(
        Claim::HeaderMatch,
        old == 20 && new == 20,
        format!("{old} of 20 requests by v1, with `version: v2` {new} of 20 by v2"),
    );
    let moved = ask(mesh, "/old/shoes?size=44", "", 1)?;
    let path = moved.first().map(|answer| answer.1["path"].clone());
    let path = path.unwrap_or_default();
    found.find(
        Claim::Rewrite,
        path == "/new/shoes?size=44",
        format!("/old/shoes?size=44 came to the server as {path}"),
    );
    Ok(())
}

fn mirror(mesh: &Mesh, found: &mut BackEnd) -> Result<(), DemoError> {
    let answers = ask(mesh, "/mirrored", "", 10)?;
    let by_v1 = answers
        .iter()
        .filter(|answer| answer.is_by("web-v1"))
        .count();
    let mut copies = 0;
    // A copy has no answer that anybody waits for.
    let waited = mesh
        .world
        .interrupt()
        .wait_for("copies", COPIED_WITHIN, || {
            copies = count(mesh, "/mirrored")?;
            Ok((copies >= 10).then_some(()))
        });
    match waited {
        Ok(()) | Err(WorldError::TimedOut { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    found.find(
        Claim::Mirror,
        by_v1 == 10 && copies == 10,
        format!("{by_v1} of 10 answered by v1, {copies} copies came to v2"),
    );
    Ok(())
}

fn retries(mesh: &Mesh, found: &mut BackEnd) -> Result<Retries, DemoError> {
    let answers = ask(mesh, "/flaky", "", FLAKY_REQUESTS)?;
    let retries = Retries {
        tried: count(mesh, "/flaky")?,
        failed: count(mesh, "/flaky failed")?,
        client_errors: missing(
            FLAKY_REQUESTS,
            answers.iter().filter(|answer| answer.0 == 200),
        ),
    };
    let Retries {
        tried,
        failed,
        client_errors,
    } = retries;
    found.find(
        Claim::Retries,
        client_errors == 0 && failed > 0,
        format!(
            "the server failed {failed} of {tried} tries, the client saw {client_errors} of \
             {FLAKY_REQUESTS} fail"
        ),
    );
    Ok(retries)
}

fn canary(mesh: &Mesh, found: &mut BackEnd) -> Result<Canary, DemoError> {
    set(mesh, CANARY_PERCENT)?;
    until(
        mesh,
        "the canary to get its share",
        |answer| answer.is_by("web-v2"),
        "",
    )?;
    let answers = ask(mesh, "/", "", CANARY_REQUESTS)?;
    let by = |server| answers.iter().filter(|answer| answer.is_by(server)).count();
    let count = |server| u64::try_from(by(server)).unwrap_or(u64::MAX);
    let canary = Canary {
        v1: count("web-v1"),
        v2: count("web-v2"),
        expected_v2: CANARY_PERCENT,
    };
    let (Canary { v1, v2, .. }, p) = (canary, canary.p_value());
    found.find(
        Claim::Canary,
        v1 + v2 == u64::from(CANARY_REQUESTS) && p >= LEAST_P,
        format!(
            "of {CANARY_REQUESTS} requests {v1} by v1 and {v2} by v2, expected 95 to 5: p = \
             {p:.2}"
        ),
    );
    Ok(canary)
}

fn change_under_load(mesh: &Mesh, found: &mut BackEnd) -> Result<Changed, DemoError> {
    let (changes, answers) = std::thread::scope(|scope| {
        let load = scope.spawn(|| ask(mesh, "/", "", LOAD_REQUESTS));
        (change(mesh, || load.is_finished()), load.join())
    });
    let changes = changes?;
    let answers = answers.map_err(|_| DemoError::Panicked("the load".to_owned()))??;
    let good = |answer: &&Answer| answer.is_by("web-v1") || answer.is_by("web-v2");
    let by_v2 = answers.iter().filter(|answer| answer.is_by("web-v2"));
    let by_v2 = u64::try_from(by_v2.count()).unwrap_or(u64::MAX);
    let failed = missing(LOAD_REQUESTS, answers.iter().filter(good));
    let requests = u64::from(LOAD_REQUESTS);
    set(mesh, CANARY_PERCENT)?;
    // Had the weights stayed as they were, so many by v2 would not come about.
    let before = f64::from(CANARY_PERCENT);
    let stayed = split_p(&[
        (requests.saturating_sub(by_v2), 100.0 - before),
        (by_v2, before),
    ]);
    found.find(
        Claim::WeightsUnderLoad,
        failed == 0 && changes > 0 && stayed < LEAST_P,
        format!(
            "{changes} changes while {LOAD_REQUESTS} requests came: {failed} failed, {by_v2} \
             by v2"
        ),
    );
    Ok(Changed {
        requests,
        failed,
        changes,
    })
}

/// Changes the weights; how often before the load was over.
fn change(mesh: &Mesh, is_over: impl Fn() -> bool) -> Result<u64, DemoError> {
    let mut changes = 0;
    for number in 0..CHANGES {
        mesh.world.interrupt().sleep(BETWEEN)?;
        set(mesh, (number * 37 + 20) % 101)?;
        changes += u64::from(!is_over());
    }
    Ok(changes)
}

/// How many of the requests have no good answer: those without any count too.
fn missing<'a>(asked: u32, good: impl Iterator<Item = &'a Answer>) -> u64 {
    let good = u64::try_from(good.count()).unwrap_or(u64::MAX);
    u64::from(asked).saturating_sub(good)
}

/// `culvert canary set store v2=PERCENT -n demo --manifests DIR`.
fn set(mesh: &Mesh, percent: u32) -> Result<(), DemoError> {
    let directory = PathBuf::from(mesh.manifests.directory());
    let set = Set::new(("store", "demo"), directory, ("v2", percent));
    told(&Command::Set(set)).map(drop).map_err(DemoError::from)
}

/// Asks until an answer is as wanted.
fn until(
    mesh: &Mesh,
    what: &str,
    wanted: impl Fn(&Answer) -> bool,
    header: &str,
) -> Result<(), DemoError> {
    let mut last = String::new();
    let waited = mesh.world.interrupt().wait_for(what, READY_WITHIN, || {
        let answers = ask(mesh, "/", header, 5).unwrap_or_default();
        last = answers
            .last()
            .map(|a| format!("{} {}", a.0, a.1))
            .unwrap_or_default();
        Ok(answers.iter().any(&wanted).then_some(()))
    });
    waited.map_err(|error| DemoError::Answer {
        what: format!("the store ({error})"),
        answer: last,
    })
}

/// Requests of the client to the Service, one after the other.
fn ask(mesh: &Mesh, path: &str, header: &str, times: u32) -> Result<Vec<Answer>, DemoError> {
    let url = format!("url = \"http://{ADDRESS}{path}\"\n");
    let mut program = Program::line("curl -q -s --max-time 30 -K -")
        .args(["-w", "\n%{http_code}\n"])
        .stdin(url.repeat(times.try_into().unwrap_or(1)))
        .limit(ASKED_WITHIN);
    if !header.is_empty() {
        program = program.args(["-H", header]);
    }
    // curl's exit code is that of its last transfer; each has its status.
    let output = mesh.pods.client.run(&program)?;
    let text = output.text();
    let lines: Vec<&str> = text.lines().collect();
    let answers = lines.chunks(2).map(|two| {
        let status = two.get(1).and_then(|code| code.trim().parse().ok());
        let body = serde_json::from_str(two[0]).unwrap_or_default();
        Answer(status.unwrap_or_default(), body)
    });
    Ok(answers.collect())
}

/// What `web-v2` counted.
fn count(mesh: &Mesh, what: &str) -> Result<u64, WorldError> {
    let url = format!("http://127.0.0.1:{HTTP_PORT}/counts");
    let text = mesh
        .pods
        .web_v2
        .run(&Program::line("curl -q -s").arg(url))?
        .text();
    let counts: Value = serde_json::from_str(&text).unwrap_or_default();
    Ok(counts[what].as_u64().unwrap_or_default())
}
