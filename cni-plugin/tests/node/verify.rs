//! Verified capture: what is removed by hand is found, named and put back.

use std::os::fd::AsFd;
use std::time::Duration;

use cni_plugin::plugin::code;
use cni_plugin::steering::fault::{Cause, Fault};
use cni_plugin::steering::hook::Hook;
use netio::bpf::{SockMap, link_detach, object_get};

use crate::ground::{OUTSIDE_V4, OUTSIDE_V6, POD_V4, POD_V6, ip};
use crate::rig::Rig;
use crate::ztunnel::Ztunnel;

fn causes(faults: &[Fault]) -> Vec<Cause> {
    let mut causes: Vec<Cause> = faults.iter().map(|fault| fault.cause).collect();
    causes.dedup();
    causes
}

fn repairs(rig: &Rig, cause: Cause) -> u64 {
    let cause = cause.name();
    rig.metric(&format!(
        "culvert_agent_repairs_total{{cause=\"{cause}\"}} "
    ))
}

fn verified(rig: &Rig, result: &str) -> u64 {
    rig.metric(&format!(
        "culvert_agent_verified_pods{{result=\"{result}\"}} "
    ))
}

/// Connections of all kinds go to the proxy.
fn assert_captured(rig: &Rig, ztunnel: &Ztunnel) {
    let (mut app, mut outside) = (rig.app(), rig.outsider());
    ztunnel.accepted();
    for ip in [POD_V4, POD_V6] {
        app.listen(ip, 8080);
        outside.dial(ip, 8080);
    }
    for ip in [OUTSIDE_V4, OUTSIDE_V6] {
        outside.listen(ip, 7000);
        app.dial(ip, 7000);
    }
    assert_eq!(ztunnel.accepted().len(), 4);
}

/// Breaks a part; a verification must name it and change nothing, a repairing one must put it
/// back, and the next find nothing.
async fn found_and_repaired(cause: Cause, damages: &[fn(&Rig)]) {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    for (index, damage) in damages.iter().enumerate() {
        damage(&rig);
        let found = rig.verify(false);
        assert!(!found.captured);
        assert_eq!(causes(&found.faults), [cause], "{:?}", found.faults);
        assert_eq!(verified(&rig, "not_captured"), 1);
        assert_eq!(rig.check().unwrap_err().code, code::BROKEN);
        assert_eq!(repairs(&rig, cause), index as u64);
        let repaired = rig.verify(true);
        assert!(repaired.captured, "{:?}", repaired.faults);
        assert_eq!(causes(&repaired.repaired), [cause]);
        let clean = rig.verify(true);
        assert!(clean.captured && clean.repaired.is_empty(), "{clean:?}");
        assert_eq!(verified(&rig, "captured"), 1);
        assert_eq!(verified(&rig, "not_captured"), 0);
        assert_eq!(repairs(&rig, cause), index as u64 + 1);
    }
    assert_captured(&rig, &ztunnel);
    ztunnel.stop().await;
}

fn pod_ip(rig: &Rig, command: &str) {
    ip(&format!("-n {} {command}", rig.network.pod.name));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_rule_is_found_and_repaired() {
    let damages: [fn(&Rig); 2] = [
        |rig| pod_ip(rig, "rule del pref 100"),
        |rig| pod_ip(rig, "-6 rule del pref 100"),
    ];
    found_and_repaired(Cause::Rule, &damages).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_route_is_found_and_repaired() {
    let damages: [fn(&Rig); 4] = [
        |rig| pod_ip(rig, "route del local default table 100"),
        |rig| pod_ip(rig, "-6 route del local default table 100"),
        |rig| pod_ip(rig, "route del unreachable default table 100"),
        |rig| pod_ip(rig, "-6 route flush table 100"),
    ];
    found_and_repaired(Cause::Route, &damages).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_was_detached_or_unpinned_is_found_and_repaired() {
    let damages: [fn(&Rig); 3] = [
        |rig| {
            let link = object_get(&rig.pins().join("link")).unwrap();
            link_detach(link.as_fd()).unwrap();
        },
        |rig| std::fs::remove_file(rig.pins().join("link")).unwrap(),
        |rig| std::fs::remove_dir_all(rig.pins()).unwrap(),
    ];
    found_and_repaired(Cause::Link, &damages).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_cookie_is_found_and_repaired() {
    let damages: [fn(&Rig); 1] = [|rig| {
        let dir = rig.bpffs.path().join("node");
        let mut hook = Hook::attach(&dir, rig.tree.root()).unwrap();
        hook.withdraw(rig.network.pod.netns.cookie().unwrap())
            .unwrap();
    }];
    found_and_repaired(Cause::Cookie, &damages).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_connect_hook_is_found_and_repaired() {
    let damages: [fn(&Rig); 3] = [
        |rig| {
            let link = object_get(&rig.bpffs.path().join("node/connect4")).unwrap();
            link_detach(link.as_fd()).unwrap();
        },
        |rig| {
            let link = object_get(&rig.bpffs.path().join("node/connect6")).unwrap();
            link_detach(link.as_fd()).unwrap();
        },
        |rig| std::fs::remove_file(rig.bpffs.path().join("node/connect6")).unwrap(),
    ];
    found_and_repaired(Cause::Hook, &damages).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_or_exchanged_listener_slot_is_found_and_repaired() {
    let damages: [fn(&Rig); 3] = [
        |rig| assert!(slots(rig).clear(0).unwrap()),
        |rig| assert!(slots(rig).clear(5).unwrap()),
        |rig| {
            let netns = &rig.network.pod.netns;
            let other = netio::socket::transparent_listener(netns, netio::socket::Family::V4);
            slots(rig).set(2, other.unwrap().as_fd()).unwrap();
        },
    ];
    found_and_repaired(Cause::Listener, &damages).await;
}

fn slots(rig: &Rig) -> SockMap {
    SockMap::open(&rig.pins().join("listeners")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_sysctl_is_found_and_repaired() {
    let damages: [fn(&Rig); 2] = [
        |rig| rig.network.pod.sysctl("net/ipv4/tcp_fwmark_accept", "0"),
        |rig| rig.network.pod.sysctl("net/ipv6/fwmark_reflect", "0"),
    ];
    found_and_repaired(Cause::Sysctl, &damages).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_bothers_no_proxy_and_works_while_none_runs() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let before = rig.pod_status().unwrap().counters;
    for _ in 0..20 {
        assert!(rig.verify(false).captured);
    }
    let after = rig.pod_status().unwrap().counters;
    // Both families, both ways: the connections were real.
    assert_eq!(after["outbound"], before["outbound"] + 40);
    assert_eq!(after["hbone"], before["hbone"] + 40);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(ztunnel.accepted(), []);
    ztunnel.stop().await;
    assert!(rig.verify(false).captured);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_list_of_parts_has_is_found_by_the_connection() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    for family in ["-4", "-6"] {
        pod_ip(&rig, &format!("{family} rule add pref 50 lookup main"));
        let verdict = rig.verify(true);
        assert_eq!(causes(&verdict.faults), [Cause::Connection]);
        assert!(verdict.repaired.is_empty() && !verdict.captured);
        assert_eq!(repairs(&rig, Cause::Connection), 0);
        pod_ip(&rig, &format!("{family} rule del pref 50"));
        assert!(rig.verify(false).captured);
    }
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_add_whose_pod_is_not_captured_in_the_end_fails_and_is_undone() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    pod_ip(&rig, "rule add pref 50 lookup main");
    let failure = rig.add().unwrap_err();
    assert_eq!(failure.code, code::NOT_CAPTURED);
    assert!(
        failure.details.starts_with("verification: connection: "),
        "{failure:?}"
    );
    assert_eq!(rig.status().pods, []);
    assert!(!rig.pins().exists());
    pod_ip(&rig, "rule del pref 50");
    rig.add().unwrap();
    assert!(rig.verify(false).captured);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_repairs_by_itself_at_its_next_round() {
    let rig = Rig::verifying(Duration::from_secs(1)).await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    std::fs::remove_file(rig.pins().join("link")).unwrap();
    pod_ip(&rig, "rule del pref 100");
    rig.until("both were repaired", |rig| {
        repairs(rig, Cause::Link) == 1 && repairs(rig, Cause::Rule) == 1
    })
    .await;
    assert_captured(&rig, &ztunnel);
    rig.del();
    rig.until("it is no longer counted", |rig| {
        verified(rig, "captured") == 0
    })
    .await;
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_enrolled_pods_are_verified_and_an_unknown_one_is_an_error() {
    let rig = Rig::start().await;
    let wait = Duration::from_secs(30);
    let all = cni_plugin::client::verify(&rig.cni_socket(), None, false, wait);
    assert_eq!(all.unwrap(), []);
    let uid = Some("no-such-pod".to_owned());
    let none = cni_plugin::client::verify(&rig.cni_socket(), uid, false, wait);
    assert!(none.unwrap_err().to_string().contains("no-such-pod"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_of_one_family_is_verified_on_that() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    pod_ip(&rig, &format!("addr del {POD_V4}/24 dev eth0"));
    rig.add().unwrap();
    pod_ip(&rig, "-6 rule del pref 100");
    assert_eq!(causes(&rig.verify(true).repaired), [Cause::Rule]);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_sockets_the_hook_does_not_see_verifies_all_but_the_hook() {
    let rig = Rig::start_apart().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let before = rig.pod_status().unwrap().counters;
    assert!(rig.verify(false).captured);
    let after = rig.pod_status().unwrap().counters;
    assert_eq!(after["outbound"], before["outbound"] + 2);
    pod_ip(&rig, "rule add pref 50 lookup main");
    assert_eq!(causes(&rig.verify(false).faults), [Cause::Connection]);
    let link = object_get(&rig.bpffs.path().join("node/connect4")).unwrap();
    link_detach(link.as_fd()).unwrap();
    assert_eq!(causes(&rig.verify(false).faults), [Cause::Hook]);
    ztunnel.stop().await;
}

fn command(rig: &Rig, more: &[&str]) -> (i32, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_culvert-cni"))
        .arg("verify")
        .arg("--socket")
        .arg(rig.cni_socket())
        .args(more)
        .env_clear()
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let code = output.status.code().unwrap();
    (code, text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_prints_a_table_or_json_and_ends_with_1_when_a_pod_is_not_captured() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    let (code, table, _) = command(&rig, &[]);
    assert_eq!((code, table.as_str()), (0, "no pod is enrolled\n"));
    rig.add().unwrap();
    let (code, table, _) = command(&rig, &["--pod", &rig.pod.uid]);
    assert_eq!(code, 0);
    let line = table.lines().nth(1).unwrap();
    assert!(
        line.starts_with("shop/web") && line.ends_with("yes"),
        "{line}"
    );
    slots(&rig).clear(0).unwrap();
    let (code, table, said) = command(&rig, &[]);
    assert_eq!(code, 1);
    assert!(table.contains("NO        listener: slot 0"), "{table}");
    assert!(said.contains("1 of 1 pods not captured"), "{said}");
    let (code, json, _) = command(&rig, &["--json"]);
    assert_eq!(code, 1);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["uid"], rig.pod.uid);
    assert_eq!(json[0]["captured"], false);
    assert_eq!(json[0]["faults"][0]["cause"], "listener");
    let (code, table, _) = command(&rig, &["--repair"]);
    assert_eq!(code, 0);
    assert!(table.contains("yes       repaired: listener:"), "{table}");
    let (code, _, said) = command(&rig, &["--pod", "no-such-pod"]);
    assert_eq!(code, 1);
    assert!(said.contains("no enrolled pod of this uid"), "{said}");
    ztunnel.stop().await;
}
