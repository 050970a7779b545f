//! SIGKILL to an agent in the middle of an ADD of the real chain.

use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use world::stack::{get, wait_agent};
use world::{CniError, Pod, Process};

use super::ground::{Ground, SEED, Traces};
use super::steps::Steps;

/// ADDs that are cut at a moment that the seed chooses.
const MOMENTS: usize = 3;
/// The log of the steps and nothing else.
const STEPS_ONLY: &str = "off,cni_plugin::agent::enrol=debug";
/// A killed process is gone within this, on a machine that is busy with other things too.
const GONE_WITHIN: Duration = Duration::from_secs(60);
/// A CNI error of an agent that cannot answer: try again later.
const TRY_LATER: u64 = 11;
/// The agent's readiness.
const READY: &str = "http://127.0.0.1:15010/healthz/ready";

/// Cuts after each step that an uncut ADD was heard to do.
pub fn at_each_step(ground: &mut Ground) -> anyhow::Result<()> {
    ground.bed.kill_agent(0)?;
    let mut steps = start(ground)?;
    let order = whole(ground, &mut steps)?;
    ensure!(order.len() >= 10, "an ADD has the steps {order:?}");
    let mut captured = Vec::new();
    for (index, step) in order.iter().enumerate() {
        let pod = ground.spare()?;
        let cut = cut_after(ground, &mut steps, &pod, index);
        // A runtime calls DEL after a failed ADD, sooner or later.
        let sooner = index % 2 == 1;
        if sooner {
            pod.delete()?;
        }
        cut.with_context(|| format!("after {step}"))?;
        if index + 1 == order.len() {
            // Its interface goes and its namespace stays, as between this and the runtime's next
            // step. No agent hears of it, and the next one finds the pod recorded as enrolled.
            let runtime = ground.bed.mesh.nodes[0].node.runtime()?;
            runtime.del(pod.as_sandbox(), None)?;
        }
        steps = start(ground)?;
        captured.push(judge(ground, &mut steps, &pod).with_context(|| format!("after {step}"))?);
        if !sooner {
            delete(&mut steps, &pod)?;
        }
        ensure!(
            ground.left(&pod)? == Traces::default(),
            "after {step}, and DEL"
        );
        // The other repeated ADDs are the next ones to be cut, after all steps of this one.
        if index + 1 == order.len() || index % 4 == 0 {
            let again = whole(ground, &mut steps).with_context(|| format!("after {step}"))?;
            ensure!(again == order, "after {step} a repeated ADD does {again:?}");
        }
    }
    ground.bed.kill_agent(0)?;
    ground.bed.start_agent(0)?;
    // Only what was recorded as enrolled is kept.
    let last = captured.pop();
    ensure!(
        last == Some(true) && !captured.contains(&true),
        "{captured:?}, {last:?}"
    );
    println!("    {} steps: {order:?}", order.len());
    ground.works()
}

/// Cuts at moments of an ADD that the seed chooses, and once while the proxy holds its answer.
pub fn at_random_moments(ground: &mut Ground) -> anyhow::Result<()> {
    let mut random = SmallRng::seed_from_u64(SEED);
    let mut took = Duration::MAX;
    for _ in 0..2 {
        let pod = ground.spare()?;
        pod.add()?;
        took = took.min(pod.add_took());
        pod.delete()?;
    }
    let mut answers = Vec::new();
    for _ in 0..MOMENTS {
        let after = took.mul_f64(random.random_range(0.2..1.0));
        let pod = ground.spare()?;
        let answer = thread::scope(|scope| {
            let adding = scope.spawn(|| pod.add());
            ground.bed.sleep(after)?;
            ground.bed.kill_agent(0)?;
            anyhow::Ok(adding.join().ok().context("ADD panicked")?)
        })?;
        settle(ground, &pod, answer.is_ok()).with_context(|| format!("killed after {after:?}"))?;
        answers.push((after, answer.is_ok()));
    }
    let pod = ground.spare()?;
    let proxy = &ground.bed.mesh.nodes[0].ztunnel;
    proxy.signal(Signal::SIGSTOP)?;
    let answer = thread::scope(|scope| {
        let adding = scope.spawn(|| pod.add());
        ground.eventually("the ADD waits for the proxy", |ground| {
            Ok(ground.phase(&pod)? == "enrolling" && ground.traces(&pod)?.pinned)
        })?;
        ground.bed.kill_agent(0)?;
        anyhow::Ok(adding.join().ok().context("ADD panicked")?)
    });
    ground.bed.mesh.nodes[0].ztunnel.signal(Signal::SIGCONT)?;
    ensure!(answer?.is_err(), "ADD succeeded without the proxy's answer");
    settle(ground, &pod, false).context("killed while the proxy held its answer")?;
    println!("    ADD takes {took:?}; killed after, and whether ADD succeeded: {answers:?}");
    ground.works()
}

/// After the next start the pod is whole (when its ADD succeeded, it must be) or not there; then
/// an ADD works, and nothing is left.
fn settle(ground: &mut Ground, pod: &Pod, added: bool) -> anyhow::Result<()> {
    ground.bed.start_agent(0)?;
    let whole = ground.phase(pod)? == "enrolled";
    ensure!(whole || !added, "ADD succeeded and the pod is not captured");
    let captured = !whole || ground.captured(pod)?;
    pod.delete()?;
    ensure!(captured, "enrolled, and not captured");
    ground.adds()
}

/// An agent on node-1 whose steps are heard.
fn start(ground: &mut Ground) -> anyhow::Result<Steps> {
    let part = &mut ground.bed.mesh.nodes[0];
    let mut steps = Steps::make(&part.node.directory().join("steps"))?;
    let program = ground.bed.mesh.control.agent_program(&part.node)?;
    let program = program
        .args(["--log", STEPS_ONLY])
        .started_by(steps.starter());
    let place = part.node.place().with_cgroup("agent")?;
    part.agent = place.start("agent-in-steps", &program)?;
    let agent = &part.agent;
    steps.flow(|| agent.ended().is_some() || get(&place, READY).is_ok())?;
    wait_agent(&part.node, agent)?;
    Ok(steps)
}

/// An ADD that nobody cuts, its verification, traffic, DEL; the steps that were heard.
fn whole(ground: &mut Ground, steps: &mut Steps) -> anyhow::Result<Vec<String>> {
    steps.heard();
    let ended = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let using = scope.spawn(|| {
            let result = ground.adds();
            ended.store(true, std::sync::atomic::Ordering::SeqCst);
            result
        });
        steps.flow(|| ended.load(std::sync::atomic::Ordering::SeqCst))?;
        using.join().ok().context("the ADD panicked")?
    })?;
    Ok(steps.heard())
}

fn delete(steps: &mut Steps, pod: &Pod) -> anyhow::Result<()> {
    thread::scope(|scope| {
        let deleting = scope.spawn(|| pod.delete());
        steps.flow(|| deleting.is_finished())?;
        Ok(deleting.join().ok().context("DEL panicked")??)
    })
}

/// ADD on a node whose agent dies after the step with that number.
fn cut_after(ground: &Ground, steps: &mut Steps, pod: &Pod, index: usize) -> anyhow::Result<()> {
    let agent: &Process = &ground.bed.mesh.nodes[0].agent;
    let runtime = ground.bed.mesh.nodes[0].node.runtime()?;
    steps.hold()?;
    let answer = thread::scope(|scope| {
        let adding = scope.spawn(|| runtime.add(pod.as_sandbox()));
        let stood = (0..index)
            .try_for_each(|_| steps.one_more(agent))
            .and_then(|()| steps.wait_standing(agent));
        // Also when it did not stand: the ADD must end.
        agent.signal(Signal::SIGKILL)?;
        agent.wait_end(GONE_WITHIN)?;
        let answer = adding.join().ok().context("ADD panicked")?;
        stood?;
        anyhow::Ok(answer)
    })?;
    match answer {
        Err(CniError::Refused {
            code: TRY_LATER, ..
        }) => Ok(()),
        other => anyhow::bail!("ADD answered {other:?}"),
    }
}

/// Whether the new agent holds the pod captured, which it must do wholly, or knows nothing of it.
fn judge(ground: &mut Ground, steps: &mut Steps, pod: &Pod) -> anyhow::Result<bool> {
    let phase = ground.phase(pod)?;
    match phase.as_str() {
        "enrolled" => {
            let captured = thread::scope(|scope| {
                let verifying = scope.spawn(|| ground.captured(pod));
                steps.flow(|| verifying.is_finished())?;
                verifying.join().ok().context("verify panicked")?
            })?;
            ensure!(captured, "enrolled, and not captured");
            Ok(true)
        }
        "" => {
            let left = ground.left(pod)?;
            ensure!(left == Traces::default(), "not captured, and left {left:?}");
            Ok(false)
        }
        other => anyhow::bail!("the pod is {other}"),
    }
}
