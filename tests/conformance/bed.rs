//! The world of all scenarios: two nodes, clients, echo servers, a waypoint, and every scenario's
//! manifests, applied before the first one is asked.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, ensure};
use cli::demo::manifest::Manifests;
use world::stack::{Binaries, ControlPlane, get, wait_waypoint, wait_ztunnel};
use world::{Node, Place, Pod, Process, Program, World};

use crate::ask::{Answer, To, ask, counted_at};
use crate::case::{self, Case, Pair};
use crate::judge::judge;

/// Pods of the world: namespace and name, node, whether an echo server runs in it.
const PODS: [(&str, usize, bool); 11] = [
    ("shop/client", 0, false),
    ("bank/teller", 0, false),
    ("shop/v1", 0, true),
    ("shop/v2", 1, true),
    ("shop/v3", 1, true),
    ("vault/v4", 1, true),
    ("cellar/v5", 1, true),
    ("outside/stranger", 0, false),
    ("shop/v6", 1, true),
    ("shop/waypoint-0", 1, false),
    ("shop/gate-0", 1, false),
];
/// The pod that the waypoint runs in.
pub const WAYPOINT: &str = "shop/waypoint-0";
/// Pods with waypoints, and their Gateways: that of the namespace, and one that has routes and
/// policies of its own, which would hold for every Service of the namespace.
const WAYPOINTS: [(&str, &str); 2] = [(WAYPOINT, "waypoint"), ("shop/gate-0", "gate")];
/// Where the collector of traces listens, in the waypoint's pod.
const COLLECTOR: &str = "127.0.0.1:4317";
/// A program in a pod listens within this, also beside six builds.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// What was applied before a process was ready is in force within this.
const APPLIED_WITHIN: Duration = Duration::from_secs(60);
/// A copy, which has no answer that anybody waits for, comes within this, also beside six builds.
const COPIED_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at what came.
const LOOK: Duration = Duration::from_millis(200);

/// The world. Dropping it removes everything.
pub struct Bed {
    // In the order of dropping: what runs in the world goes before the world.
    _servers: Vec<Process>,
    /// Its log is the access log too.
    pub waypoint: Process,
    _gate: Process,
    /// Prints the spans that it gets of the waypoint.
    pub collector: Process,
    _ztunnels: Vec<Process>,
    _agents: Vec<Process>,
    _culvertd: Process,
    /// Where culvertd runs.
    pub control: Place,
    pods: Vec<Pod>,
    _nodes: Vec<Node>,
    /// What culvertd watches.
    pub manifests: Manifests,
    /// Files of the servers and clients in Python.
    programs: PathBuf,
    ids: u64,
    world: World,
}

impl Bed {
    /// Brings it up with the manifests of these scenarios.
    pub fn up(cases: &[Rc<Case>]) -> anyhow::Result<Self> {
        world::remove_leftovers(world::Leftovers::Abandoned)?;
        let mut world = World::new()?;
        world.save_logs_to(std::env::temp_dir().join("culvert-conformance"));
        let binaries = Binaries::of_this_build()?;
        for name in ["waypoint", "echo", "collector"] {
            let path = binaries.path(name);
            ensure!(path.is_file(), "{} is not built", path.display());
        }
        let host = world.host("control")?;
        let nodes = vec![world.node("node-1")?, world.node("node-2")?];
        let manifests = Manifests::empty(world.directory().join("manifests"))?;
        for (name, text) in case::world()? {
            manifests.put(&name, &text)?;
        }
        for case in cases {
            manifests.put(&format!("case-{}.yaml", case.name), &case.manifests)?;
        }
        let control = ControlPlane::prepare(&host, &binaries)?;
        let culvertd = control.serve(manifests.directory(), &[])?;
        let (mut agents, mut ztunnels) = (Vec::new(), Vec::new());
        for node in &nodes {
            agents.push(control.start_agent(node)?);
            control.install_chain(node)?;
            ztunnels.push(control.start_ztunnel(node, "auto", &[])?);
        }
        for (node, ztunnel) in nodes.iter().zip(&ztunnels) {
            wait_ztunnel(node, ztunnel)?;
        }
        let (mut pods, mut servers) = (Vec::new(), Vec::new());
        let programs = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/programs"));
        for (name, node, serves) in PODS {
            let pod = nodes[node].pod(name)?;
            if serves {
                servers.extend(serve(&binaries, &programs, &pod)?);
            }
            pods.push(pod);
        }
        let program = Program::new(binaries.path("collector")).arg(COLLECTOR);
        let collector = named(&pods, WAYPOINT)?.start("collector", &program)?;
        collector.wait_for_line(&["listening"], STARTS_WITHIN)?;
        let started = WAYPOINTS.map(|(name, gateway)| {
            let pod = named(&pods, name)?;
            let endpoint = format!("--tracing-endpoint=http://{COLLECTOR}");
            // Only what a client says is sampled.
            let flags = [endpoint.as_str(), "--tracing-sampling=0"];
            let flags = if name == WAYPOINT { &flags[..] } else { &[] };
            let waypoint = control.start_waypoint(&nodes[1], pod, gateway, flags)?;
            wait_waypoint(pod, &waypoint)?;
            anyhow::Ok(waypoint)
        });
        let [waypoint, gate] = started;
        for server in &servers {
            server.wait_for_line(&["listening"], STARTS_WITHIN)?;
        }
        Ok(Bed {
            _servers: servers,
            waypoint: waypoint?,
            _gate: gate?,
            collector,
            _ztunnels: ztunnels,
            _agents: agents,
            _culvertd: culvertd,
            control: host.place().clone(),
            pods,
            _nodes: nodes,
            manifests,
            programs,
            ids: 0,
            world,
        })
    }

    /// Where a pod's programs run: `shop/client`.
    pub fn place(&self, name: &str) -> anyhow::Result<&Place> {
        Ok(self.pod(name)?.place())
    }

    fn pod(&self, name: &str) -> anyhow::Result<&Pod> {
        named(&self.pods, name)
    }

    fn address_of(&self, name: &str, is_v6: bool) -> anyhow::Result<IpAddr> {
        let pod = self.pod(name)?;
        Ok(if is_v6 { pod.ipv6()? } else { pod.ipv4()? })
    }

    /// Asks a pair once it is in force; what is not as expected.
    ///
    /// A pair that is not yet as it should be is asked again until its time is over: what was
    /// applied moments ago may still be on its way.
    pub fn settled(&mut self, case: &Case, pair: &Pair, version: u8) -> anyhow::Result<Outcome> {
        let start = std::time::Instant::now();
        loop {
            let outcome = self.asked(case, pair, version)?;
            if outcome.wrong.is_empty() || start.elapsed() > APPLIED_WITHIN {
                return Ok(outcome);
            }
            self.sleep(LOOK)?;
        }
    }

    /// Asks a pair; what is not as expected.
    pub fn asked(&mut self, case: &Case, pair: &Pair, version: u8) -> anyhow::Result<Outcome> {
        let host = pair.at.as_deref().map_or_else(|| host_of(&pair.ask), Ok)?;
        let address = match host.split_once('/') {
            Some((family, pod)) => self.address_of(pod, family == "pod6")?,
            None => case.address(host)?,
        };
        let (answers, id) = self.answers(pair, (address, version))?;
        let wrong = if pair.expect.counted.is_empty() && pair.expect.copied.is_empty() {
            judge(&pair.expect, &answers, &BTreeMap::new())
        } else {
            self.judged(pair, &answers, &id)?
        };
        Ok(Outcome { wrong, answers })
    }

    /// Judges by what came to the pods too. Copies may come later than the answer: it is counted
    /// until all is as expected, or stays wrong.
    fn judged(&self, pair: &Pair, answers: &[Answer], id: &str) -> anyhow::Result<Vec<String>> {
        let start = std::time::Instant::now();
        loop {
            // Before the first look too: what should not come would come a moment later.
            self.sleep(LOOK)?;
            let counted = counted_at(&self.echoes()?, id)?;
            let wrong = judge(&pair.expect, answers, &counted);
            let by_answers = judge(&pair.expect.of_answers(), answers, &counted);
            if wrong == by_answers || start.elapsed() > COPIED_WITHIN {
                return Ok(wrong);
            }
        }
    }

    /// The answers to a pair at an address, and the id that the servers counted it by.
    pub fn answers(
        &mut self,
        pair: &Pair,
        (address, version): (IpAddr, u8),
    ) -> anyhow::Result<(Vec<Answer>, String)> {
        let id = self.next_id();
        let place = self.place(&pair.from)?;
        let to = To {
            address,
            version,
            id: &id,
            programs: &self.programs,
        };
        let answers = match pair.keep.as_deref() {
            None | Some("cookie") => ask(place, pair, to)?,
            Some(header) => keeping(place, pair, (header, to), |pause| self.sleep(pause))?,
        };
        Ok((answers, id))
    }

    /// A value that no other pair is counted by.
    pub fn next_id(&mut self) -> String {
        self.ids += 1;
        format!("pair-{}", self.ids)
    }

    /// For files that programs in the world share with the scenarios.
    pub fn directory(&self) -> &Path {
        self.world.directory()
    }

    /// A pause that ends when the run is to end.
    pub fn sleep(&self, time: Duration) -> anyhow::Result<()> {
        Ok(self.world.interrupt().sleep(time)?)
    }

    /// A page of the waypoint: `metrics` at 15020, `config_dump` at 15000.
    pub fn waypoint_page(&self, port: u16, path: &str) -> anyhow::Result<String> {
        let url = format!("http://127.0.0.1:{port}/{path}");
        Ok(get(self.place(WAYPOINT)?, &url)?)
    }

    /// Requests of a pair, by its id, that came to all pods together.
    pub fn came(&self, id: &str) -> anyhow::Result<u64> {
        Ok(counted_at(&self.echoes()?, id)?.values().sum())
    }

    /// Pods with echo servers, by the name that they give themselves.
    fn echoes(&self) -> anyhow::Result<Vec<(&str, &Place)>> {
        let serving = PODS.iter().filter(|(_, _, serves)| *serves);
        serving
            .map(|(name, ..)| {
                let short = name.rsplit('/').next().unwrap_or(name);
                Ok((short, self.place(name)?))
            })
            .collect()
    }
}

/// What came of a pair.
pub struct Outcome {
    /// What is not as expected; empty: all is well.
    pub wrong: Vec<String>,
    /// The answers.
    pub answers: Vec<Answer>,
}

fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod.name().namespace, pod.name().name)
}

fn named<'a>(pods: &'a [Pod], name: &str) -> anyhow::Result<&'a Pod> {
    let pod = pods.iter().find(|pod| full_name(pod) == name);
    pod.with_context(|| format!("no pod is {name}"))
}

/// Asks once, and then with the header that the first answer had, after a pause.
fn keeping(
    place: &Place,
    pair: &Pair,
    (header, to): (&str, To<'_>),
    pause: impl FnOnce(Duration) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Answer>> {
    let mut first = pair.clone();
    first.times = 1;
    let mut answers = ask(place, &first, to)?;
    let value = answers.first().and_then(|answer| answer.header(header));
    let value = value.with_context(|| format!("the first answer has no {header}"))?;
    let mut rest = pair.clone();
    rest.times -= 1;
    let (name, value) = match header {
        // What a browser makes of it.
        "set-cookie" => ("cookie", value.split(';').next().unwrap_or_default()),
        header => (header, &*value),
    };
    rest.headers.push(format!("{name}: {value}"));
    pause(Duration::from_secs(pair.pause))?;
    answers.extend(ask(place, &rest, to)?);
    Ok(answers)
}

/// The host of `GET http://host:port/path`.
pub fn host_of(ask: &str) -> anyhow::Result<&str> {
    let (_, url) = ask.split_once("://").context("a URL")?;
    let authority = url.split(['/', '?']).next().unwrap_or_default();
    // An IPv6 address keeps its colons.
    Ok(match authority.rfind(']') {
        Some(end) => &authority[..=end],
        None => authority.split(':').next().unwrap_or_default(),
    })
}

fn serve(binaries: &Binaries, programs: &Path, pod: &Pod) -> anyhow::Result<Vec<Process>> {
    let name = pod.name().name.as_str();
    let echo = Program::new(binaries.path("echo")).arg(name);
    let python = |file: &str, port: u16| {
        Program::line("/usr/bin/python3 -u")
            .arg(programs.join(file))
            .args([port.to_string(), name.to_owned()])
    };
    Ok(vec![
        pod.start("echo", &echo)?,
        pod.start("grpc", &python("grpc_server.py", 9001))?,
        pod.start("websocket", &python("websocket_server.py", 9002))?,
        pod.start("odd", &python("odd_server.py", 9003))?,
        pod.start("streams", &python("stream_server.py", 9004))?,
    ])
}
