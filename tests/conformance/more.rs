//! What is no request and answer: changes under load, and clients that nobody wrote for us.

use std::time::Duration;

use anyhow::{Context, ensure};
use cli::statistics::{LEAST_P, split_p};
use scenarios::{Scenario, scenario};
use serde_json::Value;
use world::Program;
use world::stack::Binaries;

use crate::bed::{Bed, WAYPOINT};
use crate::case::{self, Case, Expect, Pair};

/// Times that the weights are changed while requests come.
const CHANGES: u32 = 12;
/// Between two changes.
const BETWEEN: Duration = Duration::from_millis(250);
/// Requests of the load; enough to outlast the changes.
const REQUESTS: u32 = 4000;
/// Name of the scenario whose route these change.
const WEIGHTS: &str = "weights";
/// Requests that h2load sends, on this many connections.
const H2LOAD: (u32, u32) = (5000, 10);

/// A route of the Gateway takes the requests of every Service without routes of its own: it is
/// there in its own scenario alone.
const GATEWAY_ROUTE: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: of-the-gateway, namespace: shop}
spec:
  parentRefs: [{kind: Gateway, name: waypoint}]
  hostnames: [plain, "*.plain.example"]
  rules:
    - matches: [{path: {value: /two}}]
      backendRefs: [{name: v2, port: 80}]
    - matches: [{path: {value: /three}}]
      backendRefs: [{name: v3, port: 80}]
"#;
/// Requests of which all fail: unbounded they would be tried four times each.
const FAILING: u32 = 4000;

/// Looks at the counters until they are what was asked: 10 s, or until they stand still.
const COUNTED_LOOKS: u32 = 40;
/// A worker that has no core for a while tells of requests before these among these.
const COUNTED_TRIES: u32 = 4;

/// All of them; `weights` is the case of that name.
pub fn scenarios(weights: &std::rc::Rc<Case>) -> Vec<Scenario<Bed>> {
    let (one, two) = (weights.clone(), weights.clone());
    vec![
        scenario(
            "weights change under load and no request fails or goes astray",
            move |bed: &mut Bed| under_load(bed, &one),
        ),
        scenario(
            "h2load gets every answer over many streams of many connections",
            move |bed: &mut Bed| h2load(bed, &two),
        ),
        scenario(
            "nghttp sees the trailers of an answer and its own settings kept",
            nghttp,
        ),
        scenario(
            "the waypoint's counters are what `culvert canary status` shows",
            counters,
        ),
        scenario(
            "a server that always fails is tried again no more than the budget of retries allows",
            retry_budget,
        ),
        scenario(
            "a route of the Gateway holds for its hosts, until it is gone",
            gateway_route,
        ),
    ]
}

/// A GET of the weights.
pub fn get(times: u32) -> Pair {
    Pair {
        ask: format!("GET http://{WEIGHTS}/"),
        from: "shop/client".to_owned(),
        at: None,
        headers: Vec::new(),
        echo: None,
        body: None,
        keep: None,
        pause: 0,
        times,
        http: vec![1, 2],
        expect: Expect::default(),
    }
}

fn under_load(bed: &mut Bed, case: &Case) -> anyhow::Result<()> {
    let address = case.address(WEIGHTS)?;
    let file = format!("case-{WEIGHTS}.yaml");
    let manifests = bed.manifests.clone();
    let (first, last) = ("weight: 70", "weight: 30");
    ensure!(case.manifests.contains(first) && case.manifests.contains(last));
    let change = || -> anyhow::Result<()> {
        for number in 0..CHANGES {
            std::thread::sleep(BETWEEN);
            let share = 10 * (number % 11);
            let text = case.manifests.replace(first, &format!("weight: {share}"));
            let text = text.replace(last, &format!("weight: {}", 100 - share));
            manifests.put(&file, &text)?;
        }
        Ok(manifests.put(&file, &case.manifests)?)
    };
    let (changed, answers) = std::thread::scope(|scope| {
        let changes = scope.spawn(change);
        let answers = bed.answers(&get(REQUESTS), (address, 2));
        (changes.join(), answers)
    });
    changed.map_err(|_| anyhow::anyhow!("the changes panicked"))??;
    let (answers, _) = answers?;
    let by = |name: &str| {
        answers
            .iter()
            .filter(|a| a.pod().as_deref() == Some(name))
            .count()
    };
    let failed: Vec<_> = answers.iter().filter(|a| a.status != 200).collect();
    ensure!(
        failed.is_empty(),
        "{} of {REQUESTS} failed, the first: {:?}",
        failed.len(),
        failed[0]
    );
    let (v1, v2) = (by("v1"), by("v2"));
    println!("    {REQUESTS} requests: {v1} by v1, {v2} by v2, 0 failed");
    ensure!(
        v1 + v2 == answers.len(),
        "{} went astray",
        answers.len() - v1 - v2
    );
    ensure!(v1 > 0 && v2 > 0, "nothing changed: this proves nothing");
    Ok(())
}

fn h2load(bed: &mut Bed, case: &Case) -> anyhow::Result<()> {
    let (requests, connections) = H2LOAD;
    let url = format!("http://{}/", case.address(WEIGHTS)?);
    let program = Program::line(&format!("h2load -n {requests} -c {connections} -m 20"))
        .arg(url)
        .limit(Duration::from_secs(300));
    let said = bed.place("shop/client")?.text(&program)?;
    let wanted = format!("{requests} succeeded, 0 failed, 0 errored, 0 timeout");
    ensure!(said.contains(&wanted), "{said}");
    let wanted = format!("status codes: {requests} 2xx");
    ensure!(said.contains(&wanted), "{said}");
    Ok(())
}

fn nghttp(bed: &mut Bed) -> anyhow::Result<()> {
    let case = find("h2-backend")?;
    let url = format!("http://{}/", case.address("h2-backend")?);
    let program = Program::line("nghttp -nv --timeout=60")
        .args(["-H", "x-echo: trailer=x-end:42", "-H", "te: trailers"])
        .arg(url);
    let said = bed.place("shop/client")?.text(&program)?;
    ensure!(said.contains(":status: 200"), "{said}");
    ensure!(said.contains("x-end: 42"), "no trailer: {said}");
    Ok(())
}

/// 20 % of the requests, and what each window of 10 s may have in any case: 10 a second. The last
/// window is only begun, and the first may lie across two.
fn retry_budget(bed: &mut Bed) -> anyhow::Result<()> {
    let address = find("retry-budget")?.address("retry-budget")?;
    let mut pair = get(FAILING);
    pair.ask = "GET http://retry-budget/".to_owned();
    pair.echo = Some("status=503".to_owned());
    let start = std::time::Instant::now();
    let (answers, id) = bed.answers(&pair, (address, 2))?;
    let windows = start.elapsed().as_secs() / 10 + 2;
    let other = answers.iter().find(|answer| answer.status != 503);
    ensure!(other.is_none(), "not the server's own answer: {other:?}");
    let asked = u64::from(FAILING);
    let again = bed.came(&id)? - asked;
    let most = asked / 5 + 100 * windows;
    println!("    {asked} requests failed, {again} more tries, of {most} at most");
    ensure!(again > 0, "nothing was tried again: this proves nothing");
    ensure!(again <= most, "{again} more tries, {most} at most");
    Ok(())
}

fn gateway_route(bed: &mut Bed) -> anyhow::Result<()> {
    let case = find("plain")?;
    bed.manifests.put("of-the-gateway.yaml", GATEWAY_ROUTE)?;
    let asked = [
        ("plain/two", Some("v2"), 200),
        ("plain/three", Some("v3"), 200),
        ("some.plain.example/two", Some("v2"), 200),
        // Hosts and paths that it does not name.
        ("plain/one", None, 404),
        ("other.example/two", None, 404),
    ];
    let mut wrong = Vec::new();
    for version in [1, 2] {
        for (url, by, status) in asked {
            let mut pair = get(5);
            pair.ask = format!("GET http://{url}");
            pair.at = Some("plain".to_owned());
            pair.expect.status = Some(status);
            pair.expect.by = by.map(str::to_owned).into_iter().collect();
            let outcome = bed.settled(&case, &pair, version)?;
            wrong.extend(outcome.wrong.iter().map(|wrong| format!("{url}: {wrong}")));
        }
    }
    bed.manifests.remove("of-the-gateway.yaml")?;
    // Without it the Service's requests go to its endpoints again.
    let mut pair = get(20);
    pair.ask = "GET http://plain/one".to_owned();
    wrong.extend(bed.settled(&case, &pair, 1)?.wrong);
    ensure!(wrong.is_empty(), "{}", wrong.join("\n    "));
    Ok(())
}

/// The case of this name.
pub fn find(name: &str) -> anyhow::Result<Case> {
    let case = case::all()?.into_iter().find(|case| case.name == name);
    case.with_context(|| format!("no case is {name}"))
}

/// The counters of one Service in the metrics page of the waypoint.
fn counted(page: &str, name: &str) -> u64 {
    let service = format!("destination_service_name=\"{name}\"");
    let lines = page
        .lines()
        .filter(|line| line.starts_with("istio_requests_total{"));
    let ours = lines.filter(|line| line.contains(&service) && line.contains("\"waypoint\""));
    let values = ours.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum()
}

fn counters(bed: &mut Bed) -> anyhow::Result<()> {
    let (mut seen, mut answered) = ([0; 2], [1; 2]);
    for _ in 0..COUNTED_TRIES {
        (seen, answered) = counted_once(bed)?;
        if seen == answered {
            break;
        }
    }
    ensure!(
        seen == answered,
        "the counters saw {seen:?}, the client {answered:?}"
    );
    let p = split_p(&[(seen[0], 70.0), (seen[1], 30.0)]);
    ensure!(p > LEAST_P, "{seen:?} do not fit 70 to 30: p = {p:.1e}");
    by_command(bed)
}

/// What the counters of two backends saw of some requests, and what the client did.
fn counted_once(bed: &mut Bed) -> anyhow::Result<([u64; 2], [u64; 2])> {
    let address = find(WEIGHTS)?.address(WEIGHTS)?;
    let both = |page: &str| [counted(page, "v1"), counted(page, "v2")];
    let mut before = [0; 2];
    // What was asked before this may still be untold: until nothing more comes.
    for _ in 0..COUNTED_LOOKS {
        std::thread::sleep(4 * BETWEEN);
        let now = both(&bed.waypoint_page(15020, "metrics")?);
        if now == std::mem::replace(&mut before, now) {
            break;
        }
    }
    let (answers, _) = bed.answers(&get(1000), (address, 1))?;
    let by = |name: &str| {
        answers
            .iter()
            .filter(|a| a.pod().as_deref() == Some(name))
            .count()
    };
    let answered = [u64::try_from(by("v1"))?, u64::try_from(by("v2"))?];
    // Each worker tells its counts every now and then.
    let mut seen = [0; 2];
    for _ in 0..COUNTED_LOOKS {
        let after = both(&bed.waypoint_page(15020, "metrics")?);
        seen = [after[0] - before[0], after[1] - before[1]];
        if seen == answered {
            break;
        }
        std::thread::sleep(BETWEEN);
    }
    Ok((seen, answered))
}

/// The command, where the metrics page is.
fn by_command(bed: &mut Bed) -> anyhow::Result<()> {
    let culvert = Binaries::of_this_build()?.path("culvert");
    let status = Program::new(culvert)
        .args(["canary", "status", WEIGHTS, "-n", "shop", "--manifests"])
        .arg(bed.manifests.directory())
        .args(["--metrics", "127.0.0.1:15020"]);
    let place = bed.place(WAYPOINT)?;
    println!("{}", place.text(&status)?);
    let answer: Value = serde_json::from_str(&place.text(&status.args(["-o", "json"]))?)?;
    let seen = |at: usize| answer["backends"][at]["seen"].as_u64().unwrap_or_default();
    ensure!(seen(0) > 0 && seen(1) > 0, "{answer:#}");
    ensure!(answer["backends"][2]["percent"] == 0.0, "{answer:#}");
    Ok(())
}
