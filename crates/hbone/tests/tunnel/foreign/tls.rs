//! The other end's TLS: rustls' buffered connections with verifiers that let anyone in.

use std::io::{Read, Write};
use std::sync::Arc;

use hbone::tls::Credentials;
use hbone::{CloseReason, Connection, Event};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    ServerConnection, SignatureScheme, SupportedProtocolVersion,
};

use crate::certificates::clock;
use crate::pair::START;

#[derive(Debug)]
pub struct Anyone;

impl Anyone {
    fn schemes() -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

impl ClientCertVerifier for Anyone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::schemes()
    }
}

/// A buffered rustls connection of either role.
pub struct Buffered(pub rustls::Connection);

impl Buffered {
    pub fn client(
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&[u8]],
        credentials: Option<&Credentials>,
    ) -> Self {
        Self::client_with(aws_lc_rs::default_provider(), versions, alpn, credentials)
    }

    pub fn client_with(
        provider: CryptoProvider,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&[u8]],
        credentials: Option<&Credentials>,
    ) -> Self {
        let builder = ClientConfig::builder_with_details(Arc::new(provider), clock())
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone));
        let mut config = match credentials {
            Some(c) => builder
                .with_client_auth_cert(c.chain.clone(), c.key.clone_key())
                .unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        let name = "web.example".try_into().unwrap();
        Self(
            ClientConnection::new(Arc::new(config), name)
                .unwrap()
                .into(),
        )
    }

    pub fn server(
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&[u8]],
        credentials: &Credentials,
    ) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_details(provider, clock())
            .with_protocol_versions(versions)
            .unwrap()
            .with_client_cert_verifier(Arc::new(Anyone))
            .with_single_cert(credentials.chain.clone(), credentials.key.clone_key())
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Self(ServerConnection::new(Arc::new(config)).unwrap().into())
    }

    /// Moves bytes both ways until neither end has any.
    pub fn exchange(&mut self, ours: &mut Connection) {
        loop {
            let mut bytes = Vec::new();
            while self.0.wants_write() {
                self.0.write_tls(&mut bytes).unwrap();
            }
            let mut moved = !bytes.is_empty();
            ours.handle_input(START, &mut bytes);
            ours.poll_transmit(START, &mut bytes, 1 << 20);
            moved |= !bytes.is_empty();
            self.feed(&bytes);
            if !moved {
                return;
            }
        }
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.0.read_tls(&mut bytes).is_err() {
                return;
            }
            // What is wrong here shows as an alert there.
            if self.0.process_new_packets().is_err() {
                return;
            }
            let _ = self.0.reader().read(&mut [0; 100_000]);
        }
    }

    /// How our end ends against this one.
    pub fn against(mut self, mut ours: Connection) -> CloseReason {
        self.exchange(&mut ours);
        let _ = self.0.writer().write(b"x");
        self.exchange(&mut ours);
        while let Some(event) = ours.poll_event() {
            if let Event::Closed(reason) = event {
                return reason;
            }
        }
        panic!("not over: {ours:?}");
    }
}
