//! The numbers on the wire, written out by hand: round trips cannot see a wrong one.

use proto::decode;
use proto::zds::{Ack, Add, Hello, ListenerRole, PodInfo, Request};
use proto::{Resource, encode};

/// A field of a text or message.
fn field(number: u32, content: &[u8]) -> Vec<u8> {
    [
        tag(number, 2),
        varint(content.len() as u64),
        content.to_vec(),
    ]
    .concat()
}

/// A field of a number.
fn number(number: u32, value: u64) -> Vec<u8> {
    [tag(number, 0), varint(value)].concat()
}

fn tag(number: u32, kind: u64) -> Vec<u8> {
    varint(u64::from(number) << 3 | kind)
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = vec![];
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

#[test]
fn a_workloads_fields_have_their_numbers() {
    let port = [number(1, 80), number(2, 8080), number(3, 2)].concat();
    let service = [field(1, b"shop/web"), field(2, &field(1, &port))].concat();
    let hostname = [field(1, b"shop"), field(2, b"wp")].concat();
    let waypoint = [field(1, &hostname), number(3, 15009)].concat();
    let gateway = field(2, &[field(1, b"west"), field(2, &[1, 2, 3, 4])].concat());
    let locality = [field(1, b"r"), field(2, b"z"), field(3, b"s")].concat();
    let workload = [
        field(20, b"c//Pod/shop/web-1"),
        field(1, b"web-1"),
        field(2, b"shop"),
        field(3, &[10, 0, 0, 1]),
        field(21, b"host"),
        field(4, b"net"),
        number(5, 1),
        field(6, b"td"),
        field(7, b"sa"),
        field(8, &waypoint),
        field(19, &gateway),
        field(9, b"n1"),
        field(10, b"web"),
        field(11, b"v1"),
        number(12, 3),
        field(13, b"owner"),
        number(14, 1),
        field(23, &[number(1, 1), number(2, 9000)].concat()),
        field(22, &service),
        field(16, b"shop/deny"),
        number(17, 1),
        field(18, b"c"),
        field(24, &locality),
        number(25, 1),
        field(27, &number(1, 7)),
    ];
    let read = decode::address(&field(1, &workload.concat())).unwrap();
    let Resource::Workload(w) = &read else {
        panic!()
    };
    assert_eq!(
        w.identity().unwrap().to_string(),
        "spiffe://td/ns/shop/sa/sa"
    );
    assert_eq!(
        w.waypoint.as_ref().unwrap().to_string(),
        "shop/wp port 15009"
    );
    assert_eq!(
        w.network_gateway.as_ref().unwrap().to_string(),
        "west/1.2.3.4 port 15008"
    );
    let texts = [&w.name, &w.hostname, &w.network, &w.node, &w.canonical_name];
    assert_eq!(texts.map(|t| &**t), ["web-1", "host", "net", "n1", "web"]);
    let texts = [&w.canonical_revision, &w.workload_name, &w.cluster];
    assert_eq!(texts.map(|t| &**t), ["v1", "owner", "c"]);
    let text = format!("{w:?}");
    for part in [
        "10.0.0.1",
        "tunnel: Hbone",
        "kind: Job",
        "native_tunnel: true",
        "ApplicationTunnel { protocol: Proxy, port: Some(9000) }",
        "service_port: 80, target_port: 8080, protocol: Http2",
        "health: Unhealthy",
        "region: \"r\", zone: \"z\", subzone: \"s\"",
        "network_mode: HostNetwork",
        "capacity: 7",
        "name: \"deny\"",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    said_again(&read);
}

#[test]
fn a_services_fields_have_their_numbers() {
    let balancing = [number(1, 6), number(1, 1), number(2, 2), number(3, 1)].concat();
    let hostname = [field(1, b"shop"), field(2, b"wp")].concat();
    let weighted = [field(1, &field(1, &hostname)), number(2, 5)].concat();
    let range = [field(1, b"net"), field(2, &[10, 1, 0, 0]), number(3, 16)].concat();
    let service = [
        field(1, b"web"),
        field(2, b"shop"),
        field(3, b"web.shop"),
        field(4, &range),
        field(5, &[number(1, 80), number(2, 8080), number(3, 5)].concat()),
        field(6, b"spiffe://td/ns/a/sa/b"),
        field(7, &field(1, &hostname)),
        field(8, &balancing),
        number(9, 3),
        number(11, 1),
        number(12, 1),
        field(13, &weighted),
        number(14, 1),
    ];
    let read = decode::address(&field(2, &service.concat())).unwrap();
    let Resource::Service(s) = &read else {
        panic!()
    };
    assert_eq!(s.key.to_string(), "shop/web.shop");
    assert_eq!(s.addresses[0].to_string(), "net/10.1.0.0/16");
    assert_eq!(
        s.weighted_waypoints[0].gateway.to_string(),
        "shop/wp port 15008"
    );
    let text = format!("{s:?}");
    for part in [
        "service_port: 80, target_port: 8080, protocol: Tls",
        "routing_preference: [Network, Region], mode: Failover, health: AllowAll",
        "ip_families: Dual",
        "canonical: true",
        "ingress_use_waypoint: true",
        "weight: 5",
        "visibility: Namespace",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    said_again(&read);
}

#[test]
fn a_policys_fields_have_their_numbers() {
    let address = |last: u8| [field(1, &[10, 0, 0, last]), number(2, 32)].concat();
    let account = |name: &[u8]| [field(1, b"ns"), field(2, name)].concat();
    let m = [
        field(1, &field(1, b"exact")),
        field(2, &field(2, b"prefix")),
        field(3, &field(3, b"suffix")),
        field(4, &field(4, b"")),
        field(5, &address(5)),
        field(6, &address(6)),
        field(7, &address(7)),
        field(8, &address(8)),
        // Repeated numbers come packed and one by one.
        field(9, &[varint(90), varint(91)].concat()),
        number(10, 100),
        field(11, &account(b"eleven")),
        field(12, &account(b"twelve")),
    ];
    let rule = field(1, &field(2, &m.concat()));
    let policy = [
        field(1, b"p"),
        field(2, b"shop"),
        number(3, 2),
        number(4, 1),
        field(5, &rule),
        number(6, 1),
    ];
    let read = Resource::Policy(decode::policy(&policy.concat()).unwrap());
    let text = format!("{read:?}");
    for part in [
        "scope: WorkloadSelector",
        "action: Deny",
        "dry_run: true",
        " namespaces: [Exact(\"exact\")]",
        "not_namespaces: [Prefix(\"prefix\")]",
        " principals: [Suffix(\"suffix\")]",
        "not_principals: [Presence]",
        " source_ips: [10.0.0.5/32]",
        "not_source_ips: [10.0.0.6/32]",
        " destination_ips: [10.0.0.7/32]",
        "not_destination_ips: [10.0.0.8/32]",
        " destination_ports: [90, 91]",
        "not_destination_ports: [100]",
        "service_account: \"eleven\" }], not_service_accounts",
        "service_account: \"twelve\"",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    said_again(&read);
}

fn said_again(resource: &Resource) {
    assert_eq!(
        &decode::discovered(&encode::discovered(resource, "")).unwrap(),
        resource
    );
}

#[test]
fn zds_messages_have_their_numbers() {
    let info = [field(1, b"web"), field(2, b"shop"), field(3, b"sa")].concat();
    let add = [field(1, b"uid"), field(2, &info), field(100, &[1, 6])].concat();
    let pod = PodInfo {
        name: "web".into(),
        namespace: "shop".into(),
        service_account: "sa".into(),
    };
    let listeners = vec![ListenerRole::OutboundV4, ListenerRole::HboneV6];
    let expected = Request::Add(Add {
        uid: "uid".into(),
        pod: Some(pod),
        listeners,
    });
    assert_eq!(decode::zds_request(&field(1, &add)).unwrap(), expected);
    let uid = || "uid".to_owned();
    let keep = decode::zds_request(&field(5, &field(1, b"uid"))).unwrap();
    assert_eq!(keep, Request::Keep { uid: uid() });
    // The uid of a deletion has number 2.
    let delete = decode::zds_request(&field(2, &field(2, b"uid"))).unwrap();
    assert_eq!(delete, Request::Delete { uid: uid() });
    assert_eq!(
        decode::zds_request(&field(3, b"")).unwrap(),
        Request::SnapshotSent
    );
    let hello = decode::zds_hello(&[number(1, 1), number(100, 1)].concat()).unwrap();
    assert_eq!(
        hello,
        Hello {
            accepts_listeners: true
        }
    );
    let stock = decode::zds_hello(&number(1, 1)).unwrap();
    assert_eq!(
        stock,
        Hello {
            accepts_listeners: false
        }
    );
    let ack = decode::zds_ack(&field(1, &field(1, b"no"))).unwrap();
    assert_eq!(
        ack,
        Ack {
            error: Some("no".into())
        }
    );
    assert_eq!(
        decode::zds_ack(&field(1, b"")).unwrap(),
        Ack { error: None }
    );
}
