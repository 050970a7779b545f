//! Connecting out of a namespace: plain and with a client's source address, and every way it fails.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use netio::TcpListener;
use netio::netns::Netns;
use netio::socket::{
    ConnectError, Family, LOOPBACK_INTERFACE, MARK_TO_LOOPBACK, MARK_UPSTREAM, Source, Upstream,
    connect, mark, netns_cookie, set_unpaced, transparent_listener,
};
use nix::sys::socket::{getsockopt, sockopt};

use crate::{ip, listen_in, lonely_netns, on_both_back_ends, sysctl};

on_both_back_ends!(
    a_plain_connect_belongs_to_the_namespace_and_carries_the_mark,
    many_connects_in_turn_all_belong_to_their_namespace,
    a_closed_port_refuses,
    silence_times_out,
    a_route_that_says_unreachable_is_reported_as_that,
    no_route_is_reported_as_unreachable,
    the_application_sees_the_clients_address_v4,
    the_application_sees_the_clients_address_v6,
    a_client_that_is_the_pod_itself_connects_plainly,
    a_closed_port_refuses_a_spoofed_connect,
    when_all_ports_are_taken_the_range_below_is_tried_and_then_it_says_so,
    a_connect_that_hangs_is_tried_again_from_another_port,
    a_transparent_listener_is_a_listener_of_its_namespace,
    what_goes_over_loopback_is_not_paced_in_either_direction,
);

/// Nothing is waited for when it goes well.
const PATIENCE: Duration = Duration::from_secs(30);
const POD_V4: &str = "10.77.0.1";
const POD_V6: &str = "fd77::1";
const CLIENT_V4: &str = "10.88.0.9";
const CLIENT_V6: &str = "fd88::9";

/// A namespace steered as the design says, on `lo` only: what carries the mark is delivered
/// locally.
fn pod() -> Netns {
    let netns = lonely_netns();
    ip(&netns, &format!("addr add {POD_V4}/32 dev lo"));
    ip(&netns, &format!("addr add {POD_V6}/128 dev lo nodad"));
    ip(
        &netns,
        &format!("route add local default dev lo table 100 src {POD_V4}"),
    );
    ip(
        &netns,
        &format!("-6 route add local default dev lo table 100 src {POD_V6}"),
    );
    ip(&netns, "rule add pref 100 fwmark 0x53a/0xfff lookup 100");
    ip(&netns, "-6 rule add pref 100 fwmark 0x53a/0xfff lookup 100");
    sysctl(&netns, "net.ipv4.tcp_fwmark_accept", "1");
    sysctl(&netns, "net.ipv4.fwmark_reflect", "1");
    sysctl(&netns, "net.ipv6.fwmark_reflect", "1");
    netns
}

fn plain<'a>(netns: &'a Netns, destination: &str) -> Upstream<'a> {
    let destination = destination.parse().unwrap();
    Upstream {
        netns,
        destination,
        mark: MARK_UPSTREAM,
        source: Source::Own,
    }
}

fn spoofed<'a>(
    netns: &'a Netns,
    destination: SocketAddr,
    client: &str,
    live: &'a dyn Fn(u16) -> bool,
) -> Upstream<'a> {
    let ip: IpAddr = client.parse().unwrap();
    let source = Source::Spoofed {
        ip,
        interface: LOOPBACK_INTERFACE,
        live,
    };
    Upstream {
        netns,
        destination,
        mark: MARK_TO_LOOPBACK,
        source,
    }
}

async fn a_plain_connect_belongs_to_the_namespace_and_carries_the_mark() {
    let netns = lonely_netns();
    ip(&netns, &format!("addr add {POD_V4}/32 dev lo"));
    let listener = listen_in(&netns, &format!("{POD_V4}:0"));
    let address = listener.local_addr().unwrap().to_string();
    let stream = connect(&plain(&netns, &address), PATIENCE).await.unwrap();
    assert_eq!(
        netns_cookie(stream.as_fd()).unwrap(),
        netns.cookie().unwrap()
    );
    assert_eq!(mark(stream.as_fd()).unwrap(), MARK_UPSTREAM);
    assert!(crate::is_nodelay(&stream));
    let (accepted, peer) = listener.accept().unwrap();
    assert_eq!(peer.ip().to_string(), POD_V4);
    assert_eq!(stream.local_addr().unwrap(), peer);
    let far = netio::TcpStream::from_std(accepted).unwrap();
    stream.write_all(&b"hello"[..]).await.0.unwrap();
    assert_eq!(far.read(Vec::with_capacity(9)).await.1, b"hello");
}

async fn many_connects_in_turn_all_belong_to_their_namespace() {
    let places = [lonely_netns(), lonely_netns()];
    let listeners: Vec<_> = places
        .iter()
        .map(|netns| (listen_in(netns, "127.0.0.1:0"), listen_in(netns, "[::1]:0")))
        .collect();
    for _ in 0..50 {
        for (netns, (four, six)) in places.iter().zip(&listeners) {
            for listener in [four, six] {
                let address = listener.local_addr().unwrap().to_string();
                let stream = connect(&plain(netns, &address), PATIENCE).await.unwrap();
                let cookie = netns_cookie(stream.as_fd()).unwrap();
                assert_eq!(cookie, netns.cookie().unwrap());
                let (_, peer) = listener.accept().unwrap();
                assert_eq!(stream.local_addr().unwrap(), peer);
            }
        }
    }
}

async fn a_closed_port_refuses() {
    let netns = lonely_netns();
    let error = connect(&plain(&netns, "127.0.0.1:9"), PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Refused), "{error}");
}

async fn silence_times_out() {
    let netns = lonely_netns();
    // What leaves by lo to an address that is nobody's comes in again and is dropped without a
    // word.
    ip(&netns, "route add 192.0.2.1/32 dev lo");
    let timeout = Duration::from_millis(100);
    let error = connect(&plain(&netns, "192.0.2.1:80"), timeout)
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut), "{error}");
}

async fn a_route_that_says_unreachable_is_reported_as_that() {
    let netns = lonely_netns();
    ip(&netns, "route add unreachable 192.0.2.2/32");
    let error = connect(&plain(&netns, "192.0.2.2:80"), PATIENCE)
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error}");
}

async fn no_route_is_reported_as_unreachable() {
    let netns = lonely_netns();
    for destination in ["192.0.2.3:80", "[2001:db8::3]:80"] {
        let error = connect(&plain(&netns, destination), PATIENCE)
            .await
            .unwrap_err();
        assert!(matches!(error, ConnectError::Unreachable(_)), "{error}");
    }
}

async fn the_application_sees_the_clients_address_v4() {
    sees_the_client(&format!("{POD_V4}:0"), CLIENT_V4).await;
}

async fn the_application_sees_the_clients_address_v6() {
    sees_the_client(&format!("[{POD_V6}]:0"), CLIENT_V6).await;
}

async fn sees_the_client(listen: &str, client: &str) {
    let netns = pod();
    let listener = listen_in(&netns, listen);
    let address = listener.local_addr().unwrap();
    let upstream = spoofed(&netns, address, client, &|_| false);
    for _ in 0..20 {
        let stream = connect(&upstream, PATIENCE).await.unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip().to_string(), client);
        assert!((61000..=65535).contains(&peer.port()), "{peer}");
        let far = netio::TcpStream::from_std(accepted).unwrap();
        far.write_all(&b"server speaks first"[..]).await.0.unwrap();
        assert_eq!(
            stream.read(Vec::with_capacity(99)).await.1,
            b"server speaks first"
        );
        stream.write_all(&b"ok"[..]).await.0.unwrap();
        drop(stream);
        assert_eq!(crate::read_to_end(&far).await.unwrap(), b"ok");
    }
}

async fn a_client_that_is_the_pod_itself_connects_plainly() {
    let netns = pod();
    let listener = listen_in(&netns, &format!("{POD_V4}:0"));
    let upstream = spoofed(&netns, listener.local_addr().unwrap(), POD_V4, &|_| false);
    let stream = connect(&upstream, PATIENCE).await.unwrap();
    let (_, peer) = listener.accept().unwrap();
    assert_eq!(peer, stream.local_addr().unwrap());
    assert_eq!(peer.ip().to_string(), POD_V4);
    assert!(!netio::socket::has_transparent(stream.as_fd()).unwrap());
}

async fn a_closed_port_refuses_a_spoofed_connect() {
    let netns = pod();
    for (pod, client) in [(POD_V4, CLIENT_V4), (POD_V6, CLIENT_V6)] {
        let destination = SocketAddr::new(pod.parse().unwrap(), 9);
        let upstream = spoofed(&netns, destination, client, &|_| false);
        let error = connect(&upstream, PATIENCE).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused), "{error}");
    }
}

async fn when_all_ports_are_taken_the_range_below_is_tried_and_then_it_says_so() {
    crate::raise_descriptor_limit();
    let netns = pod();
    let listener = listen_in(&netns, &format!("{POD_V4}:0"));
    let address = listener.local_addr().unwrap();
    let taken: Vec<_> = (61000..=65535).map(|port| occupy(&netns, port)).collect();
    // A search looks at some ports only, and half of these are free.
    let upper_half = |port| port > 30_000;
    let upstream = spoofed(&netns, address, CLIENT_V4, &upper_half);
    let stream = connect(&upstream, PATIENCE).await.unwrap();
    let from = stream.local_addr().unwrap();
    assert_eq!(from.ip().to_string(), CLIENT_V4);
    assert!((1024..=30_000).contains(&from.port()), "{from}");
    let upstream = spoofed(&netns, address, CLIENT_V4, &|_| true);
    let error = connect(&upstream, PATIENCE).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::SourcePortsExhausted),
        "{error}"
    );
    drop(taken);
}

/// Holds a port of the client's address against everybody: bound without SO_REUSEADDR.
fn occupy(netns: &Netns, port: u16) -> socket2::Socket {
    let socket = netns
        .enter(|| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None))
        .unwrap()
        .unwrap();
    socket.set_ip_transparent_v4(true).unwrap();
    let address: SocketAddr = SocketAddr::new(CLIENT_V4.parse().unwrap(), port);
    socket.bind(&address.into()).unwrap();
    socket
}

async fn a_connect_that_hangs_is_tried_again_from_another_port() {
    // A machine that stalls for most of a second proves nothing: not all of them are stalled.
    for _ in 0..10 {
        if one_that_hangs().await {
            return;
        }
    }
    panic!("none was tried again before the kernel would have done it");
}

async fn one_that_hangs() -> bool {
    let netns = pod();
    let address: SocketAddr = format!("{POD_V4}:8080").parse().unwrap();
    let upstream = spoofed(&netns, address, CLIENT_V4, &|_| false);
    // The SYN of the first attempt is lost; the kernel's own retry would come a second later.
    let rule = "-A INPUT -p tcp --dport 8080 --syn";
    iptables(
        &netns,
        &format!("{rule} -m statistic --mode nth --every 1000 --packet 0 -j DROP"),
    );
    let listener = listen_in(&netns, &address.to_string());
    let stream = match connect(&upstream, Duration::from_millis(900)).await {
        Ok(stream) => stream,
        Err(ConnectError::TimedOut) => return false,
        Err(other) => panic!("{other}"),
    };
    let (_, peer) = listener.accept().unwrap();
    assert_eq!(stream.local_addr().unwrap(), peer);
    true
}

fn iptables(netns: &Netns, arguments: &str) {
    let mut command = std::process::Command::new("iptables");
    command.args(arguments.split(' '));
    let place = netio::command::Placement {
        netns: Some(netns),
        ..Default::default()
    };
    place.apply(&mut command).unwrap();
    let output = command.output().unwrap();
    assert!(output.status.success(), "iptables {arguments}: {output:?}");
}

async fn a_transparent_listener_is_a_listener_of_its_namespace() {
    let netns = lonely_netns();
    for family in [Family::V4, Family::V6] {
        let listener = transparent_listener(&netns, family).unwrap();
        assert!(netio::socket::has_transparent(listener.as_fd()).unwrap());
        let cookie = netns.cookie().unwrap();
        assert_eq!(
            netio::socket::check_listener(listener.as_fd(), cookie).unwrap(),
            family
        );
        TcpListener::from_std(listener).unwrap();
    }
}

/// What `bbr` would do, where it is the host's default.
async fn what_goes_over_loopback_is_not_paced_in_either_direction() {
    let netns = pod();
    let listener = listen_in(&netns, &format!("{POD_V4}:0"));
    let address = listener.local_addr().unwrap();
    let upstream = spoofed(&netns, address, CLIENT_V4, &|_| false);
    let to_pod = connect(&upstream, PATIENCE).await.unwrap();
    assert_eq!(congestion_control(&to_pod), "reno");
    let upstream = plain(&netns, &address.to_string());
    let to_network = connect(&upstream, PATIENCE).await.unwrap();
    let as_made = listen_in(&netns, "127.0.0.1:0");
    assert_eq!(
        congestion_control(&to_network),
        congestion_control(&as_made)
    );

    let captured = transparent_listener(&netns, Family::V4).unwrap();
    set_unpaced(captured.as_fd()).unwrap();
    let to_proxy = captured.local_addr().unwrap();
    let captured = TcpListener::from_std(captured).unwrap();
    let _application = netns.enter(|| TcpStream::connect(to_proxy)).unwrap();
    assert_eq!(
        congestion_control(&captured.accept().await.unwrap()),
        "reno"
    );
}

fn congestion_control(socket: &impl AsFd) -> String {
    let name = getsockopt(socket, sockopt::TcpCongestion).unwrap();
    name.to_string_lossy().trim_end_matches('\0').to_owned()
}
