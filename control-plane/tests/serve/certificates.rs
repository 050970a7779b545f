//! What is signed, what is refused, and how a root is replaced.

use std::collections::BTreeMap;
use std::sync::Arc;

use control_plane::authority::root;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use proto::wire::ca::istio_certificate_service_client::IstioCertificateServiceClient;
use proto::wire::ca::{IstioCertificateRequest, IstioCertificateResponse};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use tonic::{Code, Status};
use x509_parser::prelude::*;

use super::harness::{Culvertd, soon};
use super::waypoints::{Agent, gateway};

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let uri = |name: &&str| SanType::URI(Ia5String::try_from(*name).unwrap());
    params.subject_alt_names = names.iter().map(uri).collect();
    params
}

fn csr(params: &CertificateParams, key: &KeyPair) -> String {
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn request(csr: String, identity: &str) -> IstioCertificateRequest {
    let value = Value {
        kind: Some(Kind::StringValue(identity.to_owned())),
    };
    let fields = BTreeMap::from([("ImpersonatedIdentity".to_owned(), value)]);
    IstioCertificateRequest {
        csr,
        validity_duration: 600,
        metadata: Some(Struct { fields }),
    }
}

fn good() -> IstioCertificateRequest {
    request(
        csr(&params(&[CLIENT]), &KeyPair::generate().unwrap()),
        CLIENT,
    )
}

async fn ask(
    culvertd: &Culvertd,
    node: &str,
    request: IstioCertificateRequest,
) -> Result<IstioCertificateResponse, Status> {
    let mut client = IstioCertificateServiceClient::new(culvertd.as_node(node).await);
    let asked = client.create_certificate(request);
    soon("the answer", asked)
        .await
        .map(tonic::Response::into_inner)
}

fn ders(chain: &[String]) -> Vec<CertificateDer<'static>> {
    let der = |pem: &String| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    chain.iter().map(der).collect()
}

/// The chain that is shown to peers, and the roots that came with it.
fn split(chain: &[String]) -> (Vec<CertificateDer<'static>>, Vec<CertificateDer<'static>>) {
    ders(chain).into_iter().partition(|der| {
        let (_, cert) = X509Certificate::from_der(der).unwrap();
        cert.subject() != cert.issuer() || !cert.is_ca()
    })
}

/// Whether peers that trust `roots` take the chain.
fn verifies(chain: &[CertificateDer<'static>], roots: &[CertificateDer<'static>]) -> bool {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider);
    let verifier = verifier.build().unwrap();
    let verified = verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now());
    verified.is_ok()
}

#[tokio::test]
async fn a_certificate_says_what_the_authority_says_and_nothing_of_the_request() {
    let culvertd = Culvertd::mesh().await;
    let mut asked = params(&[CLIENT]);
    asked
        .distinguished_name
        .push(rcgen::DnType::CommonName, "somebody");
    let key = KeyPair::generate().unwrap();
    let answer = ask(&culvertd, "node-a", request(csr(&asked, &key), CLIENT))
        .await
        .unwrap();
    let chain = ders(&answer.cert_chain);
    assert_eq!(chain.len(), 2);
    let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
    let (_, top) = X509Certificate::from_der(&chain[1]).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(names.critical);
    assert_eq!(names.value.general_names, [GeneralName::URI(CLIENT)]);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature());
    assert_eq!(usage.value.flags, 1, "more than digitalSignature");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.client_auth && extended.server_auth && !extended.any);
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    assert_eq!(leaf.public_key().raw, {
        let spki = key.public_key_pem();
        ::pem::parse(spki).unwrap().contents().to_vec()
    });
    assert!(leaf.raw_serial().len() >= 16 && leaf.raw_serial()[0] < 0x80);
    let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert!((600..=800).contains(&life), "{life} s");
    assert!(top.is_ca() && top.subject() == top.issuer());
    leaf.verify_signature(Some(top.public_key())).unwrap();
    assert!(verifies(&chain[..1], &chain[1..]));
    culvertd.stop().await;
}

#[tokio::test]
async fn nobody_gets_more_than_the_leaf_ttl() {
    let culvertd = Culvertd::mesh().await;
    for asked in [0, 86_400, i64::MAX] {
        let request = IstioCertificateRequest {
            validity_duration: asked,
            ..good()
        };
        let answer = ask(&culvertd, "node-a", request).await.unwrap();
        let chain = ders(&answer.cert_chain);
        let (_, leaf) = X509Certificate::from_der(&chain[0]).unwrap();
        let left = leaf.validity().time_to_expiration().unwrap();
        assert!(left <= std::time::Duration::from_secs(3600), "{left:?}");
    }
    let request = IstioCertificateRequest {
        validity_duration: -1,
        ..good()
    };
    assert_eq!(
        ask(&culvertd, "node-a", request).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    culvertd.stop().await;
}

#[tokio::test]
async fn an_identity_that_does_not_run_on_the_callers_node_is_refused() {
    let culvertd = Culvertd::mesh().await;
    let elsewhere = "spiffe://elsewhere.org/ns/shop/sa/client";
    let nobody = "spiffe://cluster.local/ns/shop/sa/nobody";
    for (node, identity) in [
        ("node-b", CLIENT),
        ("node-a", WEB),
        ("node-a", nobody),
        ("node-a", elsewhere),
    ] {
        let csr = csr(&params(&[identity]), &KeyPair::generate().unwrap());
        let status = ask(&culvertd, node, request(csr, identity))
            .await
            .unwrap_err();
        assert_eq!(
            status.code(),
            Code::PermissionDenied,
            "{identity} on {node}"
        );
    }
    culvertd.stop().await;
}

#[tokio::test]
async fn a_bad_request_is_refused_with_the_reason() {
    let culvertd = Culvertd::mesh().await;
    let key = KeyPair::generate().unwrap();
    let mut broken = params(&[CLIENT])
        .serialize_request(&key)
        .unwrap()
        .der()
        .to_vec();
    *broken.last_mut().unwrap() ^= 1;
    let broken = ::pem::encode(&::pem::Pem::new("CERTIFICATE REQUEST", broken));
    let mut usage = params(&[CLIENT]);
    usage.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let mut extended = params(&[CLIENT]);
    extended.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    let mut authority = params(&[CLIENT]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let mut custom = params(&[CLIENT]);
    custom.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(
        &[1, 3, 6, 1, 4, 1, 99999, 1],
        vec![5, 0],
    )];
    let mut dns = params(&[CLIENT]);
    dns.subject_alt_names
        .push(SanType::DnsName("example.org".try_into().unwrap()));
    let ed25519 = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let trailing = csr(&params(&[CLIENT]), &key).repeat(2);
    for (csr, word) in [
        (broken, "signature"),
        (csr(&usage, &key), "extension"),
        (csr(&extended, &key), "extension"),
        (csr(&authority, &key), "extension"),
        (csr(&custom, &key), "1.3.6.1.4.1.99999.1"),
        (csr(&dns, &key), "2 names"),
        (csr(&params(&[]), &key), "0 names"),
        (csr(&params(&[CLIENT, WEB]), &key), "2 names"),
        (csr(&params(&[WEB]), &key), WEB),
        (csr(&params(&[CLIENT]), &ed25519), "ECDSA"),
        (trailing, "2 blocks"),
        (key.public_key_pem(), "PUBLIC KEY"),
        (String::new(), "0 blocks"),
        ("x".repeat(20_000), "20000 bytes"),
    ] {
        let status = ask(&culvertd, "node-a", request(csr, CLIENT))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{word}");
        assert!(
            status.message().contains(word),
            "no `{word}` in `{}`",
            status.message()
        );
    }
    let nameless = IstioCertificateRequest {
        metadata: None,
        ..good()
    };
    let status = ask(&culvertd, "node-a", nameless).await.unwrap_err();
    assert!(
        status.message().contains("ImpersonatedIdentity"),
        "{status}"
    );
    culvertd.stop().await;
}

#[tokio::test]
async fn the_curves_that_proxies_use_are_taken() {
    let culvertd = Culvertd::mesh().await;
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384] {
        let csr = csr(
            &params(&[CLIENT]),
            &KeyPair::generate_for(algorithm).unwrap(),
        );
        ask(&culvertd, "node-a", request(csr, CLIENT))
            .await
            .unwrap();
    }
    culvertd.stop().await;
}

#[tokio::test]
async fn certificates_from_before_and_after_a_rotation_verify_each_other() {
    let culvertd = Culvertd::mesh().await;
    let pinned = culvertd.root();
    let before = ask(&culvertd, "node-a", good()).await.unwrap();
    root::rotate(&culvertd.state()).unwrap();
    let after = ask(&culvertd, "node-a", good()).await.unwrap();
    let (old_chain, old_roots) = split(&before.cert_chain);
    let (new_chain, new_roots) = split(&after.cert_chain);
    assert_eq!((old_chain.len(), old_roots.len()), (1, 1));
    assert_eq!((new_chain.len(), new_roots.len()), (2, 2));
    for chain in [&old_chain, &new_chain] {
        for roots in [&old_roots, &new_roots] {
            assert!(verifies(chain, roots));
        }
    }
    // Who pinned the old bundle still reaches culvertd, whose own certificate is by the new root.
    let bundle = culvertd.root();
    assert_eq!(bundle.matches("BEGIN CERTIFICATE").count(), 2);
    assert_ne!(bundle, pinned);
    let served_by_new_root = async {
        loop {
            let newest = bundle
                .split_inclusive("-----END CERTIFICATE-----\n")
                .next()
                .unwrap();
            match culvertd.channel_trusting(newest).await {
                Ok(_) => break,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    };
    soon("the new server certificate", served_by_new_root).await;
    culvertd.channel_trusting(&pinned).await.unwrap();
    // Two rotations at once would leave somebody out.
    assert!(root::rotate(&culvertd.state()).is_err());
    root::retire(&culvertd.state()).unwrap();
    let last = ask(&culvertd, "node-a", good()).await.unwrap();
    let (last_chain, last_roots) = split(&last.cert_chain);
    assert_eq!((last_chain.len(), last_roots.len()), (1, 1));
    assert!(verifies(&new_chain, &last_roots) && verifies(&last_chain, &new_roots));
    assert!(
        !verifies(&old_chain, &last_roots),
        "the old root is still trusted"
    );
    assert!(root::retire(&culvertd.state()).is_err());
    culvertd.stop().await;
}

#[tokio::test]
async fn a_waypoints_certificate_is_for_the_node_that_runs_it() {
    let culvertd = Culvertd::mesh().await;
    culvertd.write("gate.yaml", &gateway(""));
    let identity = "spiffe://cluster.local/ns/shop/sa/gate";
    let csr = || csr(&params(&[identity]), &KeyPair::generate().unwrap());
    let asked = || request(csr(), identity);
    // Nobody has said that it runs one.
    let refused = ask(&culvertd, "node-a", asked()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let mut owner = Agent::follow(&culvertd, "node-a").await;
    owner.told(&[0]).await;
    let mut other = Agent::follow(&culvertd, "node-b").await;
    owner.report(0).await;
    // One that says so and was not given it is not believed.
    other.report(0).await;
    let signed = ask(&culvertd, "node-a", asked()).await.unwrap();
    assert_eq!(signed.cert_chain.len(), 2);
    let refused = ask(&culvertd, "node-b", asked()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    culvertd.stop().await;
}
