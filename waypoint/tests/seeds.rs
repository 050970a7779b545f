//! The fuzz targets of HTTP in short: the committed seeds, and what a fixed generator makes of
//! them. `fuzz/run.sh` runs the same properties for longer.

#[path = "../../fuzz/fuzz_targets/properties/guard.rs"]
mod guard;
#[path = "../../fuzz/fuzz_targets/properties/replay.rs"]
mod replay;
#[path = "../../fuzz/fuzz_targets/properties/routes.rs"]
mod routes;

#[test]
fn bytes_of_http1_clients_hold() {
    replay::replay("guard", 2_000, guard::holds);
}

#[test]
fn requests_and_route_matches_hold() {
    replay::replay("routes", 2_000, routes::holds);
}
