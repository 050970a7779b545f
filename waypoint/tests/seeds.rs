//! The fuzz targets of a waypoint in short: the committed seeds, and what a fixed generator makes
//! of them. `fuzz/run.sh` runs the same properties for longer.

#[path = "../../fuzz/fuzz_targets/properties/guard.rs"]
mod guard;
#[path = "../../fuzz/fuzz_targets/properties/openings.rs"]
mod openings;
#[path = "../../fuzz/fuzz_targets/properties/paths.rs"]
mod paths;
#[path = "../../fuzz/fuzz_targets/properties/replay.rs"]
mod replay;
#[path = "../../fuzz/fuzz_targets/properties/routes.rs"]
mod routes;

#[test]
fn bytes_of_http1_clients_hold() {
    replay::replay("guard", 2_000, guard::holds);
}

#[test]
fn first_bytes_of_connections_hold() {
    replay::replay("openings", 1_000, openings::holds);
}

#[test]
fn rewrites_and_redirects_of_paths_hold() {
    replay::replay("paths", 2_000, paths::holds);
}

#[test]
fn requests_and_route_matches_hold() {
    replay::replay("routes", 2_000, routes::holds);
}
