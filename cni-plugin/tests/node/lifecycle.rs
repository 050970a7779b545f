//! A pod's way into the mesh and out of it, and what outlives the agent.

use std::collections::BTreeSet;
use std::time::Duration;

use cni_plugin::message::Request;
use cni_plugin::plugin::code;
use cni_plugin::steering::pod::{Listeners, PodSteering, SteerError};
use netio::netns::Netns;
use process::grpc::agent::Described;
use serde_json::json;

use crate::ground::{OUTSIDE_V4, OUTSIDE_V6, POD_V4, POD_V6, Space, ip};
use crate::rig::{FakeControl, Rig};
use crate::traffic::{Connections, rules, servers, sysctls};
use crate::ztunnel::{Manners, Ztunnel};

#[tokio::test(flavor = "multi_thread")]
async fn enrolment_keeps_every_connection_from_before_and_captures_every_new_one() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    // The strictest reverse-path filter: a rule that is not keyed on the mark would break these.
    rig.network.pod.sysctl("net/ipv4/conf/all/rp_filter", "1");
    let (mut app, mut outside) = servers(&rig);
    let before = Connections::open(&mut app, &mut outside);
    before.work(&mut app, &mut outside);
    rig.add().unwrap();
    before.work(&mut app, &mut outside);
    assert_eq!(ztunnel.accepted(), []);
    let new = Connections::open(&mut app, &mut outside);
    assert_eq!(ztunnel.accepted().len(), 4);
    new.work(&mut app, &mut outside);
    before.work(&mut app, &mut outside);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unenrolment_keeps_captured_connections_and_removes_all_when_they_have_ended() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    let (rules_before, sysctls_before) = (rules(&rig.network.pod), sysctls(&rig.network.pod));
    let (mut app, mut outside) = servers(&rig);
    rig.add().unwrap();
    assert_ne!(rules(&rig.network.pod), rules_before);
    assert_eq!(sysctls(&rig.network.pod), ["1", "1", "1"]);
    let captured = Connections::open(&mut app, &mut outside);
    assert_eq!(ztunnel.accepted().len(), 4);
    rig.unenrol().unwrap();
    assert_eq!(rig.phase(), "leaving");
    let plain = Connections::open(&mut app, &mut outside);
    assert_eq!(ztunnel.accepted(), []);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    captured.work(&mut app, &mut outside);
    assert_eq!(rig.phase(), "leaving");
    let waited = rig
        .control
        .reports
        .lock()
        .unwrap()
        .iter()
        .any(|(pods, wait)| *wait && pods.iter().all(|pod| !pod.enrolled));
    assert!(waited, "HBONE was not withdrawn before the capture ended");
    captured.close(&mut app, &mut outside);
    rig.until("it left", |rig| rig.phase() == "not_enrolled")
        .await;
    assert_eq!(rules(&rig.network.pod), rules_before);
    assert_eq!(sysctls(&rig.network.pod), sysctls_before);
    assert!(!rig.pins().exists());
    plain.work(&mut app, &mut outside);
    let uid = rig.pod.uid.clone();
    let deleted = proto::zds::Request::Delete { uid };
    ztunnel.until(|requests| requests.contains(&deleted)).await;
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaving_pod_can_be_enrolled_again_at_once() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    let (mut app, mut outside) = servers(&rig);
    rig.add().unwrap();
    let captured = Connections::open(&mut app, &mut outside);
    rig.unenrol().unwrap();
    let enrol = Request::Enrol {
        pod: rig.pod.clone(),
        netns: rig.network.pod.path().display().to_string(),
        timeout_ms: 30_000,
        close_existing: false,
    };
    assert!(rig.ask(&enrol, Some(&rig.network.pod)).unwrap().0);
    ztunnel.accepted();
    let new = Connections::open(&mut app, &mut outside);
    assert_eq!(ztunnel.accepted().len(), 4);
    captured.close(&mut app, &mut outside);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    new.work(&mut app, &mut outside);
    assert_eq!(rig.phase(), "enrolled");
    rig.check().unwrap();
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_shall_not_be_captured_passes_is_remembered_and_can_be_enrolled_by_command() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    *rig.control.answer.lock().unwrap() = Ok(FakeControl::enrolling(false));
    let rules_before = rules(&rig.network.pod);
    assert!(!rig.add().unwrap().0);
    assert_eq!(rules(&rig.network.pod), rules_before);
    assert!(!rig.pins().exists());
    rig.until("it was reported", |rig| {
        let report = rig.control.last_report();
        report
            .iter()
            .any(|pod| pod.uid == rig.pod.uid && !pod.enrolled && pod.ips.len() == 2)
    })
    .await;
    let enrol = Request::Enrol {
        pod: rig.pod.clone(),
        netns: rig.network.pod.path().display().to_string(),
        timeout_ms: 30_000,
        close_existing: false,
    };
    assert!(rig.ask(&enrol, Some(&rig.network.pod)).unwrap().0);
    let status = rig.pod_status().unwrap();
    assert_eq!(
        (status.phase.as_str(), status.container_id.as_str()),
        ("enrolled", "sandbox-1")
    );
    assert!(rig.control.last_report().iter().any(|pod| pod.enrolled));
    let (mut app, mut outside) = servers(&rig);
    Connections::open(&mut app, &mut outside);
    assert_eq!(ztunnel.accepted().len(), 4);
    rig.del();
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_removes_every_trace_and_may_be_repeated() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    assert!(rig.pins().exists());
    rig.del();
    rig.del();
    assert!(!rig.pins().exists());
    assert_eq!(std::fs::read_dir(rig.state_dir()).unwrap().count(), 0);
    assert_eq!(rig.status().pods, []);
    assert_eq!(rig.status().ztunnels[0].pods, 0);
    rig.until("it was reported", |rig| {
        rig.control.last_report().is_empty()
    })
    .await;
    rig.add().unwrap();
    rig.check().unwrap();
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sandbox_of_a_pod_replaces_the_first_and_survives_its_late_deletion() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let second = Space::new("p2");
    let name = &second.name;
    ip(&format!(
        "-n {name} link add eth0 type veth peer name other
        -n {name} addr add 10.99.0.2/24 dev eth0
        -n {name} link set eth0 up"
    ));
    let request = Request::Add {
        pod: rig.pod.clone(),
        container_id: "sandbox-2".into(),
        netns: second.path().display().to_string(),
        ips: vec!["10.99.0.2".parse().unwrap()],
        timeout_ms: 30_000,
    };
    assert!(rig.ask(&request, Some(&second)).unwrap().0);
    rig.del();
    let status = rig.pod_status().unwrap();
    assert_eq!(
        (status.phase.as_str(), status.container_id.as_str()),
        ("enrolled", "sandbox-2")
    );
    assert_eq!(
        status.ips,
        ["10.99.0.2".parse::<std::net::IpAddr>().unwrap()]
    );
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_ztunnel_undoes_everything() {
    let rig = Rig::start().await;
    let manners = Manners {
        refuse: Some("no room".into()),
        ..Manners::default()
    };
    let ztunnel = Ztunnel::with(&rig.zds_socket(), manners).await;
    let (rules_before, sysctls_before) = (rules(&rig.network.pod), sysctls(&rig.network.pod));
    let failure = rig.add().unwrap_err();
    assert_eq!(failure.code, code::TRY_LATER);
    assert!(failure.details.contains("no room"), "{failure:?}");
    assert_eq!(rules(&rig.network.pod), rules_before);
    assert_eq!(sysctls(&rig.network.pod), sysctls_before);
    assert!(!rig.pins().exists());
    assert_eq!(rig.status().pods, []);
    assert_eq!(std::fs::read_dir(rig.state_dir()).unwrap().count(), 0);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_ztunnel_an_add_fails_and_says_so() {
    let rig = Rig::start().await;
    let failure = rig.add().unwrap_err();
    assert_eq!(
        (failure.code, failure.msg.as_str()),
        (code::TRY_LATER, "ztunnel is not connected")
    );
    let status = rig.ask(&Request::Ready, None).unwrap_err();
    assert_eq!(
        (status.code, status.msg.as_str()),
        (50, "ztunnel is not connected")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_add_waits_for_the_control_plane_until_its_timeout() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    *rig.control.answer.lock().unwrap() = Err("connection refused".into());
    let mut request = rig.add_request(&[POD_V4]);
    if let Request::Add { timeout_ms, .. } = &mut request {
        *timeout_ms = 4000;
    }
    let failure = rig.ask(&request, Some(&rig.network.pod)).unwrap_err();
    assert_eq!(failure.code, code::TRY_LATER);
    assert_eq!(
        failure.msg,
        "the control plane cannot be asked who the pod is"
    );
    assert_eq!(failure.details, "connection refused");
    let control = rig.control.clone();
    let later = std::thread::Builder::new().spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        *control.answer.lock().unwrap() = Ok(FakeControl::enrolling(true));
    });
    assert!(rig.add().unwrap().0, "it came in time");
    later.unwrap().join().unwrap();
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_the_control_plane_does_not_know_fails_instead_of_running_unprotected() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    let reason = "no manifest names it".to_owned();
    *rig.control.answer.lock().unwrap() = Ok(Described::Unknown { reason });
    let mut request = rig.add_request(&[POD_V4]);
    if let Request::Add { timeout_ms, .. } = &mut request {
        *timeout_ms = 4000;
    }
    let failure = rig.ask(&request, Some(&rig.network.pod)).unwrap_err();
    assert_eq!(failure.code, code::TRY_LATER);
    assert!(
        failure.msg.contains("does not know pod shop/web"),
        "{failure:?}"
    );
    assert_eq!(failure.details, "no manifest names it");
    assert_eq!(rig.status().pods, []);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_ipv6_is_captured_on_ipv4() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    ip(&format!(
        "-n {} addr del {POD_V6}/64 dev eth0",
        rig.network.pod.name
    ));
    assert!(
        rig.ask(&rig.add_request(&[POD_V4]), Some(&rig.network.pod))
            .unwrap()
            .0
    );
    rig.check().unwrap();
    let (mut app, mut outside) = (rig.app(), rig.outsider());
    outside.listen(OUTSIDE_V4, 7000);
    app.dial(OUTSIDE_V4, 7000);
    assert_eq!(ztunnel.accepted().len(), 1);
    ip(&format!(
        "-n {} addr add {POD_V6}/64 dev eth0 nodad",
        rig.network.pod.name
    ));
    let v6: std::net::IpAddr = POD_V6.parse().unwrap();
    rig.until("it was seen", |rig| {
        rig.pod_status().unwrap().ips.contains(&v6)
    })
    .await;
    ip(&format!(
        "-n {} -6 route replace default via fd77::1",
        rig.network.pod.name
    ));
    outside.listen(OUTSIDE_V6, 7000);
    app.dial(OUTSIDE_V6, 7000);
    assert_eq!(ztunnel.accepted().len(), 1);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_descriptor_that_is_no_pods_namespace_is_refused() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    let request = rig.add_request(&[POD_V4]);
    let ask = |fd: std::os::fd::BorrowedFd<'_>| {
        let socket = rig.cni_socket();
        match cni_plugin::client::ask(&socket, &request, Some(fd), Duration::from_secs(30)) {
            Ok(cni_plugin::message::Answer::Failed(failure)) => failure,
            other => panic!("{other:?}"),
        }
    };
    use std::os::fd::AsFd;
    let file = tempfile::tempfile().unwrap();
    assert_eq!(ask(file.as_fd()).code, code::INVALID_ENV);
    let mount = std::fs::File::open("/proc/self/ns/mnt").unwrap();
    assert!(
        ask(mount.as_fd())
            .details
            .contains("not a network namespace")
    );
    // That of process 1 is not to be seen in every container.
    for own in [Netns::current().ok(), Netns::of_init().ok()]
        .into_iter()
        .flatten()
    {
        let failure = ask(own.as_fd());
        assert_eq!(failure.code, code::INVALID_ENV);
        assert!(failure.msg.contains("node's own"), "{failure:?}");
    }
    let none = rig.ask(&request, None).unwrap_err();
    assert_eq!(none.code, code::INVALID_ENV);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_come_and_go_are_followed_and_only_given_ones_are_reported() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let (mut app, mut outside) = (rig.app(), rig.outsider());
    let name = rig.network.pod.name.clone();
    ip(&format!("-n {name} addr add 10.77.0.99/24 dev eth0"));
    let new: std::net::IpAddr = "10.77.0.99".parse().unwrap();
    rig.until("it was seen", |rig| {
        rig.pod_status().unwrap().ips.contains(&new)
    })
    .await;
    app.listen("0.0.0.0", 8080);
    let own = app.dial("10.77.0.99", 8080);
    app.ping(own.id);
    assert_eq!(ztunnel.accepted(), []);
    outside.dial("10.77.0.99", 8080);
    assert_eq!(ztunnel.accepted().len(), 1);
    // The first address, which is the capture route's source: the kernel drops the route with it.
    ip(&format!(
        "-n {name} addr del {POD_V4}/24 dev eth0
        -n {name} addr add 10.77.0.98/24 dev eth0
        -n {name} route replace default via 10.77.0.1"
    ));
    let moved: std::net::IpAddr = "10.77.0.98".parse().unwrap();
    rig.until("it was seen", |rig| {
        rig.pod_status().unwrap().ips.contains(&moved)
    })
    .await;
    // What a pod gave itself may be its neighbour's.
    let v6: std::net::IpAddr = POD_V6.parse().unwrap();
    let reported = |rig: &Rig| rig.control.last_report()[0].ips.clone();
    rig.until("the given one is not reported any more", |rig| {
        reported(rig) == [v6]
    })
    .await;
    rig.ask(
        &rig.add_request(&["10.77.0.98", POD_V6]),
        Some(&rig.network.pod),
    )
    .unwrap();
    rig.until("what the runtime says is reported", |rig| {
        reported(rig).iter().copied().collect::<BTreeSet<_>>() == [moved, v6].into()
    })
    .await;
    outside.listen(OUTSIDE_V4, 7000);
    app.dial(OUTSIDE_V4, 7000);
    assert_eq!(ztunnel.accepted().len(), 1);
    rig.check().unwrap();
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_has_lost_its_capture_route_reaches_nothing() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let (mut app, _outside) = servers(&rig);
    let name = &rig.network.pod.name;
    ip(&format!("-n {name} route del local default table 100"));
    ip(&format!("-n {name} -6 route del local default table 100"));
    for to in [OUTSIDE_V4, OUTSIDE_V6] {
        assert_eq!(app.dial_error(to, 7000, 60), "OSError");
    }
    assert!(rig.check().is_err());
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_takes_over_and_no_connection_notices() {
    let mut rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    let (mut app, mut outside) = servers(&rig);
    rig.add().unwrap();
    let before = Connections::open(&mut app, &mut outside);
    let held = rig.slots();
    rig.stop_agent().await;
    let meanwhile = Connections::open(&mut app, &mut outside);
    assert_eq!(ztunnel.accepted().len(), 8, "captured without an agent");
    rig.restart_agent().await;
    let again = Ztunnel::connect(&rig.zds_socket()).await;
    assert_eq!(again.added(&rig.pod.uid), 1);
    rig.until("the new listeners are in use", |rig| {
        rig.slots().iter().zip(&held).all(|(new, old)| new != old)
    })
    .await;
    let after = Connections::open(&mut app, &mut outside);
    assert_eq!((ztunnel.accepted().len(), again.accepted().len()), (0, 4));
    for connections in [&before, &meanwhile, &after] {
        connections.work(&mut app, &mut outside);
    }
    rig.check().unwrap();
    rig.until("it was reported", |rig| {
        rig.control.last_report().iter().any(|pod| pod.enrolled)
    })
    .await;
    rig.unenrol().unwrap();
    ztunnel.stop().await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_comes_while_no_ztunnel_runs_waits_for_the_next() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    let (_app, mut outside) = servers(&rig);
    rig.add().unwrap();
    ztunnel.stop().await;
    let dialling = std::thread::Builder::new().spawn(move || outside.dial(POD_V4, 8080));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let next = Ztunnel::connect(&rig.zds_socket()).await;
    let dialled = dialling.unwrap().join().unwrap();
    assert_eq!(dialled.seen_as(), OUTSIDE_V4);
    assert_eq!(next.accepted().len(), 1);
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_undoes_what_was_cut_off_and_forgets_what_is_gone() {
    let mut rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    let rules_before = rules(&rig.network.pod);
    rig.add().unwrap();
    let uid = rig.pod.uid.clone();
    rig.stop_agent().await;
    let path = rig.state_dir().join(format!("{uid}.json"));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"enrolled\"", "\"enrolling\"")).unwrap();
    let stray = rig.bpffs.path().join("stray-pod");
    std::fs::create_dir(&stray).unwrap();
    rig.restart_agent().await;
    assert_eq!(rig.status().pods, []);
    assert!(!rig.pins().exists() && !path.exists() && !stray.exists());
    assert_eq!(rules(&rig.network.pod), rules_before);
    let next = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    rig.stop_agent().await;
    netio::netns::delete(&rig.network.pod.name).unwrap();
    rig.restart_agent().await;
    assert_eq!(rig.status().pods, []);
    assert!(!rig.pins().exists());
    ztunnel.stop().await;
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_namespace_vanishes_is_forgotten_without_a_call() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    netio::netns::delete(&rig.network.pod.name).unwrap();
    rig.until("it was forgotten", |rig| rig.status().pods.is_empty())
        .await;
    assert!(!rig.pins().exists());
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_collection_keeps_what_the_runtime_lists() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    rig.ask(
        &Request::Gc {
            keep: vec!["sandbox-1".into(), "other".into()],
        },
        None,
    )
    .unwrap();
    assert_eq!(rig.phase(), "enrolled");
    rig.ask(
        &Request::Gc {
            keep: vec!["other".into()],
        },
        None,
    )
    .unwrap();
    assert_eq!(rig.status().pods, []);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_names_every_part_that_was_removed_by_hand() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    rig.check().unwrap();
    let name = rig.network.pod.name.clone();
    std::fs::remove_file(rig.pins().join("link")).unwrap();
    ip(&format!("-n {name} rule del pref 100"));
    ip(&format!("-n {name} -6 route flush table 100"));
    rig.network.pod.sysctl("net/ipv4/fwmark_reflect", "0");
    let failure = rig.check().unwrap_err();
    assert_eq!(failure.code, code::BROKEN);
    for part in ["link", "IPv4 rule", "IPv6 capture route", "sysctl"] {
        assert!(
            failure.details.contains(part),
            "{part}: {}",
            failure.details
        );
    }
    let unknown = rig
        .ask(
            &Request::Check {
                container_id: "other".into(),
            },
            None,
        )
        .unwrap_err();
    assert_eq!(unknown.code, code::UNKNOWN_CONTAINER);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_counts_what_the_program_did() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let before = rig.pod_status().unwrap().counters;
    let (mut app, mut outside) = servers(&rig);
    Connections::open(&mut app, &mut outside);
    app.dial(POD_V4, 8080);
    let status = rig.pod_status().unwrap();
    for way in ["outbound", "inbound"] {
        assert_eq!(status.counters[way], before[way] + 2, "{way}");
    }
    assert!(status.counters["left_alone_local"] >= 1);
    assert_eq!(status.counters["refused_no_listener"], 0);
    let ztunnels = rig.status().ztunnels;
    assert_eq!(
        (ztunnels[0].pid, ztunnels[0].pods),
        (std::process::id() as i32, 1)
    );
    ztunnel.stop().await;
}

#[test]
fn listeners_of_another_namespace_never_get_into_a_pods_slots() {
    let bpffs = crate::ground::Bpffs::mount();
    let (pod, other) = (Space::new("a"), Space::new("b"));
    let listeners = Listeners::make(&other.netns).unwrap();
    let result = PodSteering::load(&bpffs.path().join("u"), &pod.netns, &listeners);
    assert!(matches!(result, Err(SteerError::ForeignListener { .. })));
    assert_eq!(json!(bpffs.path().join("u").exists()), json!(false));
}
