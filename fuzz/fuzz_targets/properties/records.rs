//! A tunnel of ours against a stranger: rustls' buffered connection with a codec in it. Sizes,
//! cuts, changes of keys, damages and ends come from the input. What arrives is always what was
//! sent, in order; whole where nothing was damaged; and each end learns by the right alert what the
//! other found.

use std::io::{Read, Write};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hbone::codec::Codec;
use hbone::tls::{ClientTls, Credentials, ServerTls};
use hbone::{
    CloseReason, Config, ConnectRequest, ConnectResponse, Connection, ErrorCode, Event, Mono,
    StreamId,
};
use mesh::identity::Identity;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Error, RootCertStore, ServerConfig,
    ServerConnection,
};

/// Wall clock of every run: 2026-06-01.
const NOW: Duration = Duration::from_secs(1_780_272_000);

/// The clock of tunnels stands still: nothing is ever due.
const START: Mono = Mono(Duration::from_secs(1000));

/// Most steps of one input.
const MOST_STEPS: usize = 100;

/// Changes of keys without data that both ends take: a flood of them is a fault. One below our
/// bound: an answer that we asked for before the last data may still come.
const MOST_CHANGES: usize = 31;

/// Rounds of the link after which nothing may be left to carry.
const MOST_ROUNDS: usize = 2000;

/// More than any record takes: what waits for the rest of one has it then.
const LARGEST_RECORD: usize = 17 << 10;

#[derive(Debug)]
struct StillClock;

impl TimeProvider for StillClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(NOW))
    }
}

/// One workload on both ends: a root and what it signed.
struct World {
    credentials: Credentials,
    client: ClientTls,
    server: ServerTls,
    identity: Identity,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let identity: Identity = "spiffe://cluster.local/ns/shop/sa/web"
        .parse()
        .expect("an identity");
    let root_key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&root_key).expect("a root");
    let issuer = Issuer::new(params, root_key);
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    let uri = identity.to_string().try_into().expect("ASCII");
    // The name is for the stranger, whose verifier is the web's.
    let name = "web.example".try_into().expect("ASCII");
    params.subject_alt_names = vec![SanType::URI(uri), SanType::DnsName(name)];
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    let leaf = params.signed_by(&key, &issuer).expect("a certificate");
    let credentials = Credentials {
        chain: vec![leaf.der().clone()],
        key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        roots: vec![root.der().clone()],
    };
    let clock = Arc::new(StillClock);
    World {
        client: ClientTls::new(&credentials, clock.clone()).expect("a client"),
        server: ServerTls::new(&credentials, "cluster.local", clock).expect("a server"),
        credentials,
        identity,
    }
});

/// The stranger's TLS; one suite, and the exchange that costs least.
fn stranger(client: bool, choice: u8) -> rustls::Connection {
    let World { credentials, .. } = &*WORLD;
    let suite = match choice & 8 {
        0 => aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        _ => aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
    };
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![suite],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    });
    let mut roots = RootCertStore::empty();
    roots.add(credentials.roots[0].clone()).expect("a root");
    let (chain, key) = (credentials.chain.clone(), credentials.key.clone_key());
    let mut connection: rustls::Connection = if client {
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(StillClock))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .expect("a key");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = "web.example".try_into().expect("a name");
        let made = ClientConnection::new(Arc::new(config), name);
        made.expect("a client").into()
    } else {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let mut config = ServerConfig::builder_with_details(provider, Arc::new(StillClock))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .with_client_cert_verifier(verifier.build().expect("a verifier"))
            .with_single_cert(chain, key)
            .expect("a key");
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Its first data comes with the handshake, before it has heard who we are.
        config.send_half_rtt_data = choice & 64 != 0;
        let made = ServerConnection::new(Arc::new(config));
        made.expect("a server").into()
    };
    connection.set_buffer_limit(None);
    connection
}

/// What an application does with its one stream, at either end.
#[derive(Default)]
struct App {
    stream: Option<StreamId>,
    /// It may write.
    open: bool,
    written: usize,
    read: usize,
    closed: Option<CloseReason>,
}

/// The two things that carry streams.
trait Tunnel {
    fn event(&mut self) -> Option<Event>;
    fn respond(&mut self, stream: StreamId);
    fn write(&mut self, stream: StreamId, data: &[u8]) -> usize;
    fn read(&mut self, stream: StreamId) -> Option<Vec<u8>>;
    fn consumed(&mut self, stream: StreamId, bytes: usize);
    fn open(&mut self) -> Option<StreamId>;
}

macro_rules! tunnel {
    ($of:ty) => {
        impl Tunnel for $of {
            fn event(&mut self) -> Option<Event> {
                self.poll_event()
            }

            fn respond(&mut self, stream: StreamId) {
                // The end may have come in between.
                let _ = <$of>::respond(self, stream, &ConnectResponse::of(200));
            }

            fn write(&mut self, stream: StreamId, data: &[u8]) -> usize {
                <$of>::write(self, stream, data).unwrap_or(0)
            }

            fn read(&mut self, stream: StreamId) -> Option<Vec<u8>> {
                <$of>::read(self, stream)
            }

            fn consumed(&mut self, stream: StreamId, bytes: usize) {
                <$of>::consumed(self, stream, bytes);
            }

            fn open(&mut self) -> Option<StreamId> {
                let request = ConnectRequest {
                    authority: "10.0.0.1:80".into(),
                    ..ConnectRequest::default()
                };
                self.open_stream(&request).ok()
            }
        }
    };
}

tunnel!(Connection);
tunnel!(Codec);

/// What stands at a place of a direction.
fn content(seed: usize, at: usize) -> u8 {
    (at * 7 + at / 251 + seed) as u8
}

/// What our end and the stranger write begin with.
const SEEDS: [usize; 2] = [3, 90];

impl App {
    /// Hears what happened and reads what came, which must be what `seed` wrote.
    fn pump(&mut self, tunnel: &mut dyn Tunnel, seed: usize) {
        while let Some(event) = tunnel.event() {
            match event {
                Event::Request { stream, .. } => {
                    tunnel.respond(stream);
                    (self.stream, self.open) = (Some(stream), true);
                }
                Event::Response { .. } => self.open = true,
                Event::Closed(reason) => {
                    assert!(self.closed.is_none(), "a second end: {reason:?}");
                    self.closed = Some(reason);
                }
                _ => {}
            }
        }
        let Some(stream) = self.stream else {
            return;
        };
        while let Some(data) = tunnel.read(stream) {
            for byte in &data {
                assert_eq!(*byte, content(seed, self.read), "byte {}", self.read);
                self.read += 1;
            }
            tunnel.consumed(stream, data.len());
        }
    }

    fn write(&mut self, tunnel: &mut dyn Tunnel, seed: usize, bytes: usize) {
        if let Some(stream) = self.stream
            && self.open
            && self.closed.is_none()
        {
            let data: Vec<u8> = (0..bytes)
                .map(|at| content(seed, self.written + at))
                .collect();
            self.written += tunnel.write(stream, &data);
        }
    }
}

struct Pair {
    conn: Connection,
    ours: App,
    tls: rustls::Connection,
    codec: Codec,
    theirs: App,
    /// Bytes on their way to the stranger, and to us.
    up: Vec<u8>,
    down: Vec<u8>,
    /// What the stranger's TLS found wrong.
    fault: Option<Error>,
    hurt_up: bool,
    hurt_down: bool,
    /// The stranger said goodbye.
    parted: bool,
    /// Changes of the stranger's keys since it sent data.
    changes: usize,
}

impl Pair {
    fn new(choice: u8) -> Self {
        let client = choice & 1 == 0;
        let config = Config {
            key_update_records: [1 << 23, 1, 3, 20][usize::from(choice >> 1 & 3)],
            ..Config::default()
        };
        let World { identity, .. } = &*WORLD;
        let (conn, codec) = match client {
            true => (
                Connection::client(&WORLD.client, [identity.clone()].into(), &config, START),
                Codec::server(&Config::default(), START),
            ),
            false => (
                Connection::server(&WORLD.server, &config, START),
                Codec::client(&Config::default(), START),
            ),
        };
        Self {
            conn: conn.expect("an end"),
            ours: App::default(),
            tls: stranger(!client, choice),
            codec,
            theirs: App::default(),
            up: Vec::new(),
            down: Vec::new(),
            fault: None,
            hurt_up: false,
            hurt_down: false,
            parted: false,
            changes: 0,
        }
    }

    /// What both ends have to say goes onto the link.
    fn speak(&mut self, most: usize) {
        self.ours.pump(&mut self.conn, SEEDS[1]);
        while self.conn.wants_transmit() && self.up.len() <= most {
            let said = self.conn.poll_transmit(START, &mut self.up, most);
            assert!(said > 0, "it wants to say something and does not");
            self.ours.pump(&mut self.conn, SEEDS[1]);
        }
        self.theirs.pump(&mut self.codec, SEEDS[0]);
        if self.fault.is_none() && !self.parted {
            let mut plain = Vec::new();
            self.codec.transmit(START, &mut plain, most);
            self.tls.writer().write_all(&plain).expect("room");
            if !plain.is_empty() {
                self.changes = 0;
            }
        }
        self.flush();
    }

    fn flush(&mut self) {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.down).expect("memory takes it");
        }
    }

    fn carry_up(&mut self, most: usize) {
        let bytes: Vec<u8> = self.up.drain(..most.min(self.up.len())).collect();
        let mut rest = &bytes[..];
        while !rest.is_empty() && self.fault.is_none() {
            // EOF after close_notify: what follows is not looked at.
            if self.tls.read_tls(&mut rest).expect("room for a read") == 0 {
                break;
            }
            match self.tls.process_new_packets() {
                Ok(_) => {
                    let mut plain = Vec::new();
                    // The end of data is no fault here.
                    let _ = self.tls.reader().read_to_end(&mut plain);
                    self.codec.receive(START, &plain, 0);
                    self.theirs.pump(&mut self.codec, SEEDS[0]);
                }
                Err(fault) => self.fault = Some(fault),
            }
        }
        self.flush();
    }

    fn carry_down(&mut self, most: usize, piece: usize) {
        let bytes: Vec<u8> = self.down.drain(..most.min(self.down.len())).collect();
        for piece in bytes.chunks(piece.max(1)) {
            let mut received = piece.to_vec();
            self.conn.handle_input(START, &mut received);
            assert!(received.is_empty());
            self.ours.pump(&mut self.conn, SEEDS[1]);
        }
    }

    /// Until nothing is on its way.
    fn settle(&mut self, piece: usize) {
        for _ in 0..MOST_ROUNDS {
            self.speak(1 << 20);
            if self.up.is_empty() && self.down.is_empty() {
                return;
            }
            self.carry_up(usize::MAX);
            self.carry_down(usize::MAX, piece);
        }
        panic!("the ends never fall silent");
    }

    /// From nothing to a stream that both may write to.
    fn begin(&mut self, piece: usize) {
        self.settle(piece);
        assert!(self.conn.is_established(), "{:?}", self.fault);
        match self.conn.open() {
            Some(stream) => self.ours.stream = Some(stream),
            None => self.theirs.stream = self.codec.open(),
        }
        self.settle(usize::MAX);
        assert!(self.ours.open && self.theirs.open);
    }

    fn step(&mut self, action: u8, number: usize) {
        match action % 16 {
            0 => self.ours.write(&mut self.conn, SEEDS[0], number * 3),
            1 => self.ours.write(&mut self.conn, SEEDS[0], number * 300),
            2 => self.theirs.write(&mut self.codec, SEEDS[1], number * 3),
            3 => self.theirs.write(&mut self.codec, SEEDS[1], number * 300),
            4 | 5 => self.speak(number * 300 + 1),
            6 => self.carry_up(number * 3),
            7 => self.carry_up(number * 300),
            8 => self.carry_down(number * 3, number % 7),
            9 => self.carry_down(number * 300, number * 11),
            // One is answered; more wait behind what was said meanwhile.
            10 if self.fault.is_none() && !self.parted && self.changes < MOST_CHANGES => {
                self.changes += 1;
                self.tls.refresh_traffic_keys().expect("an open session");
                self.flush();
            }
            11 => self.hurt_down |= hurt(&mut self.down, number),
            // rustls asserts that nothing is wrong with what it gets once it said goodbye.
            12 if !self.parted => self.hurt_up |= hurt(&mut self.up, number),
            13 if number > 200 && self.fault.is_none() && !self.hurt_up => {
                self.tls.send_close_notify();
                self.parted = true;
                self.flush();
            }
            14 if number > 200 => self.conn.close(ErrorCode::NO_ERROR),
            _ => self.settle(usize::MAX),
        }
    }

    /// What must be so once nothing more comes.
    fn judge(mut self) {
        self.settle(usize::MAX);
        assert!(self.ours.read <= self.theirs.written && self.theirs.read <= self.ours.written);
        if self.hurt_down && self.ours.closed.is_none() {
            // It may wait for the rest of a record: it gets it.
            self.down = vec![0; LARGEST_RECORD];
            self.settle(usize::MAX);
            assert!(self.ours.closed.is_some(), "damage that was not found");
        }
        if !self.hurt_down && !self.hurt_up {
            return self.judge_sound();
        }
        match &self.ours.closed {
            Some(CloseReason::Tls(why)) if why.starts_with("received fatal alert") => {
                assert!(self.hurt_up && self.fault.is_some(), "{why}");
            }
            Some(CloseReason::Tls(why)) => {
                assert!(self.hurt_down, "{why}");
                // The way up is whole, so it has heard of it, and of nothing else.
                let heard = matches!(
                    self.fault,
                    Some(Error::AlertReceived(
                        AlertDescription::BadRecordMac
                            | AlertDescription::RecordOverflow
                            | AlertDescription::UnexpectedMessage
                    ))
                );
                assert!(heard || self.hurt_up, "{why}, but {:?}", self.fault);
            }
            // It had ended before the damage came.
            Some(_) => {}
            None => assert!(self.hurt_up && !self.hurt_down),
        }
    }

    fn judge_sound(&self) {
        assert_eq!(self.fault, None);
        match &self.ours.closed {
            None => {
                assert_eq!(self.ours.read, self.theirs.written);
                assert_eq!(self.theirs.read, self.ours.written);
            }
            Some(CloseReason::Eof { clean: true } | CloseReason::Drained) => {
                assert!(self.parted || self.theirs.closed.is_some());
            }
            Some(reason) => {
                let code = ErrorCode::NO_ERROR;
                assert_eq!(reason, &CloseReason::ByUs { code });
            }
        }
    }
}

/// Flips a bit of what is on its way, if anything is.
fn hurt(bytes: &mut [u8], number: usize) -> bool {
    let at = number * bytes.len() / 256;
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << (number % 8);
        return true;
    }
    false
}

/// Input: roles, keys and how the handshake is cut, then steps of two bytes: what is done, and a
/// number for it.
pub fn holds(input: &[u8]) {
    let [choice, steps @ ..] = input else {
        return;
    };
    let mut pair = Pair::new(*choice);
    let piece = [usize::MAX, 1, 7, 500][usize::from(choice >> 4 & 3)];
    pair.begin(piece);
    for step in steps.as_chunks::<2>().0.iter().take(MOST_STEPS) {
        pair.step(step[0], usize::from(step[1]));
    }
    pair.judge();
}
