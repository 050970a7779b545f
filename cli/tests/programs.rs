//! The demo's programs and readers on plain pods: what they say of a network without a mesh.

use cli::demo::check::traffic::requests;
use cli::demo::live::{Live, exchange};
use cli::demo::rulesets;
use cli::demo::servers::{HTTP_PORT, Programs};
use world::World;

#[test]
fn clients_and_servers_of_the_demo_understand_each_other_over_both_families() {
    let mut world = World::new().unwrap();
    let (a, b) = (world.node("a").unwrap(), world.node("b").unwrap());
    let client = a.pod("demo/client").unwrap();
    let nginx = a.pod("demo/web-v1").unwrap();
    let python = b.pod("demo/web-v2").unwrap();
    let programs = Programs::write_to(world.directory()).unwrap();
    let _servers = [
        programs.start_nginx(nginx.place()).unwrap(),
        programs.start_web(python.place()).unwrap(),
        programs.start_echo(python.place()).unwrap(),
    ];
    for server in [&nginx, &python] {
        for (address, own) in [
            (server.ipv4().unwrap(), client.ipv4().unwrap()),
            (server.ipv6().unwrap(), client.ipv6().unwrap()),
        ] {
            let answers = requests(&client, (address, HTTP_PORT), 3, "m").unwrap();
            assert_eq!(answers.len(), 3);
            for answer in answers {
                assert_eq!(answer.status, 200, "{answer:?}");
                assert_eq!(answer.server, server.name().name);
                assert_eq!(answer.client, own.to_string());
                assert_eq!(answer.marker, "m");
            }
        }
    }
    let (ok, text) = exchange(&programs, &client, python.ipv6().unwrap()).unwrap();
    assert!(
        ok && text.contains(&format!("sees {}", client.ipv6().unwrap())),
        "{text}"
    );
    let live = Live::open(&programs, &client, "live", python.ipv4().unwrap()).unwrap();
    assert!(live.goes_on());
    python.delete().unwrap();
    // Without a route the echo stops; the connection itself hangs, so it does not count as closed.
    assert!(!live.goes_on());
}

#[test]
fn a_changed_rule_set_is_seen() {
    let world = World::new().unwrap();
    rulesets::add_owners_rules(world.router()).unwrap();
    let before = rulesets::read(world.router()).unwrap();
    assert!(before.contains("table inet owner"), "{before}");
    assert_eq!(before, rulesets::read(world.router()).unwrap());
    let one_more = world::Program::line("iptables -A INPUT -p tcp --dport 5 -j DROP");
    world.router().run(&one_more).unwrap().success().unwrap();
    assert_ne!(before, rulesets::read(world.router()).unwrap());
}
