//! Records against a peer that may say anything under the right keys.

use std::sync::Arc;

use mesh::identity::Identity;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::AlertDescription as Alert;
use rustls::pki_types::PrivateKeyDer;
use rustls::time_provider::DefaultTimeProvider;

use super::*;
use crate::tls::{ClientTls, Credentials, ServerTls, Session};

/// More than a test seals under one key.
const MANY: u64 = 1 << 20;

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

/// A client's and a server's records on the same keys.
fn ends(records_per_key: u64) -> [Records; 2] {
    let identity = Identity::new("cluster.local", "shop", "web").unwrap();
    let credentials = credentials(&identity);
    let time = Arc::new(DefaultTimeProvider);
    let client = ClientTls::new(&credentials, time.clone()).unwrap();
    let server = ServerTls::new(&credentials, "cluster.local", time).unwrap();
    let mut client = Session::client(&client, [identity].into(), records_per_key).unwrap();
    let mut server = Session::server(&server, records_per_key).unwrap();
    let mut wire = Vec::new();
    for _ in 0..2 {
        client.take_pending(&mut wire).unwrap();
        server.open(&mut wire, &mut |_| {}).unwrap();
        server.take_pending(&mut wire).unwrap();
        client.open(&mut wire, &mut |_| {}).unwrap();
    }
    [client, server].map(|session| session.into_records().unwrap())
}

/// A record of `peer` around any inner plaintext of at least one byte.
fn sealed(peer: &mut Records, inner: &[u8]) -> Vec<u8> {
    let (last, before) = inner.split_last().unwrap();
    let mut record = Vec::new();
    peer.seals.seal_from(*last, before, &mut record).unwrap();
    record
}

fn inner(content: &[u8], kind: u8, padding: usize) -> Vec<u8> {
    let mut inner = [content, &[kind]].concat();
    inner.resize(inner.len() + padding, 0);
    inner
}

/// What became of one inner plaintext of the peer.
fn hear(ours: &mut Records, peer: &mut Records, inner: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
    let mut record = sealed(peer, inner);
    match ours.open(&mut record)? {
        Content::Data(data) => Ok(Some(data.to_vec())),
        Content::Nothing => Ok(None),
        Content::Closed => Ok(Some(b"closed".to_vec())),
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

/// A session ticket: lifetime, age, nonce, ticket, no extensions.
fn ticket() -> Vec<u8> {
    let body = [
        &[0, 0, 1, 0][..],
        &[1, 2, 3, 4],
        &[1, 9],
        &[0, 3, 7, 7, 7],
        &[0, 0],
    ];
    message(4, &body.concat())
}

/// Opens all records of `bytes` at the peer: kind by kind what they carried.
fn read(peer: &mut Records, bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = bytes.to_vec();
    let mut read = Vec::new();
    while let Some(length) = Records::length(&rest).unwrap() {
        let mut record: Vec<u8> = rest.drain(..length).collect();
        match peer.open(&mut record).unwrap() {
            Content::Data(data) => read.push(data.to_vec()),
            Content::Nothing => read.push(b"nothing".to_vec()),
            Content::Closed => read.push(b"closed".to_vec()),
        }
    }
    assert!(rest.is_empty());
    read
}

#[test]
fn data_of_any_size_and_padding_comes_out_as_it_went_in() {
    let [mut ours, mut peer] = ends(MANY);
    for size in [1, 2, 15, 16, 17, 1000, RECORD_BYTES - 1, RECORD_BYTES] {
        let data = vec![7; size];
        for padding in [0, 1, 255, RECORD_BYTES] {
            let padding = padding.min(RECORD_BYTES - size);
            let heard = hear(&mut ours, &mut peer, &inner(&data, kind::DATA, padding));
            assert_eq!(heard.as_ref(), Ok(&Some(data.clone())), "{size} {padding}");
        }
        let mut out = b"before".to_vec();
        ours.seal(&data, &mut out).unwrap();
        let at = ours.begin(&mut out).unwrap();
        out.extend_from_slice(&data);
        ours.finish(&mut out, at).unwrap();
        assert_eq!(read(&mut peer, &out[6..]), [data.clone(), data]);
    }
}

#[test]
fn padding_alone_is_a_fault_and_an_empty_record_of_data_is_none() {
    let [mut ours, mut peer] = ends(MANY);
    for padding in [0, 1, RECORD_BYTES] {
        let heard = hear(&mut ours, &mut peer, &inner(&[], kind::DATA, padding));
        assert_eq!(heard, Ok(None));
    }
    let heard = hear(&mut ours, &mut peer, &[0; 100]);
    assert_eq!(heard, Err(Fault::NoKind));
}

#[test]
fn what_may_not_come_ends_the_session_by_its_alert() {
    let cases: [(&[u8], u8, Alert); 18] = [
        (&[], kind::HANDSHAKE, Alert::UnexpectedMessage),
        (&[], kind::ALERT, Alert::UnexpectedMessage),
        (&[1], 20, Alert::UnexpectedMessage),
        (&[1], 24, Alert::UnexpectedMessage),
        (&[1], 255, Alert::UnexpectedMessage),
        (&[2], kind::ALERT, Alert::DecodeError),
        (&[2, 40, 0], kind::ALERT, Alert::DecodeError),
        // Renegotiation, a certificate request, Finished once more, and nothing known.
        (&[0, 0, 0, 0], kind::HANDSHAKE, Alert::UnexpectedMessage),
        (&[1, 0, 0, 9], kind::HANDSHAKE, Alert::UnexpectedMessage),
        (&[13, 0, 0, 9], kind::HANDSHAKE, Alert::UnexpectedMessage),
        (&[20], kind::HANDSHAKE, Alert::UnexpectedMessage),
        (&[99], kind::HANDSHAKE, Alert::UnexpectedMessage),
        (&[24, 0, 0, 1, 2], kind::HANDSHAKE, Alert::IllegalParameter),
        (&[24, 0, 0, 0], kind::HANDSHAKE, Alert::DecodeError),
        (&[24, 0, 0, 2], kind::HANDSHAKE, Alert::DecodeError),
        (
            &[24, 0, 0, 1, 0, 24],
            kind::HANDSHAKE,
            Alert::UnexpectedMessage,
        ),
        (&[4, 1, 0, 0], kind::HANDSHAKE, Alert::DecodeError),
        (&[4, 0, 0, 1, 0], kind::HANDSHAKE, Alert::DecodeError),
    ];
    for (content, kind, alert) in cases {
        let [mut ours, mut peer] = ends(MANY);
        let fault = hear(&mut ours, &mut peer, &inner(content, kind, 3)).unwrap_err();
        assert_eq!(fault.alert(), Some(alert), "{content:?} of {kind}: {fault}");
        ours.end(&fault);
        let mut out = Vec::new();
        ours.settle(&mut out).unwrap();
        assert!(!ours.owes());
        let heard = peer.open(&mut out).unwrap_err();
        assert_eq!(heard, Fault::Refused(alert));
        assert_eq!(heard.alert(), None);
    }
}

#[test]
fn tickets_are_for_clients() {
    let [mut client, mut server] = ends(MANY);
    let heard = hear(
        &mut client,
        &mut server,
        &inner(&ticket(), kind::HANDSHAKE, 0),
    );
    assert_eq!(heard, Ok(None));
    let heard = hear(
        &mut server,
        &mut client,
        &inner(&ticket(), kind::HANDSHAKE, 0),
    );
    assert_eq!(heard, Err(Fault::Message(4)));
}

#[test]
fn alerts_of_any_level_mean_what_they_describe() {
    for level in [0, 1, 2, 200] {
        let [mut ours, mut peer] = ends(MANY);
        let mut alert = |alert: u8| hear(&mut ours, &mut peer, &inner(&[level, alert], 21, 0));
        assert_eq!(alert(90), Ok(None));
        assert_eq!(alert(0), Ok(Some(b"closed".to_vec())));
        assert_eq!(alert(49), Err(Fault::Refused(Alert::AccessDenied)));
        assert_eq!(alert(200), Err(Fault::Refused(Alert::Unknown(200))));
    }
}

#[test]
fn messages_come_in_pieces_and_together() {
    let all = [ticket(), ticket(), message(24, &[0])].concat();
    for piece in 1..=all.len() {
        let [mut ours, mut peer] = ends(MANY);
        for piece in all.chunks(piece) {
            let heard = hear(&mut ours, &mut peer, &inner(piece, kind::HANDSHAKE, 0));
            assert_eq!(heard, Ok(None));
        }
        assert_eq!(ours.joining.capacity(), 0, "nothing is held");
        // The peer's next record is under its next key.
        let (next, secrets) = peer.kernel.next_sealing().unwrap();
        peer.seals = Key::new(next, &secrets).unwrap();
        let heard = hear(&mut ours, &mut peer, &inner(b"x", kind::DATA, 0));
        assert_eq!(heard, Ok(Some(b"x".to_vec())));
    }
}

#[test]
fn nothing_comes_between_the_pieces_of_a_message() {
    for (content, kind) in [
        (&b"x"[..], kind::DATA),
        (b"", kind::DATA),
        (&[1, 0], kind::ALERT),
    ] {
        let [mut ours, mut peer] = ends(MANY);
        let begin = inner(&[24, 0, 0], kind::HANDSHAKE, 0);
        assert_eq!(hear(&mut ours, &mut peer, &begin), Ok(None));
        let fault = hear(&mut ours, &mut peer, &inner(content, kind, 0)).unwrap_err();
        assert_eq!(fault, Fault::Interleaved);
        assert_eq!(fault.alert(), Some(Alert::UnexpectedMessage));
    }
}

#[test]
fn a_message_that_never_ends_is_held_up_to_its_bound() {
    let [mut ours, mut peer] = ends(MANY);
    let mut all = message(4, &[0; 0xffff]);
    // One byte short of a ticket that is none: then it is whole, and refused.
    let last = all.pop().unwrap();
    for piece in all.chunks(RECORD_BYTES) {
        let heard = hear(&mut ours, &mut peer, &inner(piece, kind::HANDSHAKE, 0));
        assert_eq!(heard, Ok(None));
    }
    assert_eq!(ours.joining.len(), all.len());
    let fault = hear(&mut ours, &mut peer, &inner(&[last], kind::HANDSHAKE, 0)).unwrap_err();
    assert_eq!(fault.alert(), Some(Alert::DecodeError), "{fault}");
}

#[test]
fn keys_change_when_the_peer_wants_and_once_for_all_that_it_asked() {
    let [mut ours, mut peer] = ends(MANY);
    for asks in [
        [false, false, false],
        [true, true, true],
        [false, true, false],
    ] {
        let mut out = Vec::new();
        for ask in asks {
            peer.update(ask, &mut out).unwrap();
        }
        peer.seal(b"behind", &mut out).unwrap();
        let heard = read(&mut ours, &out);
        assert_eq!(heard.last().unwrap(), b"behind");
        let wanted = asks.contains(&true);
        assert_eq!(ours.owes(), wanted);
        let mut out = Vec::new();
        ours.settle(&mut out).unwrap();
        assert_eq!(out.is_empty(), !wanted);
        ours.seal(b"answer", &mut out).unwrap();
        assert_eq!(read(&mut peer, &out).last().unwrap(), b"answer");
        // The answer asks for nothing.
        assert!(!peer.owes() && !ours.owes());
    }
}

#[test]
fn the_answer_goes_before_the_next_data_even_when_nobody_settles() {
    let [mut ours, mut peer] = ends(MANY);
    let mut out = Vec::new();
    peer.update(true, &mut out).unwrap();
    read(&mut ours, &out);
    out.clear();
    ours.seal(b"data", &mut out).unwrap();
    assert_eq!(read(&mut peer, &out), [&b"nothing"[..], b"data"]);
    assert!(!ours.owes());
}

#[test]
fn messages_without_data_are_bounded_and_data_pays_for_more() {
    let [mut ours, mut peer] = ends(MANY);
    for _ in 0..3 {
        let mut out = Vec::new();
        for _ in 0..MAX_IDLE_MESSAGES {
            peer.update(false, &mut out).unwrap();
        }
        peer.seal(b"x", &mut out).unwrap();
        read(&mut ours, &out);
    }
    for _ in 0..MAX_IDLE_MESSAGES {
        let mut out = Vec::new();
        peer.update(true, &mut out).unwrap();
        read(&mut ours, &out);
        // Empty data pays for nothing.
        let heard = hear(&mut ours, &mut peer, &inner(&[], kind::DATA, 0));
        assert_eq!(heard, Ok(None));
    }
    let mut out = Vec::new();
    peer.update(true, &mut out).unwrap();
    let fault = ours.open(&mut out).unwrap_err();
    assert_eq!(fault, Fault::Flood);
    ours.end(&fault);
    // The alert alone, not the answer that was owed.
    let mut out = Vec::new();
    ours.settle(&mut out).unwrap();
    let fault = peer.open(&mut out).unwrap_err();
    assert_eq!(fault, Fault::Refused(Alert::UnexpectedMessage));
}

#[test]
fn what_we_asked_for_is_no_flood() {
    let [mut ours, mut peer] = ends(1);
    let mut out = Vec::new();
    // The second record asks for new keys, when nothing has come yet.
    for _ in 0..2 {
        ours.seal(b"x", &mut out).unwrap();
    }
    read(&mut peer, &out);
    assert!(peer.owes());
    let mut out = Vec::new();
    peer.settle(&mut out).unwrap();
    for _ in 0..MAX_IDLE_MESSAGES {
        peer.update(false, &mut out).unwrap();
    }
    read(&mut ours, &out);
    let mut out = Vec::new();
    peer.update(false, &mut out).unwrap();
    assert_eq!(ours.open(&mut out), Err(Fault::Flood));
}

#[test]
fn a_damaged_byte_anywhere_is_found_and_nothing_comes_out() {
    let [mut ours, mut peer] = ends(MANY);
    let mut record = Vec::new();
    peer.seal(b"secret", &mut record).unwrap();
    for at in 0..record.len() {
        for bit in 0..8 {
            let mut damaged = record.clone();
            damaged[at] ^= 1 << bit;
            ours.opens.next_is(0);
            let fault = match Records::length(&damaged) {
                Err(fault) => fault,
                // What it announces came to it: more, or less.
                Ok(length) => {
                    damaged.resize(length.unwrap(), 0);
                    ours.open(&mut damaged).unwrap_err()
                }
            };
            let expected = match at {
                0 => Alert::UnexpectedMessage,
                3 if bit == 7 => Alert::RecordOverflow,
                _ => Alert::BadRecordMac,
            };
            assert_eq!(fault.alert(), Some(expected), "bit {bit} of {at}: {fault}");
        }
    }
    ours.opens.next_is(0);
    assert_eq!(read(&mut ours, &record), [b"secret"]);
}

#[test]
fn a_record_that_is_sent_again_or_left_out_is_found() {
    let [mut ours, mut peer] = ends(MANY);
    let mut records = [Vec::new(), Vec::new(), Vec::new()];
    for record in &mut records {
        peer.seal(b"x", record).unwrap();
    }
    let [first, second, third] = records;
    assert!(ours.open(&mut first.clone()).is_ok());
    assert_eq!(ours.open(&mut first.clone()), Err(Fault::Damaged));
    ours.opens.next_is(1);
    assert_eq!(ours.open(&mut third.clone()), Err(Fault::Damaged));
    ours.opens.next_is(1);
    assert!(ours.open(&mut second.clone()).is_ok());
}

#[test]
fn sizes_are_judged_by_the_header_and_by_the_plaintext() {
    let header = |kind, length: usize| {
        let [high, low] = u16::try_from(length).unwrap().to_be_bytes();
        Records::length(&[kind, 3, 3, high, low])
    };
    let largest = HEADER_BYTES + MAX_SEALED_BYTES;
    assert_eq!(header(OUTER_KIND, MAX_SEALED_BYTES), Ok(Some(largest)));
    assert_eq!(
        header(OUTER_KIND, MAX_SEALED_BYTES + 1),
        Err(Fault::Oversized)
    );
    assert_eq!(header(22, 5), Err(Fault::Plain(22)));
    assert_eq!(Records::length(&[OUTER_KIND, 3, 3, 255]), Ok(None));
    for length in 0..=16 {
        let [mut ours, _] = ends(MANY);
        let mut short = vec![OUTER_KIND, 3, 3, 0, u8::try_from(length).unwrap()];
        short.resize(HEADER_BYTES + length, 0);
        assert_eq!(ours.open(&mut short), Err(Fault::Damaged), "{length} bytes");
    }
    let [mut ours, mut peer] = ends(MANY);
    let full = inner(&vec![1; RECORD_BYTES], kind::DATA, 0);
    assert!(hear(&mut ours, &mut peer, &full).is_ok());
    let padded = inner(b"x", kind::DATA, RECORD_BYTES);
    assert_eq!(hear(&mut ours, &mut peer, &padded), Err(Fault::Oversized));
}

#[test]
fn a_key_seals_no_more_records_than_it_may() {
    for (allowed, expected) in [(0, 1), (1, 1), (3, 3), (u64::MAX, MAX_RECORDS_PER_KEY)] {
        let [mut ours, mut peer] = ends(allowed);
        assert_eq!(ours.records_per_key, expected);
        let mut out = Vec::new();
        for _ in 0..7 {
            ours.seal(b"x", &mut out).unwrap();
            assert!(ours.seals.used() <= expected);
        }
        let updates = 6 / expected;
        assert_eq!((ours.key_updates(), ours.sealed()), (updates, 7));
        let heard = read(&mut peer, &out);
        assert_eq!(heard.iter().filter(|data| *data == b"x").count(), 7);
        assert_eq!(heard.len() as u64, 7 + updates);
        assert_eq!(peer.owes(), updates > 0);
    }
}

#[test]
fn a_key_ends_before_its_numbers_repeat() {
    let [mut ours, mut peer] = ends(MANY);
    peer.seals.next_is(u64::MAX);
    let mut out = Vec::new();
    assert_eq!(
        peer.seals.seal_from(kind::DATA, b"x", &mut out),
        Err(Fault::KeyUsedUp)
    );
    assert!(out.is_empty());
    ours.opens.next_is(u64::MAX);
    let mut record = vec![OUTER_KIND, 3, 3, 0, 20];
    record.resize(25, 0);
    assert_eq!(ours.open(&mut record), Err(Fault::KeyUsedUp));
}

#[test]
fn goodbye_is_heard_as_the_end() {
    let [mut ours, mut peer] = ends(MANY);
    let mut out = Vec::new();
    peer.update(true, &mut out).unwrap();
    peer.close();
    peer.settle(&mut out).unwrap();
    assert_eq!(read(&mut ours, &out), [&b"nothing"[..], b"closed"]);
    ours.end_unheard();
    assert!(!ours.owes());
}
