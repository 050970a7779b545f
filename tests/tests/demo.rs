//! The demo's mesh, once per back end: every field of its report is a scenario here.

use std::process::ExitCode;

use anyhow::{Context, ensure};
use cli::demo::check::{self, plaintext, policy, traffic};
use cli::demo::live::Live;
use cli::demo::mesh::{WEB_V4, tunnelled};
use cli::demo::servers::HTTP_PORT;
use cli::demo::{BackEnd, Claim, Mesh, Silent};
use scenarios::{Scenario, run, scenario};
use world::stack::READY_WITHIN;
use world::{Leftovers, World};

fn main() -> ExitCode {
    let left = world::remove_leftovers(Leftovers::Abandoned);
    assert!(left.is_ok(), "{left:?}");
    let codes = ["io_uring", "epoll"].map(|io| run(|| Bed::up(io), scenarios(io)));
    let failed = codes.iter().any(|code| *code != ExitCode::SUCCESS);
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// The mesh, and what the run of requests found, which five scenarios look at.
struct Bed {
    mesh: Mesh,
    traffic: Option<BackEnd>,
}

impl Bed {
    fn up(io: &str) -> anyhow::Result<Self> {
        Ok(Bed {
            mesh: Mesh::up(World::new()?, io, &Silent)?,
            traffic: None,
        })
    }

    fn traffic(&mut self) -> anyhow::Result<&BackEnd> {
        if self.traffic.is_none() {
            self.traffic = Some(traffic::through_the_service(&self.mesh)?);
        }
        self.traffic.as_ref().context("just made")
    }
}

fn scenarios(io: &str) -> Vec<Scenario<Bed>> {
    let of_requests = [
        (
            "requests through the Service address are answered by both pods",
            Claim::ClientToService,
        ),
        (
            "both proxies log the SPIFFE IDs of both ends",
            Claim::Identities,
        ),
        (
            "the wire carries port 15008 only and no byte of the bodies",
            Claim::WireEncrypted,
        ),
        (
            "the server sees the client pod's IPv4 address",
            Claim::SourceIpKept,
        ),
        (
            "the server sees the client pod's IPv6 address",
            Claim::SourceIpKeptV6,
        ),
    ];
    let mut all: Vec<Scenario<Bed>> = of_requests
        .into_iter()
        .map(|(name, claim)| {
            scenario(format!("{io}: {name}"), move |bed: &mut Bed| {
                let found = bed.traffic()?;
                holds(found, claim)
            })
        })
        .collect();
    let mut on_mesh = |name: &str, check: fn(&Mesh) -> anyhow::Result<()>| {
        all.push(scenario(format!("{io}: {name}"), move |bed: &mut Bed| {
            check(&bed.mesh)
        }));
    };
    on_mesh(
        "servers outside the mesh and servers that speak first are reached",
        |mesh| holds(&traffic::passthrough(mesh)?, Claim::Passthrough),
    );
    on_mesh(
        "plaintext is accepted under PERMISSIVE and a capture can read it",
        |mesh| {
            let found = plaintext::permissive_accepts(mesh)?;
            holds(&found, Claim::PermissiveAcceptsPlaintext)?;
            holds(&found, Claim::WireEncrypted)
        },
    );
    on_mesh(
        "plaintext is refused under STRICT while the mesh goes on",
        |mesh| {
            holds(
                &plaintext::strict_refuses(mesh)?,
                Claim::StrictRefusesPlaintext,
            )
        },
    );
    on_mesh(
        "a pushed policy closes the live connections it denies, no other, and refuses",
        |mesh| {
            let found = policy::push_closes_and_denies(mesh)?;
            holds(&found, Claim::PolicyPushClosed)?;
            holds(&found, Claim::PolicyDenies)
        },
    );
    on_mesh(
        "a pod that is un-enrolled and enrolled again works all the time",
        leave_and_return,
    );
    on_mesh(
        "a bad manifest is refused and everything else goes on",
        bad_manifest,
    );
    on_mesh("no rule set of any pod or node has changed", |mesh| {
        holds(&check::no_iptables(mesh)?, Claim::NoIptables)
    });
    // Last: it takes nginx away.
    on_mesh(
        "an endpoint that refuses is passed over before a byte is lost",
        dead_endpoint,
    );
    all
}

fn holds(found: &BackEnd, claim: Claim) -> anyhow::Result<()> {
    ensure!(
        found.holds(claim),
        "{}: {}",
        claim.field(),
        found.seen(claim)
    );
    Ok(())
}

fn leave_and_return(mesh: &Mesh) -> anyhow::Result<()> {
    let pod = &mesh.pods.web_v1;
    let node = &mesh.nodes[0].node;
    let server = (pod.ipv4()?, HTTP_PORT);
    let netns = pod.place().netns().to_string_lossy().into_owned();
    let name = pod.name();
    let of_pod = [
        "--namespace",
        &name.namespace,
        "--name",
        &name.name,
        "--uid",
        pod.uid(),
    ];
    let command = |verb| {
        let words: Vec<&str> = [verb]
            .into_iter()
            .chain(of_pod)
            .chain(["--netns", netns.as_str()])
            .collect();
        mesh.control.agent_command(node, &words)
    };
    let reachable = || traffic::request(&mesh.pods.client, server, "m");
    let live = Live::open(&mesh.programs, &mesh.pods.client, "live-leave", pod.ipv4()?)?;

    command("unenrol")?;
    ensure!(
        !tunnelled(node).contains(&name.name),
        "still advertised as HBONE"
    );
    ensure!(
        live.goes_on(),
        "a connection from before was broken by un-enrolment"
    );
    ensure!(reachable()?.is_some(), "unreachable while un-enrolled");

    command("enrol")?;
    mesh.wait_known()?;
    ensure!(
        live.goes_on(),
        "a connection from before was broken by enrolment"
    );
    ensure!(reachable()?.is_some(), "unreachable after enrolment");
    Ok(())
}

fn bad_manifest(mesh: &Mesh) -> anyhow::Result<()> {
    mesh.manifests.put(
        "70-bad.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: [\n",
    )?;
    mesh.culvertd
        .wait_for_line(&["70-bad.yaml"], READY_WITHIN)?;
    let answer = traffic::request(&mesh.pods.client, (WEB_V4, 80), "m")?;
    mesh.manifests.remove("70-bad.yaml")?;
    ensure!(answer.is_some(), "the Service is gone");
    Ok(())
}

fn dead_endpoint(mesh: &Mesh) -> anyhow::Result<()> {
    let nginx = mesh
        .servers()
        .iter()
        .find(|server| server.name().starts_with("nginx"));
    nginx
        .context("nginx is among the servers")?
        .stop(READY_WITHIN)?;
    let answers = traffic::requests(&mesh.pods.client, (WEB_V4, 80), 20, "m")?;
    let served = answers
        .iter()
        .filter(|answer| answer.server == "web-v2")
        .count();
    ensure!(
        served == 20,
        "{served} of 20 requests were answered: {answers:?}"
    );
    Ok(())
}
