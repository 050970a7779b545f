//! Calls that meet: a deletion during an enrolment, two uids for one namespace, an enrolment of a
//! pod that is enrolled.

use std::os::fd::AsFd;
use std::thread::JoinHandle;
use std::time::Duration;

use cni_plugin::message::{Answer, Failure, Request};
use cni_plugin::plugin::code;
use netio::bpf::{link_detach, object_get};
use process::grpc::agent::Described;

use crate::ground::{POD_V4, POD_V6, ip};
use crate::rig::{FakeControl, Rig};
use crate::traffic::{rules, sysctls};
use crate::ztunnel::{Manners, Ztunnel};

/// A call in the background.
fn asked(rig: &Rig, request: Request) -> JoinHandle<Result<(bool, String), Failure>> {
    let (socket, netns) = (rig.cni_socket(), rig.network.pod.netns.clone());
    let ask = move || {
        let wait = Duration::from_secs(60);
        match cni_plugin::client::ask(&socket, &request, Some(netns.as_fd()), wait).unwrap() {
            Answer::Done { enrolled, reason } => Ok((enrolled, reason)),
            Answer::Failed(failure) => Err(failure),
            other => panic!("{other:?}"),
        }
    };
    std::thread::Builder::new().spawn(ask).unwrap()
}

fn add_request(rig: &Rig, wait: Duration) -> Request {
    let mut request = rig.add_request(&[POD_V4, POD_V6]);
    if let Request::Add { timeout_ms, .. } = &mut request {
        *timeout_ms = u64::try_from(wait.as_millis()).unwrap();
    }
    request
}

fn enrol_request(rig: &Rig, uid: &str) -> Request {
    let mut pod = rig.pod.clone();
    pod.uid = uid.to_owned();
    Request::Enrol {
        pod,
        netns: rig.network.pod.path().display().to_string(),
        timeout_ms: 30_000,
        close_existing: false,
    }
}

const LONG: Duration = Duration::from_secs(50);

fn assert_no_trace(rig: &Rig) {
    assert_eq!(rig.status().pods, []);
    assert!(!rig.pins().exists());
    assert_eq!(std::fs::read_dir(rig.state_dir()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_ends_the_enrolment_that_still_asks_who_the_pod_is() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    let collect = Request::Gc { keep: vec![] };
    let delete = Request::Del {
        container_id: "sandbox-1".into(),
    };
    for ending in [delete, collect] {
        *rig.control.answer.lock().unwrap() = Err("not yet".into());
        let adding = asked(&rig, add_request(&rig, LONG));
        rig.until("it is known", |rig| rig.phase() == "enrolling")
            .await;
        rig.ask(&ending, None).unwrap();
        *rig.control.answer.lock().unwrap() = Ok(FakeControl::enrolling(true));
        let failure = adding.join().unwrap().unwrap_err();
        assert_eq!(failure.code, code::UNKNOWN_CONTAINER, "{failure:?}");
        assert_no_trace(&rig);
        assert_eq!(ztunnel.added(&rig.pod.uid), 0);
    }
    rig.add().unwrap();
    assert!(rig.verify(false).captured);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_ends_the_enrolment_that_waits_for_ztunnel() {
    let rig = Rig::start().await;
    let before = (rules(&rig.network.pod), sysctls(&rig.network.pod));
    let silent = Manners {
        silent: true,
        ..Manners::default()
    };
    let ztunnel = Ztunnel::with(&rig.zds_socket(), silent).await;
    let adding = asked(&rig, add_request(&rig, LONG));
    rig.until("ztunnel was asked", |rig| ztunnel.added(&rig.pod.uid) > 0)
        .await;
    assert!(rig.pins().exists());
    rig.del();
    // Not before all of it is undone.
    assert_no_trace(&rig);
    let failure = adding.join().unwrap().unwrap_err();
    assert_eq!(failure.code, code::UNKNOWN_CONTAINER, "{failure:?}");
    let after = (rules(&rig.network.pod), sysctls(&rig.network.pod));
    assert_eq!(after, before);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_ends_the_enrolment_that_waits_for_its_turn() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    *rig.control.answer.lock().unwrap() = Err("not yet".into());
    let mut other = add_request(&rig, LONG);
    if let Request::Add { container_id, .. } = &mut other {
        *container_id = "sandbox-2".into();
    }
    let first = asked(&rig, other);
    rig.until("it is known", |rig| rig.phase() == "enrolling")
        .await;
    let second = asked(&rig, add_request(&rig, LONG));
    // There is nothing to see of it while it waits: deleted until it is found.
    rig.until("it was found", |rig| {
        let delete = Request::Del {
            container_id: "sandbox-1".into(),
        };
        let deleting = asked(rig, delete);
        while !second.is_finished() && !deleting.is_finished() {
            std::thread::sleep(Duration::from_millis(10));
        }
        second.is_finished()
    })
    .await;
    let failure = second.join().unwrap().unwrap_err();
    assert_eq!(failure.code, code::UNKNOWN_CONTAINER, "{failure:?}");
    *rig.control.answer.lock().unwrap() = Ok(FakeControl::enrolling(true));
    assert!(first.join().unwrap().unwrap().0);
    assert_eq!(rig.pod_status().unwrap().container_id, "sandbox-2");
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_step_begins_after_the_callers_deadline() {
    let rig = Rig::start().await;
    let silent = Manners {
        silent: true,
        ..Manners::default()
    };
    let ztunnel = Ztunnel::with(&rig.zds_socket(), silent).await;
    // Shorter than ztunnel's time to answer, 5 s.
    let adding = asked(&rig, add_request(&rig, Duration::from_secs(4)));
    let failure = adding.join().unwrap().unwrap_err();
    assert_eq!(failure.code, code::TRY_LATER, "{failure:?}");
    assert_eq!(failure.details, "ztunnel did not acknowledge the pod");
    assert_no_trace(&rig);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_belongs_to_one_pod() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let failure = rig
        .ask(&enrol_request(&rig, "another"), Some(&rig.network.pod))
        .unwrap_err();
    assert_eq!(failure.code, code::INVALID_ENV, "{failure:?}");
    assert!(failure.details.contains(&rig.pod.uid), "{failure:?}");
    assert_eq!(rig.status().pods.len(), 1);
    assert!(rig.verify(false).captured);
    rig.del();
    // One that only a command named, and that is let go, does not keep the namespace from others.
    let enrol = |uid: &str| rig.ask(&enrol_request(&rig, uid), Some(&rig.network.pod));
    enrol("mistaken").unwrap();
    let mut pod = rig.pod.clone();
    pod.uid = "mistaken".into();
    rig.ask(&Request::Unenrol { pod }, None).unwrap();
    rig.until("it left", |rig| {
        rig.status().pods[0].phase == "not_enrolled"
    })
    .await;
    enrol("right").unwrap();
    let pods = rig.status().pods;
    assert_eq!((pods.len(), pods[0].pod.uid.as_str()), (1, "right"));
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_add_or_enrol_of_an_enrolled_pod_repairs_it_or_fails() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    assert_eq!(rig.add().unwrap().1, "it was enrolled already");
    let enrol = enrol_request(&rig, &rig.pod.uid);
    for request in [rig.add_request(&[POD_V4, POD_V6]), enrol] {
        let link = object_get(&rig.pins().join("link")).unwrap();
        link_detach(link.as_fd()).unwrap();
        let (enrolled, reason) = rig.ask(&request, Some(&rig.network.pod)).unwrap();
        assert!(enrolled && reason.contains("repaired: link"), "{reason}");
        assert!(rig.verify(false).captured);
        let name = &rig.network.pod.name;
        ip(&format!("-n {name} rule add pref 50 lookup main"));
        let failure = rig.ask(&request, Some(&rig.network.pod)).unwrap_err();
        assert_eq!(failure.code, code::NOT_CAPTURED, "{failure:?}");
        ip(&format!("-n {name} rule del pref 50"));
        assert!(rig.verify(true).captured);
    }
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_pod_whose_enrolment_crashed_or_failed_is_known_as_not_enrolled() {
    let mut rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    *rig.control.answer.lock().unwrap() = Ok(FakeControl::enrolling(false));
    rig.add().unwrap();
    ztunnel.stop().await;
    let silent = Manners {
        silent: true,
        ..Manners::default()
    };
    let ztunnel = Ztunnel::with(&rig.zds_socket(), silent).await;
    let mut request = enrol_request(&rig, &rig.pod.uid);
    if let Request::Enrol { timeout_ms, .. } = &mut request {
        // Longer than ztunnel's time to answer.
        *timeout_ms = 30_000;
    }
    let enrolling = asked(&rig, request);
    rig.until("ztunnel was asked", |rig| ztunnel.added(&rig.pod.uid) > 0)
        .await;
    let path = rig.state_dir().join(format!("{}.json", rig.pod.uid));
    let in_the_middle = std::fs::read(&path).unwrap();
    enrolling.join().unwrap().unwrap_err();
    let known = |rig: &Rig| {
        let pod = rig.pod_status().unwrap();
        assert_eq!(pod.phase, "not_enrolled");
        assert_eq!(pod.reason, "as the test wants it");
        assert_eq!(pod.container_id, "sandbox-1");
    };
    known(&rig);
    ztunnel.stop().await;
    rig.stop_agent().await;
    std::fs::write(&path, in_the_middle).unwrap();
    rig.restart_agent().await;
    known(&rig);
    assert!(!rig.pins().exists());
    let unknown = Described::Unknown {
        reason: "gone".into(),
    };
    *rig.control.answer.lock().unwrap() = Ok(unknown);
    rig.ask(
        &add_request(&rig, Duration::from_secs(4)),
        Some(&rig.network.pod),
    )
    .unwrap_err();
    known(&rig);
}
