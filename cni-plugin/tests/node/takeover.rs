//! What an agent makes of the captured pods that it finds when it starts.

use crate::ground::{OUTSIDE_V4, OUTSIDE_V6, POD_V4, POD_V6, ip};
use crate::rig::Rig;
use crate::traffic::servers;
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
