//! What an agent makes of the captured pods that it finds when it starts.

use crate::ground::{OUTSIDE_V4, OUTSIDE_V6, POD_V4, POD_V6, ip};
use crate::rig::Rig;
use crate::traffic::{Connections, servers};
use crate::ztunnel::Ztunnel;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_lost_its_addresses_is_taken_over_and_captured_when_it_has_them_again() {
    let mut rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let name = rig.network.pod.name.clone();
    rig.stop_agent().await;
    // As after a DEL that met no agent.
    ip(&format!("-n {name} addr flush dev eth0"));
    rig.restart_agent().await;
    let verdict = rig.verify(false);
    assert!(verdict.captured, "{:?}", verdict.faults);
    let again = Ztunnel::connect(&rig.zds_socket()).await;
    ip(&format!(
        "-n {name} addr add {POD_V4}/24 dev eth0
        -n {name} addr add {POD_V6}/64 dev eth0 nodad
        -n {name} route replace default via 10.77.0.1
        -n {name} -6 route replace default via fd77::1"
    ));
    let whole = |rig: &Rig| rig.check().is_ok();
    rig.until("the new addresses are captured", whole).await;
    let (mut app, mut outside) = servers(&rig);
    for to in [OUTSIDE_V4, OUTSIDE_V6] {
        app.dial(to, 7000);
    }
    outside.dial(POD_V4, 8080);
    outside.dial(POD_V6, 8080);
    assert_eq!(again.accepted().len() + ztunnel.accepted().len(), 4);
    ztunnel.stop().await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_dies_before_ztunnel_has_its_listeners_takes_no_connection_with_it() {
    let mut rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    let (mut app, mut outside) = servers(&rig);
    rig.add().unwrap();
    let held = rig.slots();
    rig.stop_agent().await;
    for _ in 0..2 {
        rig.restart_agent().await;
        assert!(rig.verify(true).captured);
        assert_eq!(rig.slots(), held, "what ztunnel accepts from");
        rig.stop_agent().await;
        let connections = Connections::open(&mut app, &mut outside);
        assert_eq!(ztunnel.accepted().len(), 4, "without an agent");
        connections.work(&mut app, &mut outside);
    }
    rig.restart_agent().await;
    let again = Ztunnel::connect(&rig.zds_socket()).await;
    rig.until("the new listeners are in use", |rig| are_new(rig, &held))
        .await;
    Connections::open(&mut app, &mut outside);
    assert_eq!((ztunnel.accepted().len(), again.accepted().len()), (0, 4));
    rig.check().unwrap();
    ztunnel.stop().await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_ztunnel_goes_before_it_has_the_new_listeners_connections_wait_in_them() {
    let mut rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    let (app, outside) = servers(&rig);
    rig.add().unwrap();
    let held = rig.slots();
    rig.restart_agent().await;
    assert_eq!(rig.slots(), held);
    ztunnel.stop().await;
    rig.until("the new listeners are in use", |rig| are_new(rig, &held))
        .await;
    // Each is also the server of the other.
    let dials = [(app, OUTSIDE_V4, 7000), (outside, POD_V6, 8080)];
    let dialling = dials.map(|(mut from, to, port)| {
        let dial = move || {
            from.dial(to, port);
            from
        };
        std::thread::Builder::new().spawn(dial).unwrap()
    });
    let again = Ztunnel::connect(&rig.zds_socket()).await;
    let _both = dialling.map(|dialled| dialled.join().unwrap());
    assert_eq!(again.accepted().len(), 2);
    again.stop().await;
}

/// Whether every slot holds a listener, and none an older one.
fn are_new(rig: &Rig, older: &[Option<u64>]) -> bool {
    let found = rig.slots();
    let mut pairs = found.iter().zip(older);
    pairs.all(|(found, older)| found.is_some() && found != older)
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_that_were_renewed_while_no_ztunnel_ran_are_handed_to_the_next() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    ztunnel.stop().await;
    std::fs::remove_dir_all(rig.pins()).unwrap();
    assert!(rig.verify(true).captured);
    let next = Ztunnel::connect(&rig.zds_socket()).await;
    assert_eq!(next.added(&rig.pod.uid), 1);
    let (mut app, mut outside) = servers(&rig);
    Connections::open(&mut app, &mut outside);
    assert_eq!(next.accepted().len(), 4);
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_agent_keeps_a_pod_captured_whose_pins_are_gone_and_can_let_it_go() {
    let mut rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    let (mut app, mut outside) = servers(&rig);
    rig.add().unwrap();
    let unpin = |rig: &Rig| {
        std::fs::remove_dir_all(rig.pins()).unwrap();
        std::fs::remove_dir_all(rig.bpffs.path().join("node")).unwrap();
    };
    unpin(&rig);
    // The kernel ends a link that nobody holds some time after its pin.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    Connections::open(&mut app, &mut outside);
    assert_eq!(ztunnel.accepted().len(), 4);
    let verdict = rig.verify(true);
    assert!(
        verdict.captured && !verdict.repaired.is_empty(),
        "{verdict:?}"
    );
    Connections::open(&mut app, &mut outside);
    assert_eq!(ztunnel.accepted().len(), 4, "after the repair");
    rig.stop_agent().await;
    Connections::open(&mut app, &mut outside);
    assert_eq!(ztunnel.accepted().len(), 4, "by the new pins alone");
    rig.restart_agent().await;
    unpin(&rig);
    rig.unenrol().unwrap();
    Connections::open(&mut app, &mut outside);
    assert_eq!(ztunnel.accepted(), [], "un-enrolled");
    ztunnel.stop().await;
}
