//! What the kernel tells of a namespace's addresses.

use std::time::Duration;

use cni_plugin::steering::watch::AddressWatch;

use crate::ground::{Space, ip};

/// Until a busy machine has told.
const WITHIN: Duration = Duration::from_secs(60);

/// No word for so long: all is told.
const QUIET: Duration = Duration::from_millis(300);
/// Changes that the kernel may still tell of after four were made.
const MOST: u32 = 20;

fn space() -> Space {
    let space = Space::new("w");
    let name = &space.name;
    ip(&format!(
        "-n {name} link add eth0 type veth peer name other"
    ));
    space
}

async fn changed(watch: &AddressWatch) {
    let told = tokio::time::timeout(WITHIN, watch.changed()).await;
    told.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_addresses_are_told_and_no_more_also_those_before_anybody_asked() {
    let space = space();
    let watch = AddressWatch::new(&space.netns).unwrap();
    let name = &space.name;
    for turn in 0..2 {
        ip(&format!(
            "-n {name} addr add 10.77.0.{}/24 dev eth0
            -n {name} addr add fd77::{}/64 dev eth0 nodad",
            100 + turn,
            200 + turn
        ));
        changed(&watch).await;
    }
    // The kernel tells of an IPv6 address from a queue of its own, so one more may come.
    let mut told = 0;
    while tokio::time::timeout(QUIET, watch.changed()).await.is_ok() {
        told += 1;
        assert!(told < MOST, "changes are told that nobody made");
    }
    ip(&format!("-n {name} addr del fd77::200/64 dev eth0"));
    changed(&watch).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_addresses_that_the_kernel_has_no_room_for_are_told_too() {
    let space = space();
    let watch = AddressWatch::new(&space.netns).unwrap();
    let name = &space.name;
    // More than the 208 KiB of a socket hold, each takes 512 bytes at least.
    let directory = tempfile::tempdir().unwrap();
    let batch = directory.path().join("changes");
    let change = "addr add 10.77.0.9/24 dev eth0\naddr del 10.77.0.9/24 dev eth0\n";
    std::fs::write(&batch, change.repeat(500)).unwrap();
    ip(&format!("-n {name} -batch {}", batch.display()));
    changed(&watch).await;
    // The socket goes on.
    ip(&format!("-n {name} addr add 10.77.0.10/24 dev eth0"));
    changed(&watch).await;
}
