//! The fuzz targets of this crate's parsers in short: the committed seeds, and what a fixed
//! generator makes of them. `fuzz/run.sh` runs the same properties for longer.

#[path = "../../../fuzz/fuzz_targets/properties/manifests.rs"]
mod manifests;
#[path = "../../../fuzz/fuzz_targets/properties/replay.rs"]
mod replay;

#[test]
fn manifests_and_the_mesh_of_them_hold() {
    replay::replay("manifests", 40, manifests::holds);
}
