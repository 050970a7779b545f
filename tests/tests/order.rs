//! Parts that start in another order than they should, and parts that are not there.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use cli::demo::live::exchange;
use cli::demo::manifest::Manifests;
use cli::demo::servers::Programs;
use scenarios::{run, scenario};
use world::stack::{Binaries, ControlPlane, READY_WITHIN, get, wait_ztunnel};
use world::{CniError, Node, Pod, Process, World};

/// How long the plugin waits for its agent here: long enough to see it block.
const PLUGIN_TIMEOUT_S: u64 = 3;

fn main() -> ExitCode {
    run(
        Bed::up,
        vec![
            scenario(
                "without an agent ADD fails with a CNI error that names its socket",
                no_agent,
            ),
            scenario(
                "a ztunnel without a control plane waits and says so",
                no_control_plane,
            ),
            scenario(
                "without a control plane ADD blocks and then fails with a CNI error",
                add_waits,
            ),
            scenario(
                "when the control plane comes the node becomes ready by itself",
                it_comes,
            ),
            scenario(
                "a pod that was refused before is added and reached",
                add_again,
            ),
            scenario(
                "without a ztunnel ADD fails with a CNI error that says so",
                no_ztunnel,
            ),
        ],
    )
}

struct Bed {
    // In the order of dropping.
    servers: Vec<Process>,
    culvertd: Option<Process>,
    agent: Option<Process>,
    ztunnel: Option<Process>,
    pods: Vec<Pod>,
    control: ControlPlane,
    node: Node,
    world: World,
}

impl Bed {
    fn up() -> anyhow::Result<Self> {
        let mut world = World::new()?;
        let binaries = Binaries::of_this_build()?;
        let control = ControlPlane::prepare(&world.host("control")?, &binaries)?;
        let node = world.node("node-1")?;
        control.install_chain(&node)?;
        shorten_timeout(&node)?;
        Ok(Bed {
            servers: Vec::new(),
            culvertd: None,
            agent: None,
            ztunnel: None,
            pods: Vec::new(),
            control,
            node,
            world,
        })
    }

    fn refused(&self, name: &str) -> anyhow::Result<String> {
        let pod = self.node.sandbox(name)?;
        let added = pod.add();
        // Frees the name, and shows that DEL succeeds whoever is missing.
        pod.delete()?;
        match added {
            Err(error @ CniError::Refused { code: 11, .. }) => Ok(error.to_string()),
            Err(other) => Err(other).context("not a CNI error 11, `try again later`"),
            Ok(()) => anyhow::bail!("ADD succeeded: the pod runs unprotected"),
        }
    }
}

/// Sets `timeout_s` of our plugin in the chain, as an administrator would.
fn shorten_timeout(node: &Node) -> anyhow::Result<()> {
    for entry in fs::read_dir(node.runtime()?.conf_dir)? {
        let path = entry?.path();
        if path
            .extension()
            .is_none_or(|extension| extension != "conflist")
        {
            continue;
        }
        let mut list: serde_json::Value = serde_json::from_slice(&fs::read(&path)?)?;
        let plugins = list["plugins"]
            .as_array_mut()
            .context("a conflist has plugins")?;
        let ours = plugins
            .iter_mut()
            .find(|plugin| plugin["type"] == "culvert-cni");
        ours.context("culvert-cni is in the chain")?["timeout_s"] = PLUGIN_TIMEOUT_S.into();
        fs::write(&path, serde_json::to_vec_pretty(&list)?)?;
    }
    Ok(())
}

fn no_agent(bed: &mut Bed) -> anyhow::Result<()> {
    let error = bed.refused("demo/web-v1")?;
    ensure!(
        error.contains("cni.sock"),
        "the socket is not named: {error}"
    );
    Ok(())
}

fn no_control_plane(bed: &mut Bed) -> anyhow::Result<()> {
    bed.agent = Some(bed.control.start_agent(&bed.node)?);
    let ztunnel = bed.control.start_ztunnel(&bed.node, "auto", &[])?;
    let address = bed.control.host().ipv4().to_string();
    ztunnel.wait_for_line(&[&address], READY_WITHIN)?;
    ensure!(ztunnel.ended().is_none(), "ztunnel gave up");
    let ready = get(bed.node.place(), "http://127.0.0.1:15021/healthz/ready");
    ensure!(ready.is_err(), "ready without a control plane");
    bed.ztunnel = Some(ztunnel);
    Ok(())
}

fn add_waits(bed: &mut Bed) -> anyhow::Result<()> {
    let start = std::time::Instant::now();
    let error = bed.refused("demo/client")?;
    ensure!(
        start.elapsed() >= Duration::from_secs(1),
        "it did not wait: {error}"
    );
    ensure!(
        error.contains("control plane"),
        "the control plane is not named: {error}"
    );
    Ok(())
}

fn it_comes(bed: &mut Bed) -> anyhow::Result<()> {
    let manifests = Manifests::copy_to(bed.world.directory().join("manifests"))?;
    bed.culvertd = Some(bed.control.serve(manifests.directory(), &[])?);
    let ztunnel = bed
        .ztunnel
        .as_ref()
        .context("a scenario before this one starts it")?;
    wait_ztunnel(&bed.node, ztunnel)?;
    Ok(())
}

fn add_again(bed: &mut Bed) -> anyhow::Result<()> {
    let server = bed.node.pod("demo/web-v1")?;
    let client = bed.node.pod("demo/client")?;
    let programs = Programs::write_to(bed.world.directory())?;
    bed.servers.push(programs.start_echo(server.place())?);
    let address = server.ipv4()?;
    bed.world
        .interrupt()
        .wait_for("the pods to reach each other", READY_WITHIN, || {
            Ok(exchange(&programs, &client, address)?.0.then_some(()))
        })?;
    bed.pods.extend([server, client]);
    Ok(())
}

fn no_ztunnel(bed: &mut Bed) -> anyhow::Result<()> {
    let ztunnel = bed
        .ztunnel
        .take()
        .context("a scenario before this one starts it")?;
    let status = ztunnel.stop(READY_WITHIN)?;
    ensure!(
        status.success(),
        "ztunnel ended with {status} after SIGTERM"
    );
    let error = bed.refused("demo/intruder")?;
    ensure!(error.contains("ztunnel"), "ztunnel is not named: {error}");
    Ok(())
}
