//! The fuzz targets of this crate's parsers in short: the committed seeds, and what a fixed
//! generator makes of them. `fuzz/run.sh` runs the same properties for longer.

#[path = "../../fuzz/fuzz_targets/properties/calls.rs"]
mod calls;
#[path = "../../fuzz/fuzz_targets/properties/cni.rs"]
mod cni;
#[path = "../../fuzz/fuzz_targets/properties/replay.rs"]
mod replay;

#[test]
fn messages_of_the_agents_socket_hold() {
    replay::replay("calls", 500, calls::holds);
}

#[test]
fn what_a_runtime_hands_over_holds() {
    replay::replay("cni", 500, cni::holds);
}
