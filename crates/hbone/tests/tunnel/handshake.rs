//! Who gets in and who does not, and what the log says.

use std::collections::BTreeSet;

use hbone::tls::{
    ClientTls, Credentials, HandshakeError, IdentityMismatch, ServerTls, TlsSetupError,
};
use hbone::{CloseReason, Config, Connection, Event, KeyExchange};
use mesh::identity::Identity;
use rustls::crypto::aws_lc_rs;
use rustls::version::{TLS12, TLS13};

use crate::certificates::{Leaf, Mesh, clock, expected, id};
use crate::foreign::tls::Buffered;
use crate::pair::{Cut, Pair, START};

fn server_of(credentials: &Credentials) -> Connection {
    let tls = ServerTls::new(credentials, "cluster.local", clock()).unwrap();
    Connection::server(&tls, &Config::default(), START).unwrap()
}

fn client_of(credentials: &Credentials, expected: BTreeSet<Identity>) -> Connection {
    let tls = ClientTls::new(credentials, clock()).unwrap();
    Connection::client(&tls, expected, &Config::default(), START).unwrap()
}

/// How both ends end that do not come together: client, server.
fn failure(client: Connection, server: Connection) -> (CloseReason, CloseReason) {
    let mut pair = Pair::of(client, server, 1, Cut::UpTo(3000));
    for _ in 0..200 {
        pair.step();
        if !pair.client.conn.is_finished() || !pair.server.conn.is_finished() {
            continue;
        }
        for end in [&mut pair.client, &mut pair.server] {
            end.pump(pair.now);
        }
        return (pair.client.closed.unwrap(), pair.server.closed.unwrap());
    }
    panic!("not over: {:?} {:?}", pair.client.conn, pair.server.conn);
}

fn identity_error(reason: CloseReason) -> IdentityMismatch {
    match reason {
        CloseReason::Handshake(HandshakeError::Identity(mismatch)) => mismatch,
        other => panic!("{other:?}"),
    }
}

#[test]
fn both_ends_learn_who_the_other_is_and_prefer_the_hybrid_exchange() {
    let mesh = Mesh::new();
    let mut client = client_of(&mesh.credentials(&id("client")), expected(&["api", "web"]));
    let mut server = server_of(&mesh.credentials(&id("web")));
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        client.poll_transmit(START, &mut up, 1 << 20);
        server.handle_input(START, &mut up);
        server.poll_transmit(START, &mut down, 1 << 20);
        client.handle_input(START, &mut down);
    }
    for (conn, name) in [(&mut client, "web"), (&mut server, "client")] {
        let Some(Event::Established { peer, kx }) = conn.poll_event() else {
            panic!("no event")
        };
        assert_eq!(peer.identity(), &id(name));
        assert_eq!(kx, KeyExchange::X25519MlKem768);
        assert_eq!(conn.peer(), Some(&peer));
        assert_eq!(conn.poll_event(), None);
    }
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let mesh = Mesh::new();
    let server = server_of(&mesh.credentials(&id("web")));
    let bare = Buffered::client(&[&TLS13], &[b"h2"], None);
    let reason = bare.against(server);
    assert_eq!(
        reason,
        CloseReason::Handshake(HandshakeError::NoCertificate)
    );
    assert_eq!(
        reason.to_string(),
        "handshake: the peer showed no certificate"
    );
}

#[test]
fn a_client_of_another_trust_domain_is_refused_though_its_chain_is_right() {
    let mesh = Mesh::new();
    let foreign = Identity::new("other.example", "shop", "client").unwrap();
    let client = client_of(&mesh.credentials(&foreign), expected(&["web"]));
    let (at_client, at_server) = failure(client, server_of(&mesh.credentials(&id("web"))));
    let mismatch = identity_error(at_server);
    assert_eq!(
        mismatch.to_string(),
        "the peer is spiffe://other.example/ns/shop/sa/client, not of trust domain cluster.local"
    );
    // The client was through already when the server looked at its certificate.
    assert!(matches!(at_client, CloseReason::Tls(_)), "{at_client:?}");
}

#[test]
fn a_client_of_another_mesh_is_refused() {
    let mesh = Mesh::new();
    let mut credentials = Mesh::new().credentials(&id("client"));
    credentials.roots = vec![mesh.root.clone()];
    let client = client_of(&credentials, expected(&["web"]));
    let (_, at_server) = failure(client, server_of(&mesh.credentials(&id("web"))));
    assert!(matches!(
        identity_error(at_server),
        IdentityMismatch::Untrusted(_)
    ));
}

#[test]
fn certificates_outside_their_time_are_refused_by_either_end() {
    let mesh = Mesh::new();
    let cases = [
        (Leaf::Expired, IdentityMismatch::Expired),
        (Leaf::NotYetValid, IdentityMismatch::NotYetValid),
    ];
    for (leaf, wanted) in cases {
        let client = client_of(&mesh.leaf(&id("client"), leaf), expected(&["web"]));
        let (_, at_server) = failure(client, server_of(&mesh.credentials(&id("web"))));
        assert_eq!(identity_error(at_server), wanted);
        let client = client_of(&mesh.credentials(&id("client")), expected(&["web"]));
        let (at_client, at_server) = failure(client, server_of(&mesh.leaf(&id("web"), leaf)));
        assert_eq!(identity_error(at_client), wanted);
        let refused = matches!(
            at_server,
            CloseReason::Handshake(HandshakeError::Refused(_))
        );
        assert!(refused, "{at_server:?}");
    }
}

#[test]
fn a_server_with_another_identity_is_refused_though_its_chain_is_right() {
    let mesh = Mesh::new();
    let client = client_of(&mesh.credentials(&id("client")), expected(&["web", "api"]));
    let (at_client, _) = failure(client, server_of(&mesh.credentials(&id("db"))));
    let mismatch = identity_error(at_client);
    assert_eq!(
        mismatch.to_string(),
        "the peer is spiffe://cluster.local/ns/shop/sa/db, expected \
         spiffe://cluster.local/ns/shop/sa/api or spiffe://cluster.local/ns/shop/sa/web"
    );
}

#[test]
fn a_certificate_must_name_exactly_one_spiffe_id() {
    let mesh = Mesh::new();
    for leaf in [Leaf::NoUri, Leaf::TwoUris, Leaf::NotSpiffe] {
        let client = client_of(&mesh.leaf(&id("client"), leaf), expected(&["web"]));
        let (_, at_server) = failure(client, server_of(&mesh.credentials(&id("web"))));
        assert!(matches!(
            identity_error(at_server),
            IdentityMismatch::NoIdentity(_)
        ));
        let client = client_of(&mesh.credentials(&id("client")), expected(&["web"]));
        let (at_client, _) = failure(client, server_of(&mesh.leaf(&id("web"), leaf)));
        assert!(matches!(
            identity_error(at_client),
            IdentityMismatch::NoIdentity(_)
        ));
    }
}

#[test]
fn tls_1_2_and_chacha_are_not_spoken() {
    let mesh = Mesh::new();
    let credentials = mesh.credentials(&id("client"));
    let old = Buffered::client(&[&TLS12], &[b"h2"], Some(&credentials));
    let reason = old.against(server_of(&mesh.credentials(&id("web"))));
    let wanted = HandshakeError::Incompatible("TLS 1.3 is required".into());
    assert_eq!(reason, CloseReason::Handshake(wanted));
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256];
    let chacha = Buffered::client_with(provider, &[&TLS13], &[b"h2"], Some(&credentials));
    let reason = chacha.against(server_of(&mesh.credentials(&id("web"))));
    let incompatible = CloseReason::Handshake(HandshakeError::Incompatible(
        "NoCipherSuitesInCommon".into(),
    ));
    assert_eq!(reason, incompatible);
}

#[test]
fn another_protocol_than_h2_is_refused_and_so_is_none() {
    let mesh = Mesh::new();
    let credentials = mesh.credentials(&id("client"));
    for alpn in [&[&b"http/1.1"[..]][..], &[]] {
        let peer = Buffered::client(&[&TLS13], alpn, Some(&credentials));
        let reason = peer.against(server_of(&mesh.credentials(&id("web"))));
        assert_eq!(reason, CloseReason::Handshake(HandshakeError::Alpn));
        let peer = Buffered::server(&[&TLS13], alpn, &mesh.credentials(&id("web")));
        let reason = peer.against(client_of(&credentials, expected(&["web"])));
        assert_eq!(reason, CloseReason::Handshake(HandshakeError::Alpn));
    }
}

#[test]
fn a_client_that_offers_only_x25519_is_taken() {
    let mesh = Mesh::new();
    let mut provider = aws_lc_rs::default_provider();
    for (group, wanted) in [
        (aws_lc_rs::kx_group::X25519, KeyExchange::X25519),
        (aws_lc_rs::kx_group::SECP256R1, KeyExchange::P256),
    ] {
        provider.kx_groups = vec![group];
        let credentials = mesh.credentials(&id("client"));
        let mut peer =
            Buffered::client_with(provider.clone(), &[&TLS13], &[b"h2"], Some(&credentials));
        let mut server = server_of(&mesh.credentials(&id("web")));
        peer.exchange(&mut server);
        let event = server.poll_event();
        let taken = matches!(event, Some(Event::Established { kx, .. }) if kx == wanted);
        assert!(taken, "{event:?}");
    }
}

#[test]
fn half_a_handshake_ends_in_time_and_a_lost_one_at_once() {
    let mesh = Mesh::new();
    let mut server = server_of(&mesh.credentials(&id("web")));
    let deadline = server.poll_timeout().unwrap();
    assert_eq!(deadline, START.plus(Config::default().handshake_timeout));
    server.handle_input(START, &mut vec![22, 3, 1]);
    server.handle_timeout(START);
    assert_eq!(server.poll_event(), None);
    server.handle_timeout(deadline);
    let timeout = CloseReason::Handshake(HandshakeError::Timeout);
    assert_eq!(server.poll_event(), Some(Event::Closed(timeout)));
    assert!(server.is_finished());
    assert_eq!(server.poll_timeout(), None);

    let mut server = server_of(&mesh.credentials(&id("web")));
    server.handle_eof(START);
    let closed = CloseReason::Handshake(HandshakeError::Closed);
    assert_eq!(server.poll_event(), Some(Event::Closed(closed)));
}

#[test]
fn what_is_not_tls_is_refused() {
    let mesh = Mesh::new();
    let mut server = server_of(&mesh.credentials(&id("web")));
    server.handle_input(START, &mut b"GET / HTTP/1.1\r\nHost: web\r\n\r\n".to_vec());
    let event = server.poll_event();
    let broken = matches!(
        event,
        Some(Event::Closed(CloseReason::Handshake(
            HandshakeError::Broken(_)
        )))
    );
    assert!(broken, "{event:?}");
}

#[test]
fn a_handshake_message_in_endless_pieces_is_bounded() {
    let mesh = Mesh::new();
    let mut server = server_of(&mesh.credentials(&id("web")));
    // A ClientHello that announces 60 KiB and comes in records of one byte.
    let mut stream = vec![1, 0, 0xf0, 0];
    stream.resize(61_000, 0);
    let mut records: Vec<u8> = stream.iter().flat_map(|b| [22, 3, 1, 0, 1, *b]).collect();
    let mut sent = 0;
    while !server.is_closed() {
        let mut piece: Vec<u8> = records.drain(..1000.min(records.len())).collect();
        assert!(!piece.is_empty(), "everything was kept");
        sent += piece.len();
        server.handle_input(START, &mut piece);
    }
    assert!(sent <= 140_000, "{sent} bytes were kept");
}

#[test]
fn nobody_is_expected_is_an_error_at_once() {
    let mesh = Mesh::new();
    let outcome = Connection::client(&mesh.client(), BTreeSet::new(), &Config::default(), START);
    assert_eq!(outcome.err(), Some(HandshakeError::NobodyExpected));
}

#[test]
fn credentials_that_cannot_serve_are_told_apart() {
    let mesh = Mesh::new();
    let sound = mesh.credentials(&id("web"));
    let client = |credentials: &Credentials| ClientTls::new(credentials, clock()).err().unwrap();
    let empty = Credentials {
        chain: Vec::new(),
        ..sound.clone()
    };
    assert_eq!(client(&empty), TlsSetupError::NoCertificate);
    let rootless = Credentials {
        roots: Vec::new(),
        ..sound.clone()
    };
    assert_eq!(client(&rootless), TlsSetupError::NoRoot);
    let broken = Credentials {
        roots: vec![vec![1, 2, 3].into()],
        ..sound.clone()
    };
    assert!(matches!(
        client(&broken),
        TlsSetupError::Root { index: 0, .. }
    ));
    let other = Credentials {
        key: mesh.credentials(&id("db")).key,
        ..sound.clone()
    };
    assert!(matches!(client(&other), TlsSetupError::Key(_)));
    let domain = ServerTls::new(&sound, "", clock()).err();
    assert_eq!(domain, Some(TlsSetupError::TrustDomain));
    assert!(!format!("{sound:?}").contains("Pkcs8"));
}

#[test]
fn a_foreign_server_that_trusts_anyone_still_has_to_be_the_expected_one() {
    let mesh = Mesh::new();
    let anyone = Buffered::server(&[&TLS13], &[b"h2"], &mesh.credentials(&id("db")));
    let reason = anyone.against(client_of(
        &mesh.credentials(&id("client")),
        expected(&["web"]),
    ));
    assert!(matches!(
        identity_error(reason),
        IdentityMismatch::Identity { .. }
    ));
}
