//! Messages of the control plane that are damaged on their way, wrong in themselves, or no
//! messages: each is refused with its reason, and what was good before stays in force.

use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use prost::Message;
use prost_types::Any;
use proto::wire::discovery::{DeltaDiscoveryResponse, Resource};
use proto::wire::security::{Authorization, StringMatch, string_match::MatchType};
use proto::{ADDRESS_TYPE_URL, AUTHORIZATION_TYPE_URL};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use scenarios::faults::{Bed, Start};
use scenarios::{Scenario, scenario};

use super::between::Between;
use super::gone::{FOUND_WITHIN, Traffic};
use super::liar::{Liar, Lie};
use super::rule;
use super::wire::{Mode, Wire};

/// The policy that keeps the intruder out, as discovery names it.
const NO_INTRUDER: &str = "demo/no-intruder";
/// Damaged copies of each resource.
const DAMAGES: usize = 12;
/// Of the damages.
const SEED: u64 = 20_261_123;
const XDS_REJECTED: &str = "istio_xds_rejected_resources_total";
const XDS_ENDS: &str = "istio_xds_connection_terminations_total";

pub fn scenarios() -> Vec<Scenario<Bed>> {
    vec![
        scenario(
            "good resources among bad ones are used, each bad one is named, its last good stays",
            good_among_bad,
        ),
        scenario(
            "a response of a type nobody asked for, a replay and unknown removals change nothing",
            strange_responses,
        ),
        scenario(
            "no damage to a resource stops the proxy, and it is whole when good ones come again",
            damaged,
        ),
        scenario(
            "a control plane that answers what is no gRPC message is left, and the mesh goes on",
            no_messages,
        ),
        scenario(
            "a stream that is cut, half closed or damaged is made anew, the mesh goes on meanwhile",
            cut_in_the_middle,
        ),
    ]
}

/// Puts a control plane of the scenario between node-1's proxy and culvertd, while `work` runs.
pub fn with_between(
    bed: &mut Bed,
    work: impl FnOnce(&mut Bed, &Between) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let between = Between::start(bed)?;
    bed.end_ztunnel(0, Signal::SIGTERM)?;
    bed.start_ztunnel(0, &between.door.leads_here())?;
    work(bed, &between)?;
    bed.end_ztunnel(0, Signal::SIGTERM)?;
    bed.start_ztunnel(0, &Start::default())
}

/// The same, between node-2's proxy, where policies are enforced.
fn at_the_server(
    bed: &mut Bed,
    work: impl FnOnce(&mut Bed, &Between) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let between = Between::start(bed)?;
    bed.end_ztunnel(1, Signal::SIGTERM)?;
    bed.start_ztunnel(1, &between.door.leads_here())?;
    bed.until_right(FOUND_WITHIN)?;
    work(bed, &between)?;
    bed.end_ztunnel(1, Signal::SIGTERM)?;
    bed.start_ztunnel(1, &Start::default())?;
    bed.until_right(FOUND_WITHIN)
}

fn response(type_url: &str, resources: Vec<Resource>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        resources,
        ..DeltaDiscoveryResponse::default()
    }
}

fn named(name: &str, type_url: &str, value: Vec<u8>) -> Resource {
    Resource {
        name: name.to_owned(),
        version: "scenario".to_owned(),
        resource: Some(Any {
            type_url: type_url.to_owned(),
            value,
        }),
        ..Resource::default()
    }
}

fn content(resource: &Resource) -> Vec<u8> {
    let any = resource.resource.as_ref();
    any.map(|any| any.value.clone()).unwrap_or_default()
}

/// The policy against the intruder, made one against the client under another name.
fn no_client(no_intruder: &Resource) -> anyhow::Result<Resource> {
    let mut policy = Authorization::decode(&*content(no_intruder))?;
    policy.name = "no-client".to_owned();
    let clauses = policy.rules.iter_mut().flat_map(|rule| &mut rule.clauses);
    for found in clauses.flat_map(|clause| &mut clause.matches) {
        for principal in &mut found.principals {
            let client = "cluster.local/ns/demo/sa/client".to_owned();
            *principal = StringMatch {
                match_type: Some(MatchType::Exact(client)),
            };
        }
    }
    policy.scope = proto::wire::security::Scope::Namespace.into();
    Ok(named(
        "demo/no-client",
        AUTHORIZATION_TYPE_URL,
        policy.encode_to_vec(),
    ))
}

fn good_among_bad(bed: &mut Bed) -> anyhow::Result<()> {
    at_the_server(bed, |bed, between| {
        let rejected = bed.metric(1, XDS_REJECTED, &[])?;
        let good = between.resource(AUTHORIZATION_TYPE_URL, NO_INTRUDER)?;
        let mut cut = content(&good);
        cut.truncate(cut.len() / 2);
        let no_name = Resource {
            name: String::new(),
            ..good.clone()
        };
        let nothing = Resource {
            resource: None,
            ..named("demo/nothing", AUTHORIZATION_TYPE_URL, Vec::new())
        };
        let wrong_type = named("demo/wrong-type", ADDRESS_TYPE_URL, content(&good));
        let resources = vec![
            named(NO_INTRUDER, AUTHORIZATION_TYPE_URL, cut),
            named("demo/garbage", AUTHORIZATION_TYPE_URL, vec![0xff; 40]),
            no_client(&good)?,
            no_name,
            nothing,
            wrong_type,
        ];
        let answer = between.say(response(AUTHORIZATION_TYPE_URL, resources))?;
        let complaint = answer.err().context("all of it was acknowledged")?;
        for name in ["no-intruder", "garbage", "nothing", "wrong-type"] {
            ensure!(complaint.contains(name), "{name} is not named: {complaint}");
        }
        ensure!(
            !complaint.contains("no-client"),
            "the good one is named: {complaint}"
        );
        // The good one is in force, and the one that came damaged is as it was.
        let mark = bed.mark(1);
        bed.refused(&bed.client, &["401"])?;
        bed.log_line(&mark, &["demo/no-client"], FOUND_WITHIN)?;
        let mark = bed.mark(1);
        bed.refused(&bed.intruder, &["401"])?;
        bed.log_line(&mark, &["denied"], FOUND_WITHIN)?;
        let now = bed.metric(1, XDS_REJECTED, &[])?;
        ensure!(now >= rejected + 4.0, "counted: {rejected} then {now}");
        ensure!(bed.readiness(1).0 == 200, "not ready any more");
        let gone = DeltaDiscoveryResponse {
            removed_resources: vec!["demo/no-client".to_owned()],
            ..response(AUTHORIZATION_TYPE_URL, Vec::new())
        };
        let answer = between.say(gone)?;
        ensure!(answer.is_ok(), "the removal: {answer:?}");
        bed.right()
    })
}

fn strange_responses(bed: &mut Bed) -> anyhow::Result<()> {
    with_between(bed, |bed, between| {
        let good = between.resource(AUTHORIZATION_TYPE_URL, NO_INTRUDER)?;
        let foreign = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
        let resources = vec![named("a", foreign, content(&good))];
        let answer = between.say(response(foreign, resources))?;
        let complaint = answer.err().context("a foreign type was acknowledged")?;
        ensure!(complaint.contains("not asked for"), "{complaint}");
        // The same words in the same envelope, again and again.
        let said = response(AUTHORIZATION_TYPE_URL, vec![good]);
        ensure!(between.say(said.clone())?.is_ok(), "the first time");
        for _ in 0..3 {
            ensure!(between.replay(said.clone())?.is_ok(), "a replay");
        }
        let removed = ["", "demo/never-was", "../../etc/passwd", "*"];
        for type_url in [ADDRESS_TYPE_URL, AUTHORIZATION_TYPE_URL] {
            let gone = DeltaDiscoveryResponse {
                removed_resources: removed.map(str::to_owned).to_vec(),
                ..response(type_url, Vec::new())
            };
            ensure!(between.say(gone)?.is_ok(), "removals of {type_url}");
        }
        bed.right()
    })
}

fn damaged(bed: &mut Bed) -> anyhow::Result<()> {
    with_between(bed, |bed, between| {
        let mut random = SmallRng::seed_from_u64(SEED);
        let mut refused = 0;
        let mut good = Vec::new();
        for type_url in [ADDRESS_TYPE_URL, AUTHORIZATION_TYPE_URL] {
            let mut all = Vec::new();
            for name in between.names(type_url) {
                let resource = between.resource(type_url, &name)?;
                for _ in 0..DAMAGES {
                    let bytes = damage(content(&resource), &mut random);
                    let bad = named(&name, type_url, bytes);
                    let answer = between.say(response(type_url, vec![bad]))?;
                    refused += usize::from(answer.is_err());
                }
                all.push(resource);
            }
            good.push((type_url, all));
        }
        ensure!(refused > 0, "the damages were none");
        for (type_url, all) in good {
            let answer = between.say(response(type_url, all))?;
            ensure!(answer.is_ok(), "good ones of {type_url}: {answer:?}");
        }
        ensure!(bed.readiness(0).0 == 200, "not ready any more");
        bed.until_right(FOUND_WITHIN)
    })
}

/// A few bytes changed, cut off, or put in.
fn damage(mut bytes: Vec<u8>, random: &mut SmallRng) -> Vec<u8> {
    let at = random.random_range(0..bytes.len().max(1));
    match random.random_range(0..4) {
        0 => bytes.truncate(at),
        1 => bytes.insert(at.min(bytes.len()), random.random()),
        2 => {
            let end = (at + 8).min(bytes.len());
            random.fill(&mut bytes[at..end]);
        }
        _ => {
            for byte in bytes.iter_mut().skip(at).take(1) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
    }
    bytes
}

fn no_messages(bed: &mut Bed) -> anyhow::Result<()> {
    let (wire, liar) = (Wire::start(bed, Mode::Through)?, Liar::start(bed)?);
    bed.end_ztunnel(1, Signal::SIGTERM)?;
    bed.start_ztunnel(1, &wire.leads_here())?;
    bed.until_right(FOUND_WITHIN)?;
    let traffic = Traffic::start(bed)?;
    let (mark, ends) = (bed.mark(1), bed.metric(1, XDS_ENDS, &[])?);
    wire.lead_to(liar.door.address);
    bed.eventually("every lie to be told", FOUND_WITHIN, || {
        liar.told() >= Lie::ALL.len()
    })?;
    bed.right()?;
    ensure!(bed.readiness(1).0 == 200, "not ready any more");
    bed.eventually("as many streams to be given up", FOUND_WITHIN, || {
        bed.metric(1, XDS_ENDS, &[])
            .is_ok_and(|now| now - ends >= 7.0)
    })?;
    bed.log_line(&mark, &["discovery is not connected", "the limit is"], NOW)?;
    wire.lead_to_culvertd();
    rule::is_followed(bed)?;
    traffic.finish(bed)?;
    bed.end_ztunnel(1, Signal::SIGTERM)?;
    bed.start_ztunnel(1, &Start::default())?;
    bed.until_right(FOUND_WITHIN)
}

/// What was logged before is in the file after this.
const NOW: Duration = Duration::from_secs(60);

fn cut_in_the_middle(bed: &mut Bed) -> anyhow::Result<()> {
    let wire = Wire::start(bed, Mode::Through)?;
    bed.end_ztunnel(1, Signal::SIGTERM)?;
    bed.start_ztunnel(1, &wire.leads_here())?;
    bed.until_right(FOUND_WITHIN)?;
    let traffic = Traffic::start(bed)?;
    for mode in [Mode::Reset, Mode::HalfClose, Mode::Flip] {
        let broken = || -> anyhow::Result<()> {
            let mark = bed.mark(1);
            wire.set(mode);
            // Something to say, so that something is there to be damaged.
            rule::take_away(bed)?;
            bed.log_line(&mark, &["discovery is not connected"], FOUND_WITHIN)?;
            bed.right()?;
            wire.set(Mode::Through);
            rule::is_away(bed)?;
            rule::put_back(bed)
        };
        broken().with_context(|| format!("{mode:?}"))?;
    }
    traffic.finish(bed)?;
    bed.end_ztunnel(1, Signal::SIGTERM)?;
    bed.start_ztunnel(1, &Start::default())?;
    bed.until_right(FOUND_WITHIN)
}
