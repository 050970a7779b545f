//! What the agent says to ztunnels: who is served, in which order, and who is refused.

use std::time::Duration;

use netio::seqpacket::Conn;
use proto::zds::{Hello, Request};
use proto::{decode, encode};

use crate::app::App;
use crate::rig::Rig;
use crate::ztunnel::{Manners, Ztunnel};

#[tokio::test(flavor = "multi_thread")]
async fn a_ztunnel_gets_every_known_pod_with_its_descriptors_and_then_the_snapshots_end() {
    let rig = Rig::start().await;
    let first = Ztunnel::connect(&rig.zds_socket()).await;
    assert_eq!(first.requests(), [Request::SnapshotSent]);
    rig.add().unwrap();
    let second = Ztunnel::connect(&rig.zds_socket()).await;
    let requests = second.requests();
    assert_eq!(requests.len(), 2);
    let Request::Add(add) = &requests[0] else {
        panic!("{requests:?}")
    };
    let info = add.pod.clone().unwrap();
    assert_eq!(add.uid, rig.pod.uid);
    assert_eq!(
        (info.name.as_str(), info.namespace.as_str()),
        ("web", "shop")
    );
    assert_eq!(info.service_account, "web");
    assert_eq!(requests[1], Request::SnapshotSent);
    first.stop().await;
    second.stop().await;
}

/// Whether a ztunnel that is this process is served.
async fn is_served(rig: &Rig) -> bool {
    let conn = Conn::connect(&rig.zds_socket()).unwrap();
    let hello = encode::zds_hello(&Hello {
        accepts_listeners: true,
    });
    conn.send(&hello, &[]).await.unwrap();
    match conn.recv(1024, 8).await {
        Ok(Some(message)) => {
            let request = decode::zds_request(&message.bytes).unwrap();
            assert_eq!(request, Request::SnapshotSent);
            true
        }
        Ok(None) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ztunnel_that_shares_its_cgroup_is_not_served_unless_that_is_allowed() {
    let mut rig = Rig::start().await;
    let stranger = App::start(&rig.network.pod.netns, &rig.tree.ztunnel());
    assert!(is_served(&rig).await);
    rig.allow_shared_cgroup = false;
    rig.restart_agent().await;
    assert!(!is_served(&rig).await);
    assert_eq!(rig.status().ztunnels, []);
    drop(stranger);
    // Programs of the other tests of this process are in it now and then.
    for _ in 0..3000 {
        if is_served(&rig).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ztunnel_in_the_cgroup_that_the_hook_is_attached_to_is_not_served() {
    let mut rig = Rig::start_at_ztunnel().await;
    assert!(is_served(&rig).await);
    rig.allow_shared_cgroup = false;
    rig.restart_agent().await;
    for _ in 0..20 {
        assert!(!is_served(&rig).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn adds_go_to_the_newest_and_deletions_to_all() {
    let rig = Rig::start().await;
    let first = Ztunnel::connect(&rig.zds_socket()).await;
    let second = Ztunnel::connect(&rig.zds_socket()).await;
    rig.until("both are ready", |rig| {
        rig.status().ztunnels.iter().all(|z| z.ready)
    })
    .await;
    rig.add().unwrap();
    assert_eq!(
        (first.added(&rig.pod.uid), second.added(&rig.pod.uid)),
        (0, 1)
    );
    rig.del();
    let deleted = Request::Delete {
        uid: rig.pod.uid.clone(),
    };
    first.until(|requests| requests.contains(&deleted)).await;
    second.until(|requests| requests.contains(&deleted)).await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_newest_goes_the_one_before_gets_what_it_has_not_seen() {
    let rig = Rig::start().await;
    let first = Ztunnel::connect(&rig.zds_socket()).await;
    let second = Ztunnel::connect(&rig.zds_socket()).await;
    rig.until("both are ready", |rig| {
        rig.status().ztunnels.iter().all(|z| z.ready)
    })
    .await;
    rig.add().unwrap();
    second.stop().await;
    let uid = rig.pod.uid.clone();
    let is = |request: &Request| matches!(request, Request::Add(add) if add.uid == uid);
    first.until(|requests| requests.iter().any(is)).await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ztunnel_that_takes_no_listeners_is_refused() {
    let rig = Rig::start().await;
    let conn = Conn::connect(&rig.zds_socket()).unwrap();
    conn.send(
        &encode::zds_hello(&Hello {
            accepts_listeners: false,
        }),
        &[],
    )
    .await
    .unwrap();
    assert!(conn.recv(1024, 8).await.unwrap().is_none());
    assert!(rig.status().ztunnels.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_instead_of_a_hello_closes_the_connection() {
    let rig = Rig::start().await;
    let conn = Conn::connect(&rig.zds_socket()).unwrap();
    conn.send(&[0xff; 1024], &[]).await.unwrap();
    assert!(conn.recv(1024, 8).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ztunnel_that_speaks_unasked_is_dropped() {
    let rig = Rig::start().await;
    let conn = Conn::connect(&rig.zds_socket()).unwrap();
    conn.send(
        &encode::zds_hello(&Hello {
            accepts_listeners: true,
        }),
        &[],
    )
    .await
    .unwrap();
    let message = conn.recv(1024, 8).await.unwrap().unwrap();
    assert_eq!(
        decode::zds_request(&message.bytes).unwrap(),
        Request::SnapshotSent
    );
    let ack = encode::zds_ack(&proto::zds::Ack { error: None });
    conn.send(&ack, &[]).await.unwrap();
    conn.send(&ack, &[]).await.unwrap();
    assert!(conn.recv(1024, 8).await.unwrap().is_none());
    rig.until("it is forgotten", |rig| rig.status().ztunnels.is_empty())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_ztunnel_fails_the_add_and_is_dropped() {
    let rig = Rig::start().await;
    let manners = Manners {
        silent: true,
        ..Manners::default()
    };
    let ztunnel = Ztunnel::with(&rig.zds_socket(), manners).await;
    let failure = rig.add().unwrap_err();
    assert_eq!(failure.code, 11, "{failure:?}");
    rig.until("it was dropped", |rig| rig.status().ztunnels.is_empty())
        .await;
    assert!(!rig.pins().exists());
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_four_ztunnels_are_refused() {
    let rig = Rig::start().await;
    let mut ztunnels = Vec::new();
    for _ in 0..4 {
        ztunnels.push(Ztunnel::connect(&rig.zds_socket()).await);
    }
    let conn = Conn::connect(&rig.zds_socket()).unwrap();
    // It may be closed before the hello arrives.
    let _ = conn
        .send(
            &encode::zds_hello(&Hello {
                accepts_listeners: true,
            }),
            &[],
        )
        .await;
    let answer = tokio::time::timeout(Duration::from_secs(60), conn.recv(1024, 8)).await;
    assert!(!matches!(answer.unwrap(), Ok(Some(_))));
    for ztunnel in ztunnels {
        ztunnel.stop().await;
    }
}
