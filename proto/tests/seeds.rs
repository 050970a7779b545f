//! The fuzz targets of this crate's parsers in short: the committed seeds, and what a fixed
//! generator makes of them. `fuzz/run.sh` runs the same properties for longer.

#[path = "../../fuzz/fuzz_targets/properties/replay.rs"]
mod replay;
#[path = "../../fuzz/fuzz_targets/properties/resources.rs"]
mod resources;
#[path = "../../fuzz/fuzz_targets/properties/zds.rs"]
mod zds;

#[test]
fn resources_and_names_hold() {
    replay::replay("resources", 500, resources::holds);
}

#[test]
fn zds_messages_hold() {
    replay::replay("zds", 600, zds::holds);
}
