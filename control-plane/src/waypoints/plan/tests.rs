//! Scenarios of planning, by nodes that come and go.

use super::*;

fn gate() -> Name {
    Name::new("shop", "gate")
}

fn wanted(gateways: &[(&str, u32)]) -> BTreeMap<Name, Wanted> {
    let wanted = gateways.iter().map(|(name, replicas)| {
        let wanted = Wanted {
            replicas: Some(*replicas),
            revision: "1".into(),
        };
        (Name::new("shop", name), wanted)
    });
    wanted.collect()
}

fn nodes(nodes: &[(&str, Standing)]) -> BTreeMap<Arc<str>, Standing> {
    nodes
        .iter()
        .map(|(name, at)| ((*name).into(), *at))
        .collect()
}

fn here(names: &[&str]) -> BTreeMap<Arc<str>, Standing> {
    names
        .iter()
        .map(|name| ((*name).into(), Standing::Here))
        .collect()
}

fn pod(node: &str, replica: u32) -> PodReport {
    let report = WaypointReport {
        gateway: "gate".into(),
        replica,
        revision: "1".into(),
        ready: true,
        draining: false,
        problem: "".into(),
    };
    PodReport {
        node: node.into(),
        name: Name::new("shop", "gate-0"),
        uid: "u".into(),
        ips: Vec::new(),
        enrolled: false,
        waypoint: Some(report),
    }
}

fn reports(pods: &[(&str, u32)]) -> BTreeMap<Arc<str>, Vec<PodReport>> {
    let mut reports: BTreeMap<Arc<str>, Vec<PodReport>> = BTreeMap::new();
    for (node, replica) in pods {
        reports
            .entry((*node).into())
            .or_default()
            .push(pod(node, *replica));
    }
    reports
}

fn step(
    plan: &Plan,
    wanted: &BTreeMap<Name, Wanted>,
    nodes: &BTreeMap<Arc<str>, Standing>,
    reports: &BTreeMap<Arc<str>, Vec<PodReport>>,
) -> Plan {
    plan.next(&Situation {
        wanted,
        nodes,
        reports,
    })
}

/// Replica numbers of the gateway `gate` on a node.
fn on(plan: &Plan, node: &str) -> Vec<u32> {
    plan.of(node).map(|assigned| assigned.replica).collect()
}

#[test]
fn replicas_spread_over_the_nodes() {
    let none = BTreeMap::new();
    let plan = step(
        &Plan::default(),
        &wanted(&[("gate", 3)]),
        &here(&["a", "b"]),
        &none,
    );
    assert_eq!((on(&plan, "a"), on(&plan, "b")), (vec![0, 2], vec![1]));
    let wanted = wanted(&[("gate", 1), ("other", 1)]);
    let plan = step(&Plan::default(), &wanted, &here(&["a", "b"]), &none);
    assert_eq!(
        (on(&plan, "a").len(), on(&plan, "b").len()),
        (1, 1),
        "by their load too"
    );
}

#[test]
fn a_node_that_comes_moves_nothing_that_runs() {
    let none = BTreeMap::new();
    let two = wanted(&[("gate", 2)]);
    let before = step(&Plan::default(), &two, &here(&["b"]), &none);
    assert_eq!(on(&before, "b"), [0, 1]);
    assert_eq!(step(&before, &two, &here(&["a", "b", "c"]), &none), before);
    let more = step(&before, &wanted(&[("gate", 3)]), &here(&["a", "b"]), &none);
    assert_eq!((on(&more, "a"), on(&more, "b")), (vec![2], vec![0, 1]));
}

#[test]
fn a_quiet_node_keeps_what_it_has_and_a_gone_one_loses_it() {
    let one = wanted(&[("gate", 1)]);
    let there = reports(&[("a", 0)]);
    let plan = step(&Plan::default(), &one, &here(&["a"]), &there);
    let quiet = nodes(&[("a", Standing::Quiet), ("b", Standing::Here)]);
    let plan = step(&plan, &one, &quiet, &there);
    assert_eq!(on(&plan, "a"), [0]);
    let plan = step(&plan, &one, &here(&["b"]), &there);
    assert_eq!((on(&plan, "a"), on(&plan, "b")), (vec![], vec![0]));
    let plan = step(&plan, &one, &here(&["a", "b"]), &there);
    assert_eq!(
        on(&plan, "b"),
        [0],
        "a node that returns takes nothing back"
    );
}

#[test]
fn the_only_node_keeps_its_replicas_however_long_it_is_silent() {
    let one = wanted(&[("gate", 1)]);
    let there = reports(&[("a", 0)]);
    let plan = step(&Plan::default(), &one, &here(&["a"]), &there);
    let alone = step(&plan, &one, &nodes(&[]), &there);
    assert_eq!(on(&alone, "a"), [0]);
    let quiet = step(&alone, &one, &nodes(&[("b", Standing::Quiet)]), &there);
    assert_eq!(on(&quiet, "a"), [0], "a quiet node gets nothing new");
}

#[test]
fn without_a_node_nothing_is_placed_and_that_is_told() {
    let none = BTreeMap::new();
    let plan = step(
        &Plan::default(),
        &wanted(&[("gate", 2)]),
        &nodes(&[]),
        &none,
    );
    assert_eq!(plan.unplaced(), BTreeMap::from([(gate(), 2)]));
    let plan = step(&plan, &wanted(&[("gate", 2)]), &here(&["a"]), &none);
    assert_eq!(
        (on(&plan, "a"), plan.unplaced()),
        (vec![0, 1], BTreeMap::new())
    );
}

#[test]
fn a_waypoint_that_is_not_wanted_any_more_is_nobodys() {
    let there = reports(&[("a", 0)]);
    let plan = step(
        &Plan::default(),
        &wanted(&[("gate", 1)]),
        &here(&["a"]),
        &there,
    );
    let plan = step(&plan, &wanted(&[]), &here(&["a"]), &there);
    assert_eq!(plan, Plan::default());
    let mut pods = vec![pod("a", 0)];
    plan.check("a", &mut pods);
    assert_eq!(pods[0].waypoint, None);
}

#[test]
fn fewer_replicas_take_the_last_away() {
    let there = reports(&[("a", 0), ("b", 1)]);
    let plan = step(
        &Plan::default(),
        &wanted(&[("gate", 2)]),
        &here(&["a", "b"]),
        &there,
    );
    let plan = step(&plan, &wanted(&[("gate", 1)]), &here(&["a", "b"]), &there);
    assert_eq!((on(&plan, "a"), on(&plan, "b")), (vec![0], vec![]));
}

#[test]
fn a_node_is_believed_about_the_replicas_that_it_was_given_alone() {
    let there = reports(&[("a", 0)]);
    let one = wanted(&[("gate", 1)]);
    let plan = step(&Plan::default(), &one, &here(&["a"]), &there);
    let word = |plan: &Plan, node: &str, replica: u32| {
        let mut pods = vec![pod(node, replica)];
        plan.check(node, &mut pods);
        pods.remove(0).waypoint.map(|report| report.draining)
    };
    assert_eq!(word(&plan, "a", 0), Some(false));
    assert_eq!(word(&plan, "b", 0), None, "another node's replica");
    assert_eq!(word(&plan, "a", 1), None, "a replica that there is not");
    let moved = step(&plan, &one, &here(&["b"]), &there);
    assert_eq!(
        word(&moved, "a", 0),
        Some(true),
        "what was taken from it drains"
    );
    assert_eq!(word(&moved, "b", 0), Some(false));
    let ended = step(&moved, &one, &here(&["a", "b"]), &reports(&[("b", 0)]));
    assert_eq!(
        word(&ended, "a", 0),
        None,
        "once ended it is no replica any more"
    );
}

#[test]
fn a_plan_outlives_its_process() {
    let there = reports(&[("a", 0), ("a", 1)]);
    let both = wanted(&[("gate", 2)]);
    let plan = step(&Plan::default(), &both, &here(&["a"]), &there);
    let plan = step(&plan, &wanted(&[("gate", 1)]), &here(&["a"]), &there);
    let text = serde_json::to_string(&plan.export()).unwrap();
    let restored = Plan::restore(serde_json::from_str(&text).unwrap());
    let one = wanted(&[("gate", 1)]);
    assert_eq!(step(&restored, &one, &nodes(&[]), &there), plan);
}

#[test]
fn a_number_that_cannot_be_read_keeps_what_runs_and_begins_with_one() {
    let mut unread = wanted(&[("gate", 0)]);
    unread.get_mut(&gate()).unwrap().replicas = None;
    let none = BTreeMap::new();
    let nodes = here(&["a", "b", "c"]);
    let three = step(&Plan::default(), &wanted(&[("gate", 3)]), &nodes, &none);
    let held = step(&three, &unread, &nodes, &none);
    assert_eq!(held, three);
    // Also behind a restart, which knows the places alone.
    let again = step(&Plan::restore(three.export()), &unread, &nodes, &none);
    assert_eq!(
        again.waypoints[&gate()].places,
        three.waypoints[&gate()].places
    );
    let first = step(&Plan::default(), &unread, &nodes, &none);
    assert_eq!(first.waypoints[&gate()].places.len(), 1);
}
