//! Scenarios of the whole chain that no table of requests says: policies of Gateways, what is
//! logged and counted, and bytes that wait for those who read them.

use std::time::Duration;

use anyhow::{Context, ensure};
use scenarios::{Scenario, scenario};
use serde_json::Value;
use world::stack::Binaries;
use world::{Program, WorldError};

use crate::bed::Bed;
use crate::case::Pair;
use crate::more::{find, get};

/// What a policy of the Gateway, and one of its class, refuses.
const POLICIES: [(&str, &str); 2] = [
    (
        "a policy of the Gateway holds for all that it carries, while it is there",
        "{name: of-the-gateway, namespace: shop}\nspec:\n  \
         targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]",
    ),
    (
        "a policy of the GatewayClass holds at every waypoint of the class, while it is there",
        "{name: of-the-class, namespace: istio-system}\nspec:\n  targetRefs: \
         [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}]",
    ),
];
/// The clients that they refuse.
const REFUSED: &str = "\n  action: DENY\n  \
    rules: [{from: [{source: {principals: [cluster.local/ns/bank/sa/client]}}]}]\n";
/// Bytes that the odd server sends as fast as they are taken.
const FLOOD_BYTES: u64 = 32 << 20;
/// Bytes that a client sends to a server that takes none.
const UPLOAD_BYTES: u64 = 32 << 20;
/// A count that is the same for so many looks has come to a stand; on a machine so busy that it
/// only seems so, nothing is asserted that is not true.
const SAME_LOOKS: u32 = 10;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// Something that is told in a moment, beside six builds.
const TOLD_WITHIN: Duration = Duration::from_secs(60);

/// All of them.
pub fn scenarios() -> Vec<Scenario<Bed>> {
    let policies = POLICIES
        .into_iter()
        .map(|(name, policy)| scenario(name, move |bed: &mut Bed| refused_by(bed, policy)));
    let others = vec![
        scenario(
            "a client that reads nothing holds up its server, and then gets every byte",
            slow_reader,
        ),
        scenario(
            "a server that takes nothing holds up its client, and then gets every byte",
            slow_taker,
        ),
        scenario(
            "nghttp sends trailers that the server sees",
            request_trailers,
        ),
        scenario(
            "early hints come to the client before the answer, in HTTP/1.1 and HTTP/2",
            early_hints,
        ),
        scenario(
            "the access log and the metrics say who asked whom, by which route",
            logged,
        ),
        scenario(
            "culvertd has the conditions of routes, policies and the Gateway, and `culvert \
             status` prints them",
            conditions,
        ),
    ];
    policies.chain(others).collect()
}

fn refused_by(bed: &mut Bed, policy: &str) -> anyhow::Result<()> {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {policy}{REFUSED}"
    );
    let case = find("plain")?;
    let asked = |bed: &mut Bed, from: &str, status: u16| -> anyhow::Result<()> {
        let mut pair = get(1);
        pair.ask = "GET http://plain/".to_owned();
        pair.from = from.to_owned();
        pair.expect.status = Some(status);
        for version in [1, 2] {
            let wrong = bed.settled(&case, &pair, version)?.wrong;
            ensure!(wrong.is_empty(), "{from}, HTTP/{version}: {wrong:?}");
        }
        Ok(())
    };
    asked(bed, "bank/teller", 200)?;
    bed.manifests.put("policy.yaml", &text)?;
    let refused = asked(bed, "bank/teller", 0).and_then(|()| asked(bed, "shop/client", 200));
    bed.manifests.remove("policy.yaml")?;
    refused?;
    asked(bed, "bank/teller", 200)
}

/// What the odd server of v2 says of a pair: bytes sent, bytes taken.
fn counts(bed: &Bed, id: &str) -> anyhow::Result<(u64, u64)> {
    let url = format!("http://127.0.0.1:9003/count?{id}");
    let place = bed.place("shop/v2")?;
    let text = place.text(&Program::line("curl -q -sS --max-time 60").arg(url))?;
    let said: Value = serde_json::from_str(&text)?;
    let number = |name: &str| said[name].as_u64().with_context(|| text.clone());
    Ok((number("sent")?, number("taken")?))
}

/// The count, once it stays as it is.
fn stand(bed: &Bed, mut count: impl FnMut() -> anyhow::Result<u64>) -> anyhow::Result<u64> {
    let (mut last, mut same, mut most) = (0, 0, 0);
    let begun = std::time::Instant::now();
    while same < SAME_LOOKS {
        bed.sleep(LOOK)?;
        let now = count()?;
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        most = most.max(now);
        let is_late = most == 0 && begun.elapsed() > TOLD_WITHIN;
        ensure!(!is_late, "nothing was sent within {TOLD_WITHIN:?}");
    }
    Ok(last)
}

/// A client in Python that reads when it is told to: by a line in a file.
const READS_LATER: &str = r#"
import os, socket, sys, time
address, path, pair, sign = sys.argv[1:]
with socket.create_connection((address, 80)) as connection:
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: odd\r\nx-pair: {pair}\r\n\r\n".encode())
    while not os.path.exists(sign):
        time.sleep(0.02)
    stream = connection.makefile("rb")
    length = 0
    while (line := stream.readline().strip()):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split()[1])
    print(len(stream.read(length)), flush=True)
"#;

fn slow_reader(bed: &mut Bed) -> anyhow::Result<()> {
    let address = find("odd-answers")?.address("odd")?.to_string();
    let id = bed.next_id();
    let sign = bed.directory().join(&id);
    let program = Program::new("/usr/bin/python3")
        .args(["-u", "-c", READS_LATER, &address, "/flood", &id])
        .arg(&sign);
    let client = bed.place("shop/client")?.start("reads-later", &program)?;
    let sent = stand(bed, || Ok(counts(bed, &id)?.0))?;
    println!("    {sent} of {FLOOD_BYTES} bytes left the server while nobody read");
    ensure!(sent < FLOOD_BYTES, "all of it was taken: somebody holds it");
    std::fs::write(&sign, "")?;
    let got = client.wait_for_line(&[&FLOOD_BYTES.to_string()], TOLD_WITHIN);
    got.map(drop).map_err(Into::into)
}

/// A client in Python that says how much it has sent, in a file.
const SENDS_ALL: &str = r#"
import socket, sys
address, path, pair, told, size = sys.argv[1:]
size, sent = int(size), 0
with socket.create_connection((address, 80)) as connection:
    head = f"POST {path} HTTP/1.1\r\nHost: odd\r\nx-pair: {pair}\r\n"
    head += f"Connection: close\r\nContent-Length: {size}\r\n\r\n"
    connection.sendall(head.encode())
    piece = b"u" * 65536
    while sent < size:
        sent += connection.send(piece[: size - sent])
        with open(told, "w") as file:
            file.write(f"{sent}\n")
    print(connection.makefile("rb").read().decode(), flush=True)
"#;

fn slow_taker(bed: &mut Bed) -> anyhow::Result<()> {
    let address = find("odd-answers")?.address("odd")?.to_string();
    let id = bed.next_id();
    let told = bed.directory().join(&id);
    let program = Program::new("/usr/bin/python3")
        .args(["-u", "-c", SENDS_ALL, &address, "/swallow", &id])
        .arg(&told)
        .arg(UPLOAD_BYTES.to_string());
    let client = bed.place("shop/client")?.start("sends-all", &program)?;
    let sent = stand(bed, || {
        let text = std::fs::read_to_string(&told).unwrap_or_default();
        // The file is empty while it is written anew.
        Ok(text.trim().parse().unwrap_or_default())
    })?;
    println!("    {sent} of {UPLOAD_BYTES} bytes left the client while nobody took them");
    ensure!(
        sent < UPLOAD_BYTES,
        "all of it was taken: somebody holds it"
    );
    let go_on = format!("http://127.0.0.1:9003/go-on?{id}");
    let go_on = Program::line("curl -q -sS -f --max-time 60").arg(go_on);
    bed.place("shop/v2")?.text(&go_on)?;
    client.wait_for_line(&["200 OK"], TOLD_WITHIN)?;
    client.wait_for_line(&[&UPLOAD_BYTES.to_string()], TOLD_WITHIN)?;
    Ok(())
}

fn request_trailers(bed: &mut Bed) -> anyhow::Result<()> {
    let url = format!("http://{}/", find("trailers")?.address("trailers")?);
    let body = bed.directory().join("body");
    std::fs::write(&body, "hello")?;
    let program = Program::line("nghttp -v --timeout=60 --trailer")
        .arg("x-sum: 17")
        .arg("-d")
        .arg(&body)
        .arg(url);
    let said = bed.place("shop/client")?.text(&program)?;
    ensure!(said.contains("\"trailers\":{\"x-sum\":[\"17\"]}"), "{said}");
    ensure!(said.contains("\"body\":\"hello\""), "{said}");
    Ok(())
}

fn early_hints(bed: &mut Bed) -> anyhow::Result<()> {
    let url = format!("http://{}/hints", find("odd-answers")?.address("odd")?);
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let program = Program::line("curl -q -sS -i --max-time 60")
            .arg(version)
            .arg(&url);
        let said = bed.place("shop/client")?.text(&program)?;
        let heads: Vec<&str> = said
            .lines()
            .filter(|line| line.starts_with("HTTP/"))
            .collect();
        let statuses = heads.iter().filter_map(|line| line.split(' ').nth(1));
        let statuses: Vec<&str> = statuses.collect();
        ensure!(statuses == ["103", "200"], "{version}: {said}");
        ensure!(said.contains("rel=preload"), "{version}: {said}");
    }
    Ok(())
}

fn logged(bed: &mut Bed) -> anyhow::Result<()> {
    let case = find("merged-routes")?;
    let mark = format!("/a/b/{}", bed.next_id());
    let mut pair: Pair = get(1);
    pair.ask = format!("GET http://merged{mark}");
    let wrong = bed.settled(&case, &pair, 1)?.wrong;
    ensure!(wrong.is_empty(), "{wrong:?}");
    let words = [
        &*mark,
        "request complete",
        "shop/merged-short",
        "cluster.local/ns/shop/sa/client",
        "cluster.local/ns/shop/sa/echo",
    ];
    let line = bed.waypoint.wait_for_line(&words, TOLD_WITHIN)?;
    println!("    {line}");
    let labels = [
        "reporter=\"waypoint\"",
        "source_principal=\"spiffe://cluster.local/ns/shop/sa/client\"",
        "destination_service_name=\"v3\"",
        "response_code=\"200\"",
        "connection_security_policy=\"mutual_tls\"",
    ];
    for metric in [
        "istio_requests_total",
        "istio_request_duration_milliseconds_count",
    ] {
        // Each worker tells its counts every now and then.
        let begun = std::time::Instant::now();
        loop {
            let page = bed.waypoint_page(15020, "metrics")?;
            let mut lines = page.lines().filter(|line| line.starts_with(metric));
            if lines.any(|line| labels.iter().all(|label| line.contains(label))) {
                break;
            }
            let is_late = begun.elapsed() > TOLD_WITHIN;
            ensure!(!is_late, "no {metric} with {labels:?}");
            bed.sleep(LOOK)?;
        }
    }
    Ok(())
}

fn conditions(bed: &mut Bed) -> anyhow::Result<()> {
    let culvert = Binaries::of_this_build()?.path("culvert");
    let status = |words: &[&str]| -> Result<String, WorldError> {
        let program = Program::new(&culvert)
            .args(["status", "--culvertd", "127.0.0.1:15014"])
            .args(words.iter().copied());
        // Some conditions are bad on purpose: exit code 1.
        let output = bed.control.run(&program)?;
        Ok(output.text())
    };
    println!("{}", status(&["named-rules"])?);
    let page: Value = serde_json::from_str(&status(&["-o", "json"])?)?;
    for (object, kind, value, reason) in [
        ("HTTPRoute shop/named-rules", "Accepted", "True", "Accepted"),
        (
            "HTTPRoute shop/named-rules",
            "ResolvedRefs",
            "True",
            "ResolvedRefs",
        ),
        (
            "HTTPRoute shop/missing",
            "ResolvedRefs",
            "False",
            "BackendNotFound",
        ),
        ("TCPRoute shop/tcp-route", "Accepted", "True", "Accepted"),
        (
            "GRPCRoute shop/grpc-matching",
            "Accepted",
            "True",
            "Accepted",
        ),
        (
            "AuthorizationPolicy shop/policy-deny",
            "istio.io/WaypointAccepted",
            "True",
            "Accepted",
        ),
        (
            "AuthorizationPolicy shop/policy-paths",
            "istio.io/WaypointAccepted",
            "False",
            "UnsupportedValue",
        ),
        ("Gateway shop/waypoint", "Accepted", "True", "Accepted"),
        ("Gateway shop/waypoint", "Programmed", "True", "Programmed"),
        (
            "Service shop/weights",
            "istio.io/WaypointBound",
            "True",
            "Bound",
        ),
    ] {
        let all = page["objects"][object].as_array();
        let all = all.with_context(|| format!("nothing is said of {object}"))?;
        let fits = |one: &&Value| {
            one["type"]
                .as_str()
                .is_some_and(|own| own.ends_with(kind.trim_start_matches("istio.io/")))
                && one["status"] == value
                && one["reason"] == reason
        };
        ensure!(
            all.iter().any(|one| fits(&one)),
            "{object}: no {kind} {value} {reason} in {all:?}"
        );
    }
    Ok(())
}
