//! Requests through the Service, and connections that leave the mesh.

use std::net::IpAddr;
use std::time::Duration;

use world::{Pod, Program};

use crate::demo::check::wire::{Wire, expected_identities};
use crate::demo::check::{in_url, median, same_family};
use crate::demo::live::exchange;
use crate::demo::mesh::{WEB_V4, WEB_V6};
use crate::demo::servers::HTTP_PORT;
use crate::demo::{BackEnd, Claim, DemoError, Mesh};

/// Requests of `client_to_service_ok`, each on a connection of its own.
const REQUESTS: usize = 200;
/// Requests over IPv6.
const REQUESTS_V6: usize = 20;
/// A debug build on two busy cores makes about 100 connections a second.
const REQUESTS_WITHIN: Duration = Duration::from_secs(60);

/// One answered (or failed) request.
#[derive(Clone, Debug)]
pub struct Answer {
    /// HTTP status; 0 when there was none.
    pub status: u16,
    /// Who answered.
    pub server: String,
    /// Whom the server saw.
    pub client: String,
    /// The marker that came back.
    pub marker: String,
    /// From before the connect to the last byte.
    pub took: Duration,
}

/// Requests by curl, each with a connection of its own and a body of `marker`.
pub fn requests(
    from: &Pod,
    (to, port): (IpAddr, u16),
    count: usize,
    marker: &str,
) -> Result<Vec<Answer>, DemoError> {
    let url = format!("http://{}:{port}/?n=[1-{count}]", in_url(to));
    // An address in brackets is none of curl's ranges, but curl has to be told which is which.
    let url = url.replacen('[', if to.is_ipv6() { "\\[" } else { "[" }, 1);
    let url = if to.is_ipv6() {
        url.replacen(']', "\\]", 1)
    } else {
        url
    };
    let program = Program::line("curl -sS --max-time 10 -H connection:close")
        .args([
            "-H",
            &format!("x-marker: {marker}"),
            "--data-binary",
            marker,
        ])
        .args(["-w", "\n%{http_code} %{time_total}\n"])
        .arg(url)
        .limit(REQUESTS_WITHIN);
    let output = from.run(&program)?;
    Ok(answers(&output.text()))
}

/// One request; `None` when there was no answer with status 200.
pub fn request(from: &Pod, to: (IpAddr, u16), marker: &str) -> Result<Option<Answer>, DemoError> {
    let answer = requests(from, to, 1, marker)?.into_iter().next();
    Ok(answer.filter(|answer| answer.status == 200))
}

/// Alternating lines: a body, and what `-w` adds.
fn answers(text: &str) -> Vec<Answer> {
    let mut answers = Vec::new();
    let mut body = serde_json::Value::Null;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let status = words.next().and_then(|word| word.parse::<u16>().ok());
        let seconds = words.next().and_then(|word| word.parse::<f64>().ok());
        let (Some(status), Some(seconds)) = (status, seconds) else {
            body = serde_json::from_str(line).unwrap_or_default();
            continue;
        };
        let field = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        answers.push(Answer {
            status,
            server: field("server"),
            client: field("client"),
            marker: field("marker"),
            took: Duration::from_secs_f64(seconds),
        });
        body = serde_json::Value::Null;
    }
    answers
}

/// `client_to_service_ok`, `source_ip_kept`, `source_ip_kept_v6`, `wire_encrypted` and
/// `identities_ok`: requests through the Service over both families, while captures run between
/// the nodes and on the client's own node.
pub fn through_the_service(mesh: &Mesh) -> Result<BackEnd, DemoError> {
    let marker = random_marker();
    let client = &mesh.pods.client;
    let wire = Wire::start(mesh)?;
    let v4 = requests(client, (WEB_V4, 80), REQUESTS, &marker)?;
    let v6 = requests(client, (WEB_V6, 80), REQUESTS_V6, &marker)?;
    let mut found = wire.finish(mesh, &marker)?;

    let good = |answer: &&Answer| answer.status == 200 && answer.marker == marker;
    let ok = v4.iter().filter(good).count();
    let of = |name: &str| v4.iter().filter(|answer| answer.server == name).count();
    let (by_v1, by_v2) = (of("web-v1"), of("web-v2"));
    found.find(
        Claim::ClientToService,
        ok == REQUESTS && v4.len() == REQUESTS && by_v1 > 0 && by_v2 > 0,
        format!(
            "{ok} of {REQUESTS} were 200 OK: {by_v1} by nginx on the client's node, {by_v2} by \
             Python on the other"
        ),
    );
    source_ip(mesh, &mut found, Claim::SourceIpKept, (&v4, WEB_V4))?;
    source_ip(mesh, &mut found, Claim::SourceIpKeptV6, (&v6, WEB_V6))?;
    found.extend(expected_identities(mesh, REQUESTS + REQUESTS_V6)?);
    let times: Vec<f64> = v4
        .iter()
        .map(|answer| answer.took.as_secs_f64() * 1000.0)
        .collect();
    found.measure("request_on_new_connection_median", median(&times), "ms");
    Ok(found)
}

fn source_ip(
    mesh: &Mesh,
    found: &mut BackEnd,
    claim: Claim,
    (answers, like): (&[Answer], IpAddr),
) -> Result<(), DemoError> {
    let own = same_family(&mesh.pods.client, like)?.to_string();
    let kept = answers.iter().filter(|answer| answer.client == own).count();
    let other = answers.iter().find(|answer| answer.client != own);
    let seen = match other {
        None => format!("the servers saw {own} {kept} times"),
        Some(answer) => format!("{} saw {:?} instead of {own}", answer.server, answer.client),
    };
    found.find(claim, !answers.is_empty() && kept == answers.len(), seen);
    Ok(())
}

/// `passthrough_ok`: a server outside the mesh, and servers that speak first, inside and outside.
pub fn passthrough(mesh: &Mesh) -> Result<BackEnd, DemoError> {
    let client = &mesh.pods.client;
    let mut found = BackEnd::default();
    let outside = [mesh.outside.ipv4(), mesh.outside.ipv6()];
    let mut wrong = Vec::new();
    for address in outside {
        let own = same_family(client, address)?.to_string();
        let answer = request(client, (address, HTTP_PORT), "out")?;
        if answer.is_none_or(|answer| answer.client != own || answer.server != "outside") {
            wrong.push(format!("HTTP to {address} outside"));
        }
    }
    for address in [outside[0], outside[1], WEB_V4, WEB_V6] {
        let own = same_family(client, address)?.to_string();
        let (ok, text) = exchange(&mesh.programs, client, address)?;
        if !ok || !text.contains(&format!("sees {own}")) {
            wrong.push(format!(
                "the server at {address} that speaks first: {text:?}"
            ));
        }
    }
    let seen = if wrong.is_empty() {
        "HTTP outside the mesh; servers that speak first, outside and in the mesh".to_owned()
    } else {
        format!("failed: {}", wrong.join(", "))
    };
    found.find(Claim::Passthrough, wrong.is_empty(), seen);
    Ok(found)
}

/// Text that does not occur by chance, and that no compression would hide.
pub(crate) fn random_marker() -> String {
    format!("marker-{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_and_figures_of_curl_are_paired_also_where_a_request_had_no_answer() {
        let text = "{\"server\":\"web-v1\",\"client\":\"10.244.1.2\",\"marker\":\"m\"}\n200 0.002\n\
                    \n000 0.1\n";
        let answers = answers(text);
        assert_eq!(answers.len(), 2);
        assert_eq!(
            (answers[0].status, answers[0].server.as_str()),
            (200, "web-v1")
        );
        assert_eq!(answers[0].took, Duration::from_millis(2));
        assert_eq!((answers[1].status, answers[1].server.as_str()), (0, ""));
    }
}
