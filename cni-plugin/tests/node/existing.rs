//! Connections from before an enrolment: counted, left alone, or closed on command.

use cni_plugin::message::Request;
use cni_plugin::plugin::code;
use serde_json::json;

use crate::ground::{POD_V4, POD_V6};
use crate::rig::Rig;
use crate::traffic::{Connections, servers};
use crate::ztunnel::Ztunnel;

fn enrol(rig: &Rig, close_existing: bool) -> Request {
    Request::Enrol {
        pod: rig.pod.clone(),
        netns: rig.network.pod.path().display().to_string(),
        timeout_ms: 30_000,
        close_existing,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_from_before_are_counted_and_go_on() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    let (mut app, mut outside) = servers(&rig);
    let before = Connections::open(&mut app, &mut outside);
    let own = app.dial(POD_V4, 8080);
    let (_, reason) = rig
        .ask(&enrol(&rig, false), Some(&rig.network.pod))
        .unwrap();
    assert!(
        reason.contains("4 connections from before go on uncaptured"),
        "{reason}"
    );
    let counted = r#"culvert_agent_preenrolment_connections_total{result="left"} 4"#;
    assert!(rig.metrics().contains(counted), "{}", rig.metrics());
    before.work(&mut app, &mut outside);
    app.ping(own.id);
    assert_eq!(ztunnel.accepted(), []);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_from_before_are_closed_on_command_and_no_others() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    let (mut app, mut outside) = servers(&rig);
    let before = Connections::open(&mut app, &mut outside);
    let own = [app.dial(POD_V4, 8080), app.dial(POD_V6, 8080)];
    let (_, reason) = rig.ask(&enrol(&rig, true), Some(&rig.network.pod)).unwrap();
    assert!(
        reason.contains("4 connections from before closed"),
        "{reason}"
    );
    let counted = r#"culvert_agent_preenrolment_connections_total{result="closed"} 4"#;
    assert!(rig.metrics().contains(counted), "{}", rig.metrics());
    for id in &before.outbound {
        assert!(app.ask(json!({"do": "ping", "id": id}))["error"].is_string());
    }
    for id in &before.inbound {
        assert!(outside.ask(json!({"do": "ping", "id": id}))["error"].is_string());
    }
    own.iter().for_each(|own| app.ping(own.id));
    let new = Connections::open(&mut app, &mut outside);
    assert_eq!(ztunnel.accepted().len(), 4);
    let failure = rig
        .ask(&enrol(&rig, true), Some(&rig.network.pod))
        .unwrap_err();
    assert_eq!(failure.code, code::INVALID_ENV);
    assert!(
        failure.details.contains("enrolled already"),
        "{}",
        failure.details
    );
    new.work(&mut app, &mut outside);
    ztunnel.stop().await;
}
