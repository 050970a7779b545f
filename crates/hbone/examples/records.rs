//! CPU of the record layer alone, for `docs/decisions/0003-record-layer.md`: a stream through two
//! ends of a tunnel in memory, and the two ways of sealing that were to choose from.
//!
//! `cargo run --release -p hbone --example records`

#![allow(
    clippy::unwrap_used,
    reason = "a measurement that cannot be made may panic"
)]

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use hbone::tls::{ClientTls, Credentials, ServerTls};
use hbone::{
    Config, ConnectRequest, ConnectResponse, Connection, Event, FRAME_HEADROOM, Mono, StreamId,
};
use mesh::Identity;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::PrivateKeyDer;
use rustls::time_provider::DefaultTimeProvider;

/// Bytes that each measurement moves, in blocks of one large read.
const BYTES: usize = 4 << 30;
const BLOCK: usize = 256 << 10;

/// Most plaintext of a record.
const RECORD: usize = 16 << 10;

/// CPU of this thread so far, seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn credentials(identity: &Identity) -> Credentials {
    let root_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&root_key).unwrap();
    let issuer = Issuer::new(params, root_key);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into().unwrap())];
    let leaf = params.signed_by(&key, &issuer).unwrap();
    Credentials {
        chain: vec![leaf.der().clone()],
        key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        roots: vec![root.der().clone()],
    }
}

/// CPU seconds.
#[derive(Default)]
struct Spent {
    sealing: f64,
    opening: f64,
}

/// Two ends and the wire between them.
struct Pair {
    client: Connection,
    server: Connection,
    wire: Vec<u8>,
}

impl Pair {
    fn new() -> Self {
        let identity = Identity::new("cluster.local", "shop", "web").unwrap();
        let credentials = credentials(&identity);
        let time = Arc::new(DefaultTimeProvider);
        let client = ClientTls::new(&credentials, time.clone()).unwrap();
        let server = ServerTls::new(&credentials, "cluster.local", time).unwrap();
        let (config, now) = (Config::default(), Mono::default());
        Self {
            client: Connection::client(&client, [identity].into(), &config, now).unwrap(),
            server: Connection::server(&server, &config, now).unwrap(),
            wire: Vec::with_capacity(4 * BLOCK),
        }
    }

    fn carry(&mut self, up: bool, spent: &mut Spent) {
        let (from, to) = match up {
            true => (&mut self.client, &mut self.server),
            false => (&mut self.server, &mut self.client),
        };
        self.wire.clear();
        let start = cpu();
        from.poll_transmit(Mono::default(), &mut self.wire, 2 * BLOCK);
        let sealed = cpu();
        to.handle_input(Mono::default(), &mut self.wire);
        spent.sealing += sealed - start;
        spent.opening += cpu() - sealed;
    }

    /// The ends of a stream.
    fn open(&mut self) -> (StreamId, StreamId) {
        let mut asked = None;
        loop {
            self.carry(true, &mut Spent::default());
            self.carry(false, &mut Spent::default());
            while self.client.poll_event().is_some() {}
            while let Some(event) = self.server.poll_event() {
                if let Event::Request { stream, .. } = event {
                    let answer = ConnectResponse::of(200);
                    self.server.respond(stream, &answer).unwrap();
                    self.carry(false, &mut Spent::default());
                    return (asked.unwrap(), stream);
                }
            }
            if asked.is_none() && self.client.is_established() {
                let request = ConnectRequest {
                    authority: "127.0.0.1:80".into(),
                    ..ConnectRequest::default()
                };
                asked = Some(self.client.open_stream(&request).unwrap());
            }
        }
    }
}

/// A stream of bulk from client to server; what the codec does is in it.
fn tunnel() {
    let mut pair = Pair::new();
    let (near, far) = pair.open();
    let block = vec![7; BLOCK];
    let (mut spent, mut got) = (Spent::default(), 0);
    while got < BYTES {
        let room = pair.client.writable_bytes(near).min(BLOCK);
        if room > 0 {
            let mut buffer = pair.client.spare_buffer(room + FRAME_HEADROOM);
            buffer.resize(FRAME_HEADROOM, 0);
            buffer.extend_from_slice(&block[..room]);
            pair.client.write_buffer(near, buffer).unwrap();
        }
        pair.carry(true, &mut spent);
        while pair.server.poll_event().is_some() {}
        while let Some(data) = pair.server.read(far) {
            got += data.len();
            pair.server.consumed(far, data.len());
            pair.server.recycle(data);
        }
        pair.carry(false, &mut Spent::default());
        while pair.client.poll_event().is_some() {}
    }
    let gigabytes = got as f64 / 1e9;
    let (sealing, opening) = (spent.sealing / gigabytes, spent.opening / gigabytes);
    println!("tunnel, CPU-s/GB: sealing {sealing:.3}, opening {opening:.3}");
}

/// Both ways of sealing, of the same bytes.
fn ways() {
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
    // Nobody ever opens it, so one nonce is as good as many.
    let nonce = || Nonce::assume_unique_for_key([1; 12]);
    let source = vec![9; BLOCK];
    let mut out: Vec<u8> = Vec::with_capacity(2 * BLOCK);
    let mut measure = |name, seal: &dyn Fn(&[u8], &mut Vec<u8>)| {
        let start = cpu();
        for _ in 0..BYTES / BLOCK {
            out.clear();
            for record in source.chunks(RECORD) {
                seal(record, &mut out);
            }
        }
        println!("{name}: {:.4}", (cpu() - start) / (BYTES as f64 / 1e9));
    };
    measure("sealed from where it lies, CPU-s/GB", &|record, out| {
        let at = out.len();
        out.resize(at + record.len() + 17, 0);
        let (text, tag) = out[at..].split_at_mut(record.len());
        key.seal_out_of_place_scatter(nonce(), Aad::from([0; 5]), record, text, &[23], tag)
            .unwrap();
    });
    measure("copied and sealed in place, CPU-s/GB", &|record, out| {
        let at = out.len();
        out.extend_from_slice(record);
        out.push(23);
        let tag = key.seal_in_place_separate_tag(nonce(), Aad::from([0; 5]), &mut out[at..]);
        out.extend_from_slice(tag.unwrap().as_ref());
    });
}

fn main() {
    for _ in 0..3 {
        tunnel();
        ways();
    }
}
