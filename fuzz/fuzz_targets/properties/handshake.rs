//! Bytes of somebody without a certificate, in pieces, into either end of a tunnel that waits for
//! the handshake: nobody is ever established, the end comes once and is one that a log can print,
//! and little is said.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hbone::tls::{ClientTls, Credentials, ServerTls};
use hbone::{Config, Connection, Event, Mono};
use mesh::identity::Identity;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, SanType, date_time_ymd};
use rustls::pki_types::{PrivateKeyDer, UnixTime};
use rustls::time_provider::TimeProvider;

/// Wall clock of every run: 2026-06-01.
const NOW: Duration = Duration::from_secs(1_780_272_000);

/// More than a server's first flight or an alert takes, bytes.
const MOST_SAID: usize = 16 << 10;

#[derive(Debug)]
struct StillClock;

impl TimeProvider for StillClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(NOW))
    }
}

struct Ends {
    client: ClientTls,
    server: ServerTls,
    expected: BTreeSet<Identity>,
}

/// Keys that no input can know: they are made anew by each process.
static ENDS: LazyLock<Ends> = LazyLock::new(|| {
    let identity: Identity = "spiffe://cluster.local/ns/shop/sa/web"
        .parse()
        .expect("an identity");
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.subject_alt_names = vec![SanType::URI(
        identity.to_string().try_into().expect("ASCII"),
    )];
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = date_time_ymd(2027, 1, 1);
    let certificate = params.self_signed(&key).expect("a certificate");
    let credentials = Credentials {
        chain: vec![certificate.der().clone()],
        key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        roots: vec![certificate.der().clone()],
    };
    Ends {
        client: ClientTls::new(&credentials, Arc::new(StillClock)).expect("a client"),
        server: ServerTls::new(&credentials, "cluster.local", Arc::new(StillClock))
            .expect("a server"),
        expected: [identity].into(),
    }
});

/// Input: which end and how the bytes are cut (`s` and `c`: a server, a client, uncut), then the
/// bytes that it receives.
pub fn holds(input: &[u8]) {
    let [choice, bytes @ ..] = input else {
        return;
    };
    let (config, now) = (Config::default(), Mono::default());
    let mut conn = match choice & 0x10 {
        0 => Connection::client(&ENDS.client, ENDS.expected.clone(), &config, now),
        _ => Connection::server(&ENDS.server, &config, now),
    }
    .expect("an end");
    let piece = match choice & 0x40 {
        0 => usize::from(choice & 0x0f) + 1,
        _ => bytes.len().max(1),
    };
    let mut said = Vec::new();
    let mut ended = 0;
    for piece in bytes.chunks(piece) {
        let mut received = piece.to_vec();
        conn.handle_input(now, &mut received);
        assert!(received.is_empty());
        ended += drain(&mut conn, &mut said);
        assert_eq!(ended, usize::from(conn.is_closed()));
    }
    assert_eq!(conn.poll_timeout().is_none(), conn.is_closed());
    conn.handle_timeout(now.plus(config.handshake_timeout));
    conn.handle_eof(now.plus(config.handshake_timeout));
    ended += drain(&mut conn, &mut said);
    assert!(
        conn.is_finished() && ended == 1,
        "{conn:?} ended {ended} times"
    );
    assert!(said.len() <= MOST_SAID, "{} bytes", said.len());
}

/// How often the end was told, which is all that may be told.
fn drain(conn: &mut Connection, said: &mut Vec<u8>) -> usize {
    assert!(!conn.is_established() && conn.peer().is_none());
    while conn.wants_transmit() {
        assert!(conn.poll_transmit(Mono::default(), said, 1 << 16) > 0);
    }
    let mut ended = 0;
    while let Some(event) = conn.poll_event() {
        let Event::Closed(reason) = event else {
            panic!("{event:?} before the handshake");
        };
        assert!(!reason.to_string().is_empty());
        ended += 1;
    }
    ended
}
