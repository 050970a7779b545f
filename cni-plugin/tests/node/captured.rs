//! What an enrolled pod's connections do: through the proxy, or past it, on both families.

use proto::zds::ListenerRole as Role;
use serde_json::json;

use crate::ground::{OUTSIDE_V4, OUTSIDE_V6, POD_V4, POD_V6};
use crate::rig::Rig;
use crate::ztunnel::{Manners, Ztunnel};

/// Seconds for which nothing may come through.
const CLOSED_S: u64 = 2;
/// Seconds within which an answer that must come does so.
const ANSWER_S: u64 = 60;

#[tokio::test(flavor = "multi_thread")]
async fn outbound_connections_of_both_families_go_through_the_proxy_with_the_pods_address() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let (mut app, mut outside) = (rig.app(), rig.outsider());
    for (role, server, pod) in [
        (Role::OutboundV4, OUTSIDE_V4, POD_V4),
        (Role::OutboundV6, OUTSIDE_V6, POD_V6),
    ] {
        outside.listen(server, 7000);
        let dialled = app.dial(server, 7000);
        assert_eq!(dialled.mark, 0x53a);
        assert_eq!((dialled.local.as_str(), dialled.seen_as()), (pod, pod));
        app.ping(dialled.id);
        let accepted = ztunnel.accepted();
        assert_eq!(accepted.len(), 1, "{accepted:?}");
        assert_eq!(accepted[0].role, role);
        assert_eq!(
            accepted[0].local,
            format!("{}:7000", bracketed(server)).parse().unwrap()
        );
        assert_eq!(accepted[0].peer.ip().to_string(), pod);
    }
    ztunnel.stop().await;
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn inbound_connections_reach_the_application_once_and_with_the_clients_address() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let (mut app, mut outside) = (rig.app(), rig.outsider());
    for (role, pod, client) in [
        (Role::InboundV4, POD_V4, OUTSIDE_V4),
        (Role::InboundV6, POD_V6, OUTSIDE_V6),
    ] {
        app.listen(pod, 8080);
        let dialled = outside.dial(pod, 8080);
        assert_eq!(dialled.seen_as(), client);
        outside.ping(dialled.id);
        assert_eq!(app.ask(json!({"do": "last_mark"}))["mark"], 0x53a);
        let accepted = ztunnel.accepted();
        assert_eq!(accepted.len(), 1, "captured again: {accepted:?}");
        assert_eq!(accepted[0].role, role);
    }
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_does_not_bind_to_lo_is_captured_again() {
    // The reason for SO_BINDTODEVICE: inet_iif() of a packet looped to the pod's own address is
    // eth0, so that it looks like one from the network.
    let rig = Rig::start().await;
    let manners = Manners {
        unbound_once: true,
        ..Manners::default()
    };
    let ztunnel = Ztunnel::with(&rig.zds_socket(), manners).await;
    rig.add().unwrap();
    let (mut app, mut outside) = (rig.app(), rig.outsider());
    app.listen(POD_V4, 8080);
    let dialled = outside.dial(POD_V4, 8080);
    assert_eq!(dialled.seen_as(), OUTSIDE_V4);
    assert_eq!(ztunnel.accepted().len(), 2);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn port_15008_goes_to_the_hbone_listeners_and_any_other_to_inbound() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let mut outside = rig.outsider();
    for (role, pod) in [(Role::HboneV4, POD_V4), (Role::HboneV6, POD_V6)] {
        let dialled = outside.dial(pod, 15008);
        assert!(dialled.greeting.contains("hbone="), "{}", dialled.greeting);
        assert_eq!(ztunnel.accepted()[0].role, role);
    }
    let mut app = rig.app();
    app.listen("0.0.0.0", 65_000);
    outside.dial(POD_V4, 65_000);
    assert_eq!(ztunnel.accepted()[0].role, Role::InboundV4);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_and_the_pods_own_addresses_are_left_alone() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let mut app = rig.app();
    app.listen("0.0.0.0", 8080);
    app.listen("::", 8080);
    for own in ["127.0.0.1", "::1", POD_V4, POD_V6] {
        let dialled = app.dial(own, 8080);
        assert_eq!(dialled.seen_as(), own);
        app.ping(dialled.id);
    }
    assert_eq!(ztunnel.accepted(), []);
    let mapped = app.dial_with("::ffff:127.0.0.1", 8080, json!({}));
    assert_eq!(mapped.mark, 0);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_sockets_are_captured_too() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let (mut app, mut outside) = (rig.app(), rig.outsider());
    outside.listen(OUTSIDE_V4, 7000);
    let mapped = format!("::ffff:{OUTSIDE_V4}");
    app.dial(&mapped, 7000);
    // No port that the kernel gives to others.
    app.dial_with(OUTSIDE_V4, 7000, json!({"source": [POD_V4, 20_111]}));
    app.dial_with(OUTSIDE_V4, 7000, json!({"mark": 0x7000_0000_u32}));
    let marked = app.dial_with(OUTSIDE_V4, 7000, json!({"mark": 0x53a}));
    assert_eq!(marked.mark, 0x53a);
    const IPPROTO_MPTCP: u32 = 262;
    app.dial_with(OUTSIDE_V4, 7000, json!({"protocol": IPPROTO_MPTCP}));
    assert_eq!(ztunnel.accepted().len(), 5);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_bits_of_an_applications_mark_stay() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let (mut app, mut outside) = (rig.app(), rig.outsider());
    outside.listen(OUTSIDE_V4, 7000);
    let dialled = app.dial_with(OUTSIDE_V4, 7000, json!({"mark": 0x1234_5678_u32}));
    assert_eq!(dialled.mark, 0x1234_553a);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxys_mark_is_believed_from_its_own_cgroup_only() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let mut outside = rig.outsider();
    outside.listen(OUTSIDE_V4, 7000);
    let mut app = rig.app();
    let pretender = app.dial_with(OUTSIDE_V4, 7000, json!({"mark": 0x539}));
    assert_eq!(pretender.mark, 0x53a);
    assert_eq!(ztunnel.accepted().len(), 1);
    let mut proxy = crate::app::App::start(&rig.network.pod.netns, &rig.tree.ztunnel());
    let believed = proxy.dial_with(OUTSIDE_V4, 7000, json!({"mark": 0x539}));
    assert_eq!(believed.mark, 0x539);
    assert_eq!(ztunnel.accepted(), []);
    let unmarked = proxy.dial(OUTSIDE_V4, 7000);
    assert_eq!(unmarked.mark, 0x53a);
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_holder_of_the_listeners_no_connection_passes_either_way() {
    let mut rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let (mut app, mut outside) = (rig.app(), rig.outsider());
    app.listen(POD_V4, 8080);
    outside.listen(OUTSIDE_V4, 7000);
    ztunnel.stop().await;
    rig.stop_agent().await;
    for port in [8080, 15008] {
        let error = outside.dial_error(POD_V4, port, CLOSED_S);
        // Reset: a test beside this one forked, and its child held the listener until its exec.
        // Timeout: for longer than that.
        let closed = [
            "ConnectionRefusedError",
            "ConnectionResetError",
            "TimeoutError",
        ];
        assert!(closed.contains(&error.as_str()), "{error}");
    }
    // The kernel sends no RST from an address that is not its own: the SYN is lost.
    let error = app.dial_error(OUTSIDE_V4, 7000, CLOSED_S);
    assert!(
        ["TimeoutError", "ConnectionResetError"].contains(&error.as_str()),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_can_bind_its_port_while_captured_connections_of_it_live() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let (mut app, mut outside) = (rig.app(), rig.outsider());
    app.listen("0.0.0.0", 8080);
    let inbound = outside.dial(POD_V4, 8080);
    outside.listen(OUTSIDE_V4, 7000);
    let outbound = app.dial(OUTSIDE_V4, 7000);
    app.ask(json!({"do": "unlisten", "addr": "0.0.0.0", "port": 8080}));
    for (port, reuse) in [(8080, true), (8080, false), (7000, true), (7000, false)] {
        let order = json!({"do": "bind", "addr": "0.0.0.0", "port": port, "reuse": reuse});
        let answer = app.ask(order);
        assert!(
            answer.get("error").is_none(),
            "port {port}, reuse {reuse}: {answer}"
        );
    }
    outside.ping(inbound.id);
    app.ping(outbound.id);
    app.listen("0.0.0.0", 9090);
    let taken = json!({"do": "bind", "addr": "0.0.0.0", "port": 9090, "reuse": false});
    assert_eq!(
        app.ask(taken)["error"],
        "OSError",
        "a living listener's port stays taken"
    );
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rst_of_a_closed_port_comes_back_through_the_proxy() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let mut outside = rig.outsider();
    for pod in [POD_V4, POD_V6] {
        assert_eq!(
            outside.dial_error(pod, 8099, ANSWER_S),
            "ConnectionResetError",
            "{pod}"
        );
    }
    let mut app = rig.app();
    for closed in [OUTSIDE_V4, OUTSIDE_V6] {
        assert_eq!(
            app.dial_error(closed, 9, ANSWER_S),
            "ConnectionResetError",
            "{closed}"
        );
    }
    ztunnel.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn capture_works_under_every_reverse_path_filter() {
    let rig = Rig::start().await;
    let ztunnel = Ztunnel::connect(&rig.zds_socket()).await;
    rig.add().unwrap();
    let (mut app, mut outside) = (rig.app(), rig.outsider());
    app.listen(POD_V4, 8080);
    outside.listen(OUTSIDE_V4, 7000);
    for filter in ["0", "1", "2"] {
        for interface in ["all", "eth0", "lo"] {
            rig.network
                .pod
                .sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), filter);
        }
        let out = app.dial(OUTSIDE_V4, 7000);
        app.ping(out.id);
        let inbound = outside.dial(POD_V4, 8080);
        outside.ping(inbound.id);
        assert_eq!(ztunnel.accepted().len(), 2, "rp_filter={filter}");
    }
    ztunnel.stop().await;
}
