//! An agent that dies between two steps of an enrolment, at each of them. A process of its own:
//! the steps are heard through its log.

#![allow(clippy::unwrap_used)] // All of this is test code, though not all of it is in a #[test].
#![allow(dead_code)] // The ground is shared with tests/node, which uses all of it.

#[path = "node/app.rs"]
mod app;
#[path = "node/ground.rs"]
mod ground;
#[path = "node/rig.rs"]
mod rig;
#[path = "node/traffic.rs"]
mod traffic;
#[path = "node/ztunnel.rs"]
mod ztunnel;

use std::fmt::Debug;
use std::sync::Mutex;
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use ground::{POD_V4, POD_V6};
use rig::Rig;
use traffic::{Connections, rules, servers, sysctls};
use ztunnel::Ztunnel;

/// The steps that were heard, and the one to end at.
struct Heard {
    steps: Vec<&'static str>,
    cut_after: usize,
}

static HEARD: Mutex<Heard> = Mutex::new(Heard {
    steps: Vec::new(),
    cut_after: usize::MAX,
});

fn listen(cut_after: usize) {
    let mut heard = HEARD.lock().unwrap();
    heard.steps.clear();
    heard.cut_after = cut_after;
}

struct Ears;

impl Subscriber for Ears {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::DEBUG && metadata.target() == "cni_plugin::agent::enrol"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut step = Step(None);
        event.record(&mut step);
        let Some(step) = step.0 else { return };
        let mut heard = HEARD.lock().unwrap();
        heard.steps.push(step);
        let cut = heard.steps.len() == heard.cut_after;
        drop(heard);
        if cut {
            // The call ends here, and nothing of it is undone.
            std::panic::resume_unwind(Box::new("cut off"));
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Step(Option<&'static str>);

impl Visit for Step {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "step" {
            self.0 = Some(value.to_owned().leak());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

/// Whether the new connections of both directions and families go to the proxy; they must do so
/// all or not at all, and work.
fn is_captured(rig: &Rig, ztunnel: &Ztunnel) -> bool {
    let (mut app, mut outside) = servers(rig);
    ztunnel.accepted();
    let connections = Connections::open(&mut app, &mut outside);
    connections.work(&mut app, &mut outside);
    match ztunnel.accepted().len() {
        0 => false,
        4 => true,
        some => panic!("{some} of 4 connections are captured"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_after_any_step_of_an_enrolment_leaves_a_pod_that_the_next_makes_whole()
{
    tracing::subscriber::set_global_default(Ears).unwrap();
    let mut rig = Rig::start().await;
    let (rules_before, sysctls_before) = (rules(&rig.network.pod), sysctls(&rig.network.pod));
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let steps = HEARD.lock().unwrap().steps.clone();
    rig.unenrol().unwrap();
    rig.until("it left", |rig| rig.phase() == "not_enrolled")
        .await;
    rig.del();
    ztunnel.stop().await;
    assert!(steps.len() >= 10, "{steps:?}");
    let mut captured = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
        listen(index + 1);
        let netns = std::os::fd::AsFd::as_fd(&rig.network.pod.netns);
        let request = rig.add_request(&[POD_V4, POD_V6]);
        let wait = Duration::from_secs(90);
        let answer = cni_plugin::client::ask(&rig.cni_socket(), &request, Some(netns), wait);
        assert!(answer.is_err(), "after {step}: {answer:?}");
        assert_eq!(HEARD.lock().unwrap().steps, steps[..=index]);
        listen(usize::MAX);
        rig.stop_agent().await;
        ztunnel.stop().await;
        rig.restart_agent().await;
        let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
        captured.push(is_captured(&rig, &ztunnel));
        match captured[index] {
            true => assert!(rig.verify(false).captured, "after {step}"),
            false => {
                assert_eq!(rig.phase(), "", "after {step}");
                assert!(!rig.pins().exists(), "after {step}");
                assert_eq!(rules(&rig.network.pod), rules_before, "after {step}");
                assert_eq!(sysctls(&rig.network.pod), sysctls_before, "after {step}");
            }
        }
        rig.add().unwrap();
        assert!(is_captured(&rig, &ztunnel), "after {step}");
        rig.unenrol().unwrap();
        rig.until("it left", |rig| rig.phase() == "not_enrolled")
            .await;
        rig.del();
        ztunnel.stop().await;
    }
    // Only what was recorded as enrolled is kept.
    let (last, others) = captured.split_last().unwrap();
    assert!(*last && others.iter().all(|captured| !captured));
}
