//! Interoperation with Envoy, both ways: as the waypoint behind our ztunnel, and as the client's
//! proxy in front of our waypoint. The clients are plain curl.

mod bed;
mod envoy;

use std::process::ExitCode;

use anyhow::{Context, ensure};
use bed::{BEHIND_ENVOY, BEHIND_OURS, Bed, TO_OURS, TO_UNBOUND};
use scenarios::{Scenario, run, scenario};
use world::{Leftovers, Pod, Program};

/// What is carried there and back: more than any window that both sides begin with.
const LARGE_BYTES: usize = 3 << 20;

fn main() -> ExitCode {
    let left = world::remove_leftovers(Leftovers::Abandoned);
    assert!(left.is_ok(), "{left:?}");
    run(Bed::up, scenarios())
}

fn scenarios() -> Vec<Scenario<Bed>> {
    vec![
        scenario(
            "Envoy as the waypoint behind our ztunnel routes HTTP/1.1 to the server",
            |bed: &mut Bed| {
                let url = format!("http://{BEHIND_ENVOY}/a?b=c");
                let answer = ask(&bed.client, &["--http1.1"], &url)?;
                answer.is_of("envoy")?;
                let seen = answer.seen("client")?;
                let waypoint = bed.envoy.ipv4()?.to_string();
                ensure!(seen == waypoint, "the server saw {seen}, not {waypoint}");
                Ok(())
            },
        ),
        scenario(
            "Envoy as the waypoint behind our ztunnel routes HTTP/2 to the server",
            |bed: &mut Bed| {
                let url = format!("http://{BEHIND_ENVOY}/a?b=c");
                ask(&bed.client, &["--http2-prior-knowledge"], &url)?.is_of("envoy")
            },
        ),
        scenario(
            "Envoy as the waypoint behind our ztunnel carries 3 MB there and back",
            |bed: &mut Bed| large(&bed.client, &format!("http://{BEHIND_ENVOY}/")),
        ),
        scenario(
            "Envoy as the client's proxy reaches the server through our waypoint by HTTP/1.1",
            |bed: &mut Bed| {
                let url = format!("http://127.0.0.1:{TO_OURS}/a?b=c");
                ask(&bed.stranger, &["--http1.1"], &url)?.is_of("ours")
            },
        ),
        scenario(
            "Envoy as the client's proxy reaches the server through our waypoint by HTTP/2",
            |bed: &mut Bed| {
                let url = format!("http://127.0.0.1:{TO_OURS}/a?b=c");
                ask(&bed.stranger, &["--http2-prior-knowledge"], &url)?.is_of("ours")
            },
        ),
        scenario(
            "Envoy as the client's proxy carries 3 MB there and back through our waypoint",
            |bed: &mut Bed| large(&bed.stranger, &format!("http://127.0.0.1:{TO_OURS}/")),
        ),
        scenario(
            "our waypoint refuses Envoy what is not bound to it, and goes on serving the rest",
            unbound,
        ),
        scenario(
            "our ztunnel reaches our waypoint as Envoy does",
            |bed: &mut Bed| {
                ask(&bed.client, &[], &format!("http://{BEHIND_OURS}/a?b=c"))?.is_of("ours")
            },
        ),
    ]
}

fn unbound(bed: &mut Bed) -> anyhow::Result<()> {
    let url = format!("http://127.0.0.1:{TO_UNBOUND}/");
    let program = Program::line("curl -sS -o /dev/null --max-time 20").arg(&url);
    let output = bed.stranger.run(&program)?;
    ensure!(!output.ok(), "{url} was answered: {}", output.text());
    let bound = format!("http://127.0.0.1:{TO_OURS}/");
    ask(&bed.stranger, &[], &bound)?.is_of("ours")
}

/// Head and body of an answer.
struct Answer {
    head: String,
    body: String,
}

fn ask(from: &Pod, flags: &[&str], url: &str) -> anyhow::Result<Answer> {
    let program = Program::line("curl -sS -f -i --max-time 20")
        .args(flags.iter().copied())
        .arg(url);
    let text = from.run(&program)?.success()?.text().replace("\r\n", "\n");
    let (head, body) = text.split_once("\n\n").context("an answer with a head")?;
    Ok(Answer {
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    })
}

impl Answer {
    /// That it is the server's, and came through this waypoint.
    fn is_of(&self, waypoint: &str) -> anyhow::Result<()> {
        let mark = format!("x-routed-by: {waypoint}");
        ensure!(self.head.contains(&mark), "no {mark} in\n{}", self.head);
        let pod = self.seen("pod")?;
        ensure!(pod == "server", "{pod} answered");
        Ok(())
    }

    /// What the server says that it saw.
    fn seen(&self, what: &str) -> anyhow::Result<String> {
        let seen: serde_json::Value = serde_json::from_str(&self.body)?;
        let value = seen[what].as_str();
        Ok(value
            .with_context(|| format!("no {what} in {seen}"))?
            .to_owned())
    }
}

/// The server sends back what it gets, while it gets it.
fn large(from: &Pod, url: &str) -> anyhow::Result<()> {
    let sent: Vec<u8> = (0..LARGE_BYTES).map(|at| (at * 7 % 251) as u8).collect();
    // Without `Expect`: who answers it, and when, is not what is tested here.
    let program = Program::line("curl -sS -f --max-time 60")
        .args(["-H", "x-echo: body", "-H", "Expect:"])
        .args(["--data-binary", "@-"])
        .arg(url)
        .stdin(sent.clone());
    let output = from.run(&program)?.success()?;
    ensure!(
        output.stdout == sent,
        "{} of {LARGE_BYTES} bytes came back, or others",
        output.stdout.len()
    );
    Ok(())
}
