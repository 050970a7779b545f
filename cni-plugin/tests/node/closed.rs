//! What the agent cannot read or cannot do leaves pods captured, or says that it is not done.

use std::os::unix::fs::MetadataExt;

use aya::maps::{Array, Map, MapData};
use cni_plugin::plugin::code;
use cni_plugin::steering::program::{MAPS_VERSION, MAX_ADDRESSES};

use crate::ground::{POD_V4, ip};
use crate::rig::Rig;
use crate::traffic::{Connections, servers};
use crate::ztunnel::Ztunnel;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_whose_record_is_unreadable_stays_captured() {
    let mut rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    rig.stop_agent().await;
    let path = rig.state_dir().join(format!("{}.json", rig.pod.uid));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
    let stray = rig.bpffs.path().join("stray-pod");
    std::fs::create_dir(&stray).unwrap();
    rig.restart_agent().await;
    assert!(!stray.exists(), "what has no record at all goes");
    assert!(rig.pins().join("link").exists() && path.exists());
    let metrics = rig.metrics();
    assert!(metrics.contains("culvert_agent_unreadable_records 1"));
    let (mut app, mut outside) = servers(&rig);
    ztunnel.accepted();
    Connections::open(&mut app, &mut outside);
    assert_eq!(ztunnel.accepted().len(), 4);
    // A ztunnel that comes now is told to keep what it has of the pod.
    let next = Ztunnel::connect(&rig.zds_socket()).await;
    let uid = rig.pod.uid.clone();
    let kept = |request: &proto::zds::Request| match request {
        proto::zds::Request::Keep { uid: of } => *of == uid,
        _ => false,
    };
    assert!(next.requests().iter().any(kept), "{:?}", next.requests());
    ztunnel.stop().await;
    rig.add().unwrap();
    assert!(rig.verify(false).captured);
    rig.restart_agent().await;
    assert_eq!(rig.phase(), "enrolled");
    assert!(rig.metrics().contains("culvert_agent_unreadable_records 0"));
    next.stop().await;
}

/// The number in map `config` of the pod.
fn format(rig: &Rig) -> Array<MapData, u32> {
    let map = MapData::from_pin(rig.pins().join("config")).unwrap();
    Map::Array(map).try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn maps_of_another_version_are_left_as_they_are_and_their_pod_stays_captured() {
    let mut rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    assert_eq!(format(&rig).get(&0, 0).unwrap(), MAPS_VERSION);
    rig.stop_agent().await;
    format(&rig).set(0, MAPS_VERSION + 1, 0).unwrap();
    let link = |rig: &Rig| std::fs::metadata(rig.pins().join("link")).unwrap().ino();
    let before = link(&rig);
    rig.restart_agent().await;
    assert_eq!(rig.phase(), "enrolled");
    // A repair and an ADD refuse too, and say what to do.
    assert!(!rig.verify(true).captured);
    let failure = rig.add().unwrap_err();
    assert_eq!(failure.code, code::NOT_CAPTURED, "{failure:?}");
    let named = format!(
        "format {} and this agent knows {MAPS_VERSION}",
        MAPS_VERSION + 1
    );
    assert!(failure.details.contains(&named), "{failure:?}");
    assert!(failure.details.contains("start it anew"), "{failure:?}");
    assert_eq!(format(&rig).get(&0, 0).unwrap(), MAPS_VERSION + 1);
    assert_eq!(link(&rig), before);
    let (mut app, mut outside) = servers(&rig);
    ztunnel.accepted();
    Connections::open(&mut app, &mut outside);
    assert_eq!(ztunnel.accepted().len(), 4);
    // The end of the pod is the same in every version.
    rig.del();
    assert!(!rig.pins().exists());
    let next = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    assert!(rig.verify(false).captured);
    ztunnel.stop().await;
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unenrolment_that_could_not_stop_the_capture_says_so_until_it_is_done() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    // The link stays in force by another name, and cannot be opened by its own.
    let (link, aside) = (rig.pins().join("link"), rig.bpffs.path().join("aside"));
    std::fs::rename(&link, &aside).unwrap();
    std::fs::create_dir(&link).unwrap();
    for _ in 0..2 {
        let failure = rig.unenrol().unwrap_err();
        assert_eq!(failure.code, code::NOT_CAPTURED, "{failure:?}");
        assert!(failure.msg.contains("inbound"), "{failure:?}");
        assert_eq!(rig.phase(), "leaving");
    }
    std::fs::remove_dir(&link).unwrap();
    // Unless it was done between the two, and the pins are gone.
    let back = std::fs::rename(&aside, &link);
    assert!(back.is_ok() || !rig.pins().exists(), "{back:?}");
    // Without another call.
    rig.until("it left", |rig| rig.phase() == "not_enrolled")
        .await;
    assert!(!rig.pins().exists());
    ztunnel.accepted();
    let (_app, mut outside) = servers(&rig);
    outside.dial(POD_V4, 8080);
    assert_eq!(ztunnel.accepted(), []);
    assert!(!rig.unenrol().unwrap().0);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_could_not_be_taken_over_fails_its_check_until_an_add_makes_it_whole() {
    let mut rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    rig.stop_agent().await;
    ztunnel.stop().await;
    let name = rig.network.pod.name.clone();
    // More than the program's map holds.
    let too_many = |verb: &str| {
        let one = |last: usize| format!("-n {name} addr {verb} 10.77.0.{last}/24 dev eth0\n");
        ip(&(100..100 + MAX_ADDRESSES).map(one).collect::<String>());
    };
    too_many("add");
    rig.restart_agent().await;
    assert_eq!(rig.phase(), "enrolled");
    let failure = rig.check().unwrap_err();
    assert_eq!(failure.code, code::BROKEN, "{failure:?}");
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    assert_eq!(rig.add().unwrap_err().code, code::NOT_CAPTURED);
    too_many("del");
    assert!(rig.add().unwrap().0);
    assert!(rig.check().unwrap().0);
    let (mut app, mut outside) = servers(&rig);
    Connections::open(&mut app, &mut outside);
    assert_eq!(ztunnel.accepted().len(), 4);
    ztunnel.stop().await;
}
