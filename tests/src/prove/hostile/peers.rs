//! Attacks on the tunnel's port of a pod: by a peer with a stolen certificate, and by strangers.

use cli::demo::access_log::Record;
use nix::sys::signal::Signal;
use world::Program;

use super::bed::{Bed, ECHO_PORT, POUR_PORT, at};
use super::{Attack, Plan, Run};
use crate::attack::end::CALM;
use crate::attack::server::POUR_PORTS;
use crate::attack::stall::OPENED_WITHIN;
use crate::attack::{End, PATIENCE, Report};

/// How much the proxy may grow while something comes that is ended at once, MiB.
const FLOOD_MIB: f64 = 48.0;
/// How much while streams stall that nobody reads, MiB: half of it is what their tunnels may hold
/// unsent, the rest what 10,000 connections cost.
const STALLED_MIB: f64 = 384.0;
/// Streams of them that are served at least: what one worker carries for one pod is 8,192, and all
/// their tunnels may come to the same worker.
const STALLED_SERVED: u64 = 8_000;
/// Streams of a stalled reader in each tunnel: as many as a server takes.
const STALLED_STREAMS: usize = 200;
/// A tunnel whose peer reads nothing is over after this: silence for 10 s, a PING, 20 s without
/// its answer, and some for a busy machine.
const STALLED_FOR_MS: u64 = 50_000;
/// First port of a scan.
const SCANNED: u16 = 20_000;

/// Every attack of this module with its name.
pub const ALL: &[(&str, Run)] = &[
    ("CONTINUATION without end", |b, p, n| {
        flood(b, p, (n, "continuation"))
    }),
    ("SETTINGS flood", |b, p, n| flood(b, p, (n, "settings"))),
    ("PING flood", |b, p, n| flood(b, p, (n, "ping"))),
    ("empty DATA flood", |b, p, n| flood(b, p, (n, "empty-data"))),
    ("WINDOW_UPDATE flood", |b, p, n| {
        flood(b, p, (n, "window-update"))
    }),
    ("rapid reset", |b, p, n| flood(b, p, (n, "rapid-reset"))),
    ("resets a moment later", |b, p, n| {
        flood(b, p, (n, "late-reset"))
    }),
    ("HPACK bombs", |b, p, n| flood(b, p, (n, "hpack-bomb"))),
    ("requests that no tunnel serves", |b, p, n| {
        flood(b, p, (n, "requests"))
    }),
    ("PRIORITY and unknown frames", |b, p, n| {
        flood(b, p, (n, "idle"))
    }),
    ("TLS key updates", |b, p, n| {
        alerted(b, p, (n, "key-update"))
    }),
    ("renegotiation", |b, p, n| {
        alerted(b, p, (n, "renegotiation"))
    }),
    ("1-byte TCP segments", |b, p, n| {
        trickle(b, p, (n, "segments"))
    }),
    ("1-byte TLS records", |b, p, n| {
        trickle(b, p, (n, "records"))
    }),
    ("1-byte frames", |b, p, n| trickle(b, p, (n, "frames"))),
    ("CONNECT to odd targets", odd_targets),
    ("scan of a pod's ports through a tunnel", scan),
    ("stalled readers", stalled),
    ("half handshakes", half_handshakes),
    ("garbage instead of TLS", |b, p, n| {
        wrong(b, p, (n, "garbage"))
    }),
    ("plaintext instead of TLS", |b, p, n| {
        wrong(b, p, (n, "http"))
    }),
    ("TLS 1.2", |b, p, n| wrong(b, p, (n, "tls12"))),
    ("TLS without a certificate", |b, p, n| {
        wrong(b, p, (n, "nobody"))
    }),
];

/// Tunnels full of one kind of frames. Each tunnel must be ended by the proxy; those whose last
/// words were read, with ENHANCE_YOUR_CALM.
fn flood(bed: &Bed, plan: &Plan, (name, kind): (&str, &str)) -> anyhow::Result<Attack> {
    let program = flooding(bed, plan, kind)?;
    let attack = || bed.run(bed.outlaw(), &program);
    bed.under(name, FLOOD_MIB, attack, |seen| {
        let mut wrong = ended(seen, &[CALM, End::Reset]);
        if seen.ends_of(&CALM) == 0 {
            wrong.push(format!(
                "nobody was told ENHANCE_YOUR_CALM: {:?}",
                seen.ends
            ));
        }
        wrong
    })
}

/// The same for what TLS itself ends.
fn alerted(bed: &Bed, plan: &Plan, (name, kind): (&str, &str)) -> anyhow::Result<Attack> {
    let program = flooding(bed, plan, kind)?;
    let attack = || bed.run(bed.outlaw(), &program);
    bed.under(name, FLOOD_MIB, attack, |seen| {
        let fits = |end: &String| end.starts_with("alert") || end == "closed" || end == "reset";
        let other: Vec<_> = seen.ends.keys().filter(|end| !fits(end)).collect();
        let mut wrong = tunnels_were_made(seen);
        if !other.is_empty() {
            wrong.push(format!("tunnels ended with {other:?}"));
        }
        wrong
    })
}

fn flooding(bed: &Bed, plan: &Plan, kind: &str) -> anyhow::Result<Program> {
    let millis = plan.flood.as_millis().to_string();
    let lanes = plan.lanes.to_string();
    Ok(bed.as_peer("flood")?.args([
        "--kind",
        kind,
        "--echo",
        &bed.echo()?.to_string(),
        "--lanes",
        &lanes,
        "--millis",
        &millis,
    ]))
}

/// Small pieces are honest: every byte must come back, and nothing may grow.
fn trickle(bed: &Bed, plan: &Plan, (name, kind): (&str, &str)) -> anyhow::Result<Attack> {
    let millis = plan.flood.as_millis().to_string();
    let echo = bed.echo()?.to_string();
    let words = ["--kind", kind, "--echo", &echo, "--millis", &millis];
    let program = bed.as_peer("trickle")?.args(words);
    let attack = || bed.run(bed.outlaw(), &program);
    bed.under(name, FLOOD_MIB, attack, |seen| {
        let mut wrong = ended(seen, &[End::Other("left".to_owned())]);
        if seen.sent == 0 {
            wrong.push("no byte came back".to_owned());
        }
        wrong
    })
}

/// Everything that is not the pod's own port of an application: each is refused, none is opened.
fn odd_targets(bed: &Bed, _: &Plan, name: &str) -> anyhow::Result<Attack> {
    let pod = bed.victim();
    let (v4, v6) = (pod.ipv4()?, pod.ipv6()?);
    let (own, other) = (v4.to_string(), bed.neighbour.ipv4()?);
    let node = bed.node().node.place();
    let node_ip = node.text(&Program::line("hostname -I")).unwrap_or_default();
    let node_ip = node_ip.split_whitespace().next().unwrap_or("172.30.2.2");
    let mut odd = vec![
        format!("{other}:{ECHO_PORT}"),
        format!("{node_ip}:15000"),
        format!("[{v6}]:{ECHO_PORT}"),
        "169.254.169.254:80".to_owned(),
        "0.0.0.0:9300".to_owned(),
        "localhost:9300".to_owned(),
        "web.demo.svc.cluster.local:80".to_owned(),
        format!("{own}:9300@{own}:9300"),
        format!("::ffff:{own}:9300"),
        "a".repeat(4000),
        "%00".to_owned(),
    ];
    for ip in ["127.0.0.1", "[::1]", own.as_str()] {
        let ports = [0, 15000, 15001, 15006, 15008, 15020, 15021, 15053];
        odd.extend(ports.map(|port| format!("{ip}:{port}")));
    }
    let program = bed.as_peer("ask")?.args(vec![odd.clone(); 4].concat());
    let attack = || bed.run(bed.outlaw(), &program);
    let count = 4 * odd.len() as u64;
    bed.under(name, FLOOD_MIB, attack, |seen| {
        answered(seen, count, &["400", "503"])
    })
}

/// Every closed port of the victim, by CONNECT: each is answered 503.
fn scan(bed: &Bed, plan: &Plan, name: &str) -> anyhow::Result<Attack> {
    let ports = format!(
        "{}:{SCANNED}-{}",
        bed.victim().ipv4()?,
        SCANNED + plan.ports - 1
    );
    let program = bed.as_peer("ask")?.arg(ports);
    let attack = || bed.run(bed.outlaw(), &program);
    bed.under(name, FLOOD_MIB, attack, |seen| {
        answered(seen, plan.ports.into(), &["503"])
    })
}

/// Streams to a server that sends all it can, and nobody reads.
fn stalled(bed: &Bed, plan: &Plan, name: &str) -> anyhow::Result<Attack> {
    let ends = if plan.stalled_to_the_end {
        STALLED_FOR_MS
    } else {
        0
    };
    let victim = bed.victim().ipv4()?;
    let targets = (POUR_PORT..POUR_PORT + POUR_PORTS)
        .flat_map(|port| ["--authority".to_owned(), at(victim, port).to_string()]);
    let program = bed
        .as_peer("stall")?
        .args(["--tunnels", &plan.stalled.to_string()])
        .args(["--streams", &STALLED_STREAMS.to_string()])
        .args(["--ends-within", &ends.to_string()])
        .args(targets);
    let mark = bed.mark();
    let attack = || {
        let attacker = bed.start(bed.outlaw(), &program)?;
        attacker.wait_for_line(&["holding"], OPENED_WITHIN + PATIENCE)?;
        if !plan.stalled_to_the_end {
            bed.mesh.world.interrupt().sleep(plan.flood * 2)?;
            attacker.signal(Signal::SIGTERM)?;
        }
        bed.result(&attacker)
    };
    bed.under(name, STALLED_MIB, attack, |seen| {
        let mut wrong = answered(
            seen,
            (plan.stalled * STALLED_STREAMS) as u64,
            &["200", "503"],
        );
        let served = seen.answers.get("200").copied().unwrap_or(0);
        if served < STALLED_SERVED {
            wrong.push(format!("only {served} are served: {:?}", seen.answers));
        }
        let refused = seen.answers.contains_key("503");
        let said = |record: &Record| record.get("error").contains("connections of this pod");
        if refused && bed.records(mark, 1, said).is_empty() {
            wrong.push("the log does not say why streams were refused".to_owned());
        }
        if plan.stalled_to_the_end && seen.ends_of(&End::Open) > 0 {
            wrong.push(format!(
                "tunnels that nobody reads live on: {:?}",
                seen.ends
            ));
        }
        wrong
    })
}

/// Thousands that connect and do not finish, of three sorts at the same time: each is ended.
fn half_handshakes(bed: &Bed, plan: &Plan, name: &str) -> anyhow::Result<Attack> {
    let (target, count) = (bed.target()?.to_string(), plan.half.to_string());
    let attack = || {
        let mut crowds = Vec::new();
        for kind in ["silent", "half", "drip"] {
            let words = ["crowd", "--to", &target, "--kind", kind, "--count", &count];
            crowds.push(bed.start(bed.outlaw(), &bed.attacker().args(words))?);
        }
        let mut seen = Report::default();
        for crowd in &crowds {
            seen.add(bed.result(crowd)?);
        }
        Ok(seen)
    };
    bed.under(name, FLOOD_MIB, attack, |seen| {
        all_ended(seen, 3 * plan.half)
    })
}

/// Handshakes that cannot come through: each is ended.
fn wrong(bed: &Bed, plan: &Plan, (name, kind): (&str, &str)) -> anyhow::Result<Attack> {
    let (target, count) = (bed.target()?.to_string(), plan.wrong.to_string());
    let words = ["crowd", "--to", &target, "--kind", kind, "--count", &count];
    let program = bed.attacker().args(words);
    let attack = || bed.run(bed.outlaw(), &program);
    bed.under(name, FLOOD_MIB, attack, |seen| all_ended(seen, plan.wrong))
}

fn tunnels_were_made(seen: &Report) -> Vec<String> {
    if seen.tunnels == 0 {
        return vec![format!("no tunnel was made: {:?}", seen.answers)];
    }
    Vec::new()
}

/// There were tunnels, and all of them ended in one of these ways.
fn ended(seen: &Report, ways: &[End]) -> Vec<String> {
    let mut wrong = tunnels_were_made(seen);
    let so: u64 = ways.iter().map(|way| seen.ends_of(way)).sum();
    if so != seen.tunnels {
        wrong.push(format!("{so} of {} tunnels: {:?}", seen.tunnels, seen.ends));
    }
    wrong
}

/// All requests were answered, each in one of these ways.
fn answered(seen: &Report, count: u64, ways: &[&str]) -> Vec<String> {
    let so = ways.iter().filter_map(|way| seen.answers.get(*way));
    let so: u64 = so.sum();
    if so == count {
        return Vec::new();
    }
    vec![format!(
        "{so} of {count} were answered with {ways:?}: {:?}",
        seen.answers
    )]
}

/// All connections were ended, by the far side.
fn all_ended(seen: &Report, count: u64) -> Vec<String> {
    let others = [End::Open, End::Refused].map(|end| seen.ends_of(&end));
    let ended = seen.ends.values().sum::<u64>() - others.iter().sum::<u64>();
    if ended == count {
        return Vec::new();
    }
    vec![format!("{ended} of {count} were ended: {:?}", seen.ends)]
}
