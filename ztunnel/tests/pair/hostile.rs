//! Bad input: peers that are not who they should be, and requests for what is not theirs.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use mesh::workload::TunnelProtocol;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

use crate::app::{accept, talk};
use crate::ca::Ca;
use crate::journal::line;
use crate::raw::Peer;
use crate::world::{World, identity, on_both_back_ends, workload};

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";

fn hbone_address(world: &World) -> SocketAddr {
    SocketAddr::new(world.server.v4.into(), 15008)
}

/// A peer with these credentials tries; it must fail, and the log line of the server must say why.
fn refused(world: &World, credentials: &hbone::tls::Credentials, why: &str) {
    let socket = world.client.connect_plainly(hbone_address(world));
    let source = format!("src.addr={}", socket.local_addr().unwrap());
    let mut peer = Peer::client(socket, credentials, &[identity("server")]);
    // In TLS 1.3 the client may be done before the server has looked at its certificate.
    let outcome = peer
        .establish()
        .and_then(|()| peer.ask(&world.server.address(false).to_string()));
    assert!(outcome.is_err(), "{outcome:?}");
    let inside = line(&["connection failed", &source]);
    assert!(inside.contains(why), "{inside}");
    assert!(!inside.contains("src.identity"), "{inside}");
}

#[test]
fn a_peer_of_the_mesh_is_served() {
    on_both_back_ends(|world| {
        let listener = world.server.serve(false);
        let credentials = world.ca.credentials(CLIENT, |_| {});
        let socket = world.client.connect_plainly(hbone_address(&world));
        let mut peer = Peer::client(socket, &credentials, &[identity("server")]);
        peer.establish().unwrap();
        assert_eq!(peer.ask(&world.server.address(false).to_string()), Ok(200));
        drop(accept(&listener));
        world.stop();
    });
}

#[test]
fn a_peer_without_a_certificate_is_refused() {
    on_both_back_ends(|world| {
        let mut socket = world.client.connect_plainly(hbone_address(&world));
        let source = format!("src.addr={}", socket.local_addr().unwrap());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from("server").unwrap();
        let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut rest = Vec::new();
        assert!(stream.read_to_end(&mut rest).is_err() || rest.is_empty());
        let inside = line(&["connection failed", &source]);
        assert!(
            inside.contains("the peer showed no certificate"),
            "{inside}"
        );
        world.stop();
    });
}

#[test]
fn a_peer_of_another_trust_domain_is_refused() {
    on_both_back_ends(|world| {
        let id = "spiffe://elsewhere.example/ns/shop/sa/client";
        let credentials = world.ca.credentials(id, |_| {});
        refused(&world, &credentials, "not of trust domain cluster.local");
        world.stop();
    });
}

#[test]
fn a_peer_with_an_expired_certificate_is_refused() {
    on_both_back_ends(|world| {
        let credentials = world.ca.credentials(CLIENT, |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        });
        refused(&world, &credentials, "expired");
        world.stop();
    });
}

#[test]
fn a_peer_of_another_root_is_refused() {
    on_both_back_ends(|world| {
        let mut credentials = Ca::new().credentials(CLIENT, |_| {});
        // It knows our root, so it is content with the server.
        credentials.roots = vec![world.ca.root()];
        refused(&world, &credentials, "not signed by a root of this mesh");
        world.stop();
    });
}

#[test]
fn a_peer_that_speaks_no_tls_is_refused() {
    on_both_back_ends(|world| {
        let mut socket = world.client.connect_plainly(hbone_address(&world));
        let source = format!("src.addr={}", socket.local_addr().unwrap());
        socket
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .unwrap();
        let mut rest = Vec::new();
        let _ = socket.read_to_end(&mut rest);
        line(&["connection failed", &source, "handshake"]);
        world.stop();
    });
}

#[test]
fn a_server_with_the_right_chain_but_another_spiffe_id_is_not_spoken_to() {
    on_both_back_ends(|world| {
        let listener = world.server.serve(false);
        // Discovery says that another workload has the address.
        world.push(|snapshot| {
            let mut moved = workload("server", &world.server, TunnelProtocol::Hbone);
            moved.service_account = "somebody-else".into();
            snapshot.insert_workload(moved);
        });
        let source = world.client.expect_refusal(world.server.address(false));
        let out = line(&["connection failed", &source, "direction=\"outbound\""]);
        assert!(
            out.contains("sa/server, expected spiffe://cluster.local/ns/shop/sa/somebody-else"),
            "{out}"
        );
        listener.set_nonblocking(true).unwrap();
        assert!(listener.accept().is_err(), "the application was reached");
        world.stop();
    });
}

#[test]
fn requests_for_what_is_not_the_pods_are_answered_400_and_the_tunnel_goes_on() {
    on_both_back_ends(|world| {
        let listener = world.server.serve(false);
        let credentials = world.ca.credentials(CLIENT, |_| {});
        let socket = world.client.connect_plainly(hbone_address(&world));
        let mut peer = Peer::client(socket, &credentials, &[identity("server")]);
        peer.establish().unwrap();
        let (v4, v6, other) = (world.server.v4, world.server.v6, world.client.v4);
        for authority in [
            format!("{other}:8080"),
            format!("{v4}:15001"),
            format!("{v4}:15006"),
            format!("{v4}:15008"),
            format!("{v4}:0"),
            format!("{v4}:99999"),
            format!("{v4}"),
            format!("[{v6}]:8080"),
            format!("{v4}:8080@evil"),
            "127.0.0.1:8080".to_owned(),
            "web.shop:8080".to_owned(),
            "%%%%".to_owned(),
        ] {
            assert_eq!(peer.ask(&authority), Ok(400), "{authority}");
        }
        assert_eq!(
            peer.ask(&format!("{v4}:9999")),
            Ok(503),
            "a port where nobody listens"
        );
        assert_eq!(peer.ask(&format!("{v4}:8080")), Ok(200));
        drop(accept(&listener));
        world.stop();
    });
}

#[test]
fn bytes_of_a_hostile_peer_do_not_harm_the_connections_of_others() {
    on_both_back_ends(|world| {
        let listener = world.server.serve(false);
        let client = world.client.connect(world.server.address(false));
        let server = accept(&listener);
        talk(&client, &server, b"before");
        for seed in 0..20 {
            let mut socket = world.client.connect_plainly(hbone_address(&world));
            let _ = socket.write_all(&crate::app::noise(seed, 10_000));
        }
        let silent = world.client.connect_plainly(hbone_address(&world));
        talk(&client, &server, b"after");
        drop(silent);
        world.stop();
    });
}

/// Takes any server, as an attacker would.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
        ]
    }
}
