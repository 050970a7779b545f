//! A pod that the mesh does not capture, speaking plaintext to pods that it does.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use world::World;
use world::capture::Capture;

use crate::demo::check::traffic::{Answer, random_marker, request, requests};
use crate::demo::check::wire::readable;
use crate::demo::manifest::STRICT;
use crate::demo::mesh::WEB_V4;
use crate::demo::servers::HTTP_PORT;
use crate::demo::{BackEnd, Claim, DemoError, Mesh};

/// A change of a manifest is effective on both nodes within this: culvertd watches the directory,
/// the proxies are pushed to.
const EFFECTIVE_WITHIN: Duration = Duration::from_secs(60);
/// The manifest's file while STRICT is on.
const STRICT_FILE: &str = "50-strict.yaml";
/// Requests of captured clients while STRICT is on.
const MESH_REQUESTS: usize = 10;

/// `permissive_accepts_plaintext`: the legacy pod reaches both web pods, with its own address. A
/// capture of the same link as before proves that the method of `wire_encrypted` sees plaintext.
pub fn permissive_accepts(mesh: &Mesh) -> Result<BackEnd, DemoError> {
    let marker = random_marker();
    let file = mesh.world.directory().join("plaintext.pcap");
    let capture = Capture::start(mesh.world.router(), &World::link_to("node-2"), &file)?;
    let mut accepted = 0;
    let own = mesh.pods.legacy.ipv4()?.to_string();
    let targets = web_addresses(mesh)?;
    for address in targets {
        let answer = request(&mesh.pods.legacy, (address, HTTP_PORT), &marker)?;
        accepted += usize::from(answer.is_some_and(|answer: Answer| answer.client == own));
    }
    let readable = readable(&capture.finish()?, &marker);
    let mut found = BackEnd::default();
    found.find(
        Claim::PermissiveAcceptsPlaintext,
        accepted == targets.len(),
        format!(
            "legacy reached {accepted} of {} web pods, its address kept",
            targets.len()
        ),
    );
    found.find(
        Claim::WireEncrypted,
        readable,
        if readable {
            "control: legacy's marker was readable"
        } else {
            "control failed: the capture did not see legacy's plaintext marker"
        },
    );
    Ok(found)
}

/// `strict_refuses_plaintext`: under STRICT the legacy pod is refused by both web pods while the
/// client goes on; afterwards it is accepted again.
pub fn strict_refuses(mesh: &Mesh) -> Result<BackEnd, DemoError> {
    let start = Instant::now();
    mesh.manifests.put(STRICT_FILE, STRICT)?;
    let refused = wait_legacy(mesh, false)?;
    let effective = start.elapsed();
    let marker = random_marker();
    let answers = requests(&mesh.pods.client, (WEB_V4, 80), MESH_REQUESTS, &marker)?;
    let client_ok = answers.iter().filter(|answer| answer.status == 200).count();
    mesh.manifests.remove(STRICT_FILE)?;
    let again = wait_legacy(mesh, true)?;
    let mut found = BackEnd::default();
    let seen = match (refused, again) {
        (true, true) => format!(
            "legacy refused by both web pods, {client_ok} of {MESH_REQUESTS} requests of the \
             client went on"
        ),
        (false, _) => "legacy was still accepted".to_owned(),
        (true, false) => "legacy was still refused after STRICT was withdrawn".to_owned(),
    };
    let ok = refused && again && client_ok == MESH_REQUESTS;
    found.find(Claim::StrictRefusesPlaintext, ok, seen);
    found.measure(
        "strict_effective_after",
        effective.as_secs_f64() * 1000.0,
        "ms",
    );
    Ok(found)
}

/// Waits until the legacy pod is accepted (or refused) by both web pods; whether it came so.
fn wait_legacy(mesh: &Mesh, accepted: bool) -> Result<bool, DemoError> {
    let start = Instant::now();
    loop {
        let mut as_wanted = true;
        for address in web_addresses(mesh)? {
            let answer = request(&mesh.pods.legacy, (address, HTTP_PORT), "plain")?;
            as_wanted &= answer.is_some() == accepted;
        }
        if as_wanted || start.elapsed() > EFFECTIVE_WITHIN {
            return Ok(as_wanted);
        }
    }
}

fn web_addresses(mesh: &Mesh) -> Result<[IpAddr; 2], DemoError> {
    Ok([mesh.pods.web_v1.ipv4()?, mesh.pods.web_v2.ipv4()?])
}
