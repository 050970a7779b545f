//! One pair asked by curl in a pod, and the answers read back.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use world::{Place, Program};

use crate::case::Pair;

/// A line of this begins what curl says of each transfer, after its answer.
const MARK: &str = "@@conformance@@";
/// Longest time of one transfer, in seconds, also beside six builds: a timeout of a route that
/// works ends long before.
const TRANSFER_SECONDS: u32 = 60;
/// Longest time of all transfers of a pair: 60 connections of a megabyte there and back.
const PAIR_WITHIN: Duration = Duration::from_secs(300);

/// What came of one request.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// 0: there was no answer.
    pub status: u16,
    /// Names in lower case, in their order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// What the server saw, when it answered: see the programs of the pods.
    pub saw: Value,
    /// Why there was none.
    pub error: String,
}

impl Answer {
    /// A header of the answer; several of one name are joined as HTTP does.
    pub fn header(&self, name: &str) -> Option<String> {
        let values = self.headers.iter().filter(|(own, _)| own == name);
        let values: Vec<&str> = values.map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(","))
    }

    /// The pod that answered.
    pub fn pod(&self) -> Option<String> {
        self.header("x-pod")
    }

    /// A header of the request as the server saw it.
    pub fn saw_header(&self, name: &str) -> Option<String> {
        let values = self.saw["headers"][name].as_array()?;
        let values: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
        Some(values.join(","))
    }
}

/// Where a pair is asked, how, and the value of its header `x-pair`.
#[derive(Clone, Copy, Debug)]
pub struct To<'a> {
    pub address: IpAddr,
    /// HTTP/1.1 or HTTP/2.
    pub version: u8,
    pub id: &'a str,
    /// The directory of the clients that are no curl.
    pub programs: &'a Path,
}

/// Asks a pair so often as it says, in one process and on as few connections as that takes.
pub fn ask(place: &Place, pair: &Pair, to: To<'_>) -> anyhow::Result<Vec<Answer>> {
    let (method, url) = pair.ask.split_once(' ').context("METHOD URL")?;
    let client = match method {
        "GRPC" => "grpc_client.py",
        "TCP" => "tcp_client.py",
        "TLS" => "tls_client.py",
        "HELD" => "held_client.py",
        "WEBSOCKET" if to.version == 1 => "websocket_client.py",
        "WEBSOCKET" | "TUNNEL" => "tunnel_client.py",
        "RAW" => "raw_client.py",
        "STREAM" => "stream_client.py",
        "DRIP" => "drip_client.py",
        "KEEP" | "PIPELINE" => "sequence_client.py",
        // Bodies are curl's alone: no pair sends one many times.
        _ if is_many_over_h2(pair, to, url) => "h2_client.py",
        method => return by_curl(place, pair, (method, url), to),
    };
    let (_, rest) = url.split_once("://").context("a URL")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let port = authority.rsplit_once(':').map_or("80", |(_, port)| port);
    let words = [
        to.address.to_string(),
        port.to_owned(),
        authority.to_owned(),
        path.to_owned(),
        pair.times.to_string(),
    ];
    // What is no header of the request is written as one that no request has.
    let version = format!(":version: {}", to.version);
    let told = match method {
        "WEBSOCKET" if to.version == 2 => vec![version, ":protocol: websocket".to_owned()],
        "TUNNEL" | "DRIP" => vec![version],
        "PIPELINE" => vec![":pipeline: all".to_owned()],
        _ if client == "h2_client.py" => vec![format!(":method: {method}")],
        _ => Vec::new(),
    };
    let program = Program::line("/usr/bin/python3 -u")
        .arg(to.programs.join(client))
        .args(words)
        .args(pair.body.iter().cloned())
        .args(pair.headers.iter().map(|header| repeated(header)))
        .args(told)
        .args(pair.keep.iter().map(|kept| format!(":keep: {kept}")))
        .args(pair.echo.iter().map(|echo| format!("x-echo: {echo}")))
        .arg(format!("x-pair: {}", to.id))
        .limit(PAIR_WITHIN);
    let output = place.run(&program)?;
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let answers: Vec<Answer> = lines.lines().filter_map(line).collect();
    complete(answers, pair, &output.stderr)
}

/// curl 7.88 fails at the second request of a connection with prior knowledge of HTTP/2.
fn is_many_over_h2(pair: &Pair, to: To<'_>, url: &str) -> bool {
    to.version == 2 && pair.times > 1 && pair.body.is_none() && url.starts_with("http://")
}

/// A line that a client other than curl says for each answer.
fn line(line: &str) -> Option<Answer> {
    let said: Value = serde_json::from_str(line).ok()?;
    let body = said["body"].as_str().unwrap_or_default().to_owned();
    let headers = said["headers"].as_object()?.iter();
    Some(Answer {
        status: said["status"].as_u64()?.try_into().ok()?,
        headers: headers
            .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
        saw: serde_json::from_str(&body).unwrap_or_default(),
        error: String::new(),
        body,
    })
}

fn complete(answers: Vec<Answer>, pair: &Pair, said: &str) -> anyhow::Result<Vec<Answer>> {
    ensure!(
        answers.len() == usize::try_from(pair.times)?,
        "{} of {} answers: {said}",
        answers.len(),
        pair.times
    );
    Ok(answers)
}

fn by_curl(
    place: &Place,
    pair: &Pair,
    (method, url): (&str, &str),
    to: To<'_>,
) -> anyhow::Result<Vec<Answer>> {
    let mut config = String::new();
    let url = &repeated(url);
    for _ in 0..pair.times {
        config.push_str(&format!("url = \"{url}\"\n"));
    }
    let target = match to.address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let mut program = Program::line("curl -q -sS -i -g -k --path-as-is --max-time")
        .arg(TRANSFER_SECONDS.to_string())
        .args(["--connect-to".to_owned(), format!("::{target}:")])
        .args(["-H", &format!("x-pair: {}", to.id)])
        .args([
            "-w",
            &format!("\n{MARK} %{{http_code}} %{{exitcode}} %{{errormsg}}\n"),
        ])
        .args(["-K", "-"])
        .stdin(config)
        .limit(PAIR_WITHIN);
    program = program.arg(match (to.version, url.starts_with("https")) {
        _ if method == "UPGRADE" => "--http2",
        (1, _) => "--http1.1",
        (_, true) => "--http2",
        (_, false) => "--http2-prior-knowledge",
    });
    program = match method {
        "GET" | "UPGRADE" => program,
        "HEAD" => program.arg("--head"),
        method => program.args(["-X", method]),
    };
    if pair.keep.as_deref() == Some("cookie") {
        // An empty name begins curl's cookie engine.
        program = program.args(["-b", ""]);
    }
    for header in &pair.headers {
        program = program.args(["-H", &repeated(header)]);
    }
    if let Some(echo) = &pair.echo {
        program = program.args(["-H", &format!("x-echo: {echo}")]);
    }
    if let Some(body) = &pair.body {
        program = program.args(["--data-raw", body]);
    }
    let output = place.run(&program)?;
    let answers = answers(&String::from_utf8_lossy(&output.stdout));
    complete(answers, pair, &output.stderr)
}

/// `{a*1000}` stands for a thousand times `a`.
fn repeated(text: &str) -> String {
    let Some((before, rest)) = text.split_once('{') else {
        return text.to_owned();
    };
    let found = rest.split_once('}').and_then(|(inside, after)| {
        let (one, times) = inside.split_once('*')?;
        Some((one.repeat(times.parse().ok()?), after))
    });
    match found {
        Some((many, after)) => format!("{before}{many}{after}"),
        None => text.to_owned(),
    }
}

/// Requests of a pair that came to a pod.
pub fn counted(place: &Place, id: &str) -> anyhow::Result<u64> {
    let url = format!("http://127.0.0.1:8080/seen?pair={id}");
    let text = place.text(&Program::line("curl -q -sS --max-time 60").arg(url))?;
    text.parse()
        .with_context(|| format!("a number, not {text:?}"))
}

/// The same of all pods.
pub fn counted_at(pods: &[(&str, &Place)], id: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let counts = pods
        .iter()
        .map(|(name, place)| Ok(((*name).to_owned(), counted(place, id)?)));
    counts.collect()
}

fn answers(text: &str) -> Vec<Answer> {
    let mut answers = Vec::new();
    let mut rest = text;
    while let Some((answer, after)) = rest.split_once(MARK) {
        let (said, after) = after.split_once('\n').unwrap_or((after, ""));
        answers.push(one(answer.strip_suffix('\n').unwrap_or(answer), said));
        rest = after;
    }
    answers
}

fn one(text: &str, said: &str) -> Answer {
    let mut words = said.trim().splitn(3, ' ');
    let status = words.next().and_then(|code| code.parse().ok());
    let exit = words.next().unwrap_or_default();
    let mut answer = Answer {
        status: status.unwrap_or_default(),
        error: words.next().unwrap_or_default().to_owned(),
        ..Answer::default()
    };
    if exit != "0" {
        answer.error = format!("curl {exit}: {}", answer.error);
    }
    let mut rest = text;
    // 1xx answers come before the one that counts.
    while rest.starts_with("HTTP/") {
        let (head, body) = rest.split_once("\r\n\r\n").unwrap_or((rest, ""));
        answer.headers = head.lines().skip(1).filter_map(header).collect();
        rest = body;
    }
    answer.body = rest.to_owned();
    answer.saw = serde_json::from_str(rest.trim()).unwrap_or_default();
    answer
}

fn header(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_ascii_lowercase(), value.trim().to_owned()))
}
