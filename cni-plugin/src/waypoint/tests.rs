//! What the tests of this module share, and the whole without a namespace.

use std::path::Path;
use std::time::Duration;

use ::process::grpc::agent::WaypointReplica;

use super::*;

pub fn settings(base: &Path) -> Settings {
    Settings {
        binary: Some(base.join("waypoint")),
        arguments: vec!["--node-name=node-1".into()],
        state_dir: base.join("waypoints"),
        cni_conf_dir: base.join("net.d"),
        cni_bin_dirs: vec![base.join("bin")],
        netns_prefix: "culvert-".into(),
        cgroup: base.join("cgroup"),
        log_dir: None,
        drain_deadline: Duration::from_secs(1),
    }
}

pub fn replica(gateway: &str, replica: u32) -> WaypointReplica {
    WaypointReplica {
        namespace: "shop".into(),
        gateway: gateway.into(),
        replica,
        service_account: gateway.into(),
        revision: "1".into(),
        trust_domain: "cluster.local".into(),
    }
}

#[test]
fn what_another_agent_left_is_owned_and_after_a_reboot_it_is_neither_ready_nor_anywhere() {
    let base = tempfile::tempdir().unwrap();
    let settings = settings(base.path());
    let mut record = Record::new(replica("gate", 1), 17, "culvert-", "m".into());
    record.added = Some(serde_json::json!({ "ips": [{ "address": "10.0.0.9/24" }] }));
    // Its namespace and its process are not there any more.
    record.ready = true;
    Store::new(&settings.state_dir).save(&record).unwrap();
    let waypoints = Waypoints::open(settings).unwrap();
    assert!(waypoints.owns(&record.container_id));
    assert!(!waypoints.owns("another") && !waypoints.owns(""));
    let report = waypoints.report().remove(0);
    assert_eq!((&*report.namespace, &*report.name), ("shop", "gate-17"));
    assert_eq!(report.ips, [] as [IpAddr; 0]);
    let waypoint = report.waypoint.unwrap();
    assert_eq!(
        (waypoint.replica, waypoint.ready, waypoint.draining),
        (1, false, false)
    );
}
