//! What the agent keeps in memory for each captured pod. A process of its own, as its allocator
//! counts.

#![allow(clippy::unwrap_used)] // All of this is test code, though not all of it is in a #[test].

use cni_plugin::steering::watch::AddressWatch;
use futures::FutureExt;
use netio::netns::Netns;

/// More than the runtime allocates for at once.
const WATCHES: usize = 200;
/// What the runtime keeps of a descriptor: 256 bytes, and its place in a list. With buffers it was
/// 72 KiB, three quarters of what a pod cost.
const MOST_BYTES: i64 = 512;

#[test]
fn a_pod_whose_addresses_do_not_change_is_watched_without_a_buffer() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _context = runtime.enter();
    let netns = Netns::current().unwrap();
    let mut watches = Vec::with_capacity(WATCHES);
    let counted = allocation_counter::measure(|| {
        for _ in 0..WATCHES {
            let watch = AddressWatch::new(&netns).unwrap();
            // What reads would keep: it waits, unless an address of this machine changed just now.
            let _ = watch.changed().now_or_never();
            watches.push(watch);
        }
    });
    let each = counted.bytes_current / WATCHES as i64;
    assert!(each <= MOST_BYTES, "{each} bytes a watch: {counted:?}");
}
