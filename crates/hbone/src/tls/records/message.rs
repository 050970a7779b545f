//! Handshake messages after the handshake: put together from records, cut apart, told apart (RFC
//! 8446 4 and 5.1). What they do is not known here.

use super::fault::Fault;

/// Type and length in front of a message.
const HEADER_BYTES: usize = 4;

/// `new_session_ticket`, which only a server sends.
const NEW_SESSION_TICKET: u8 = 4;

/// `key_update`.
const KEY_UPDATE: u8 = 24;

/// Longest session ticket message, bytes: a ticket of nearly 64 KiB is what the format allows, and
/// what rustls takes of any message.
const MAX_TICKET_BYTES: usize = 0xffff;

/// A message that came whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'a> {
    /// The peer seals with a new key from its next record on; `asks`: it wants the same of us.
    KeyUpdate { asks: bool },
    /// The body of a session ticket.
    Ticket(&'a [u8]),
}

/// The first message of `bytes` and how many of them it takes; None when more must come, which is
/// a bounded number. What cannot become a message is refused as soon as that shows.
pub(super) fn first(bytes: &[u8], tickets: bool) -> Result<Option<(Message<'_>, usize)>, Fault> {
    let Some(kind) = bytes.first() else {
        return Ok(None);
    };
    match *kind {
        KEY_UPDATE => {}
        NEW_SESSION_TICKET if tickets => {}
        other => return Err(Fault::Message(other)),
    }
    let Some((header, rest)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, header[1], header[2], header[3]]);
    let length = usize::try_from(length).map_err(|_| Fault::Unreadable)?;
    let fits = match *kind {
        KEY_UPDATE => length == 1,
        _ => length <= MAX_TICKET_BYTES,
    };
    if !fits {
        return Err(Fault::Unreadable);
    }
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    let message = match body {
        [asks @ (0 | 1)] if *kind == KEY_UPDATE => Message::KeyUpdate { asks: *asks == 1 },
        [other] if *kind == KEY_UPDATE => return Err(Fault::UpdateKind(*other)),
        ticket => Message::Ticket(ticket),
    };
    Ok(Some((message, HEADER_BYTES + length)))
}

/// A KeyUpdate as it is sent.
pub(super) fn key_update(ask: bool) -> [u8; HEADER_BYTES + 1] {
    [KEY_UPDATE, 0, 0, 1, u8::from(ask)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_is_read() {
        for asks in [false, true] {
            let sent = key_update(asks);
            let read = first(&sent, false);
            assert_eq!(read, Ok(Some((Message::KeyUpdate { asks }, sent.len()))));
            for cut in 0..sent.len() {
                assert_eq!(first(&sent[..cut], false), Ok(None));
            }
        }
    }

    #[test]
    fn a_message_that_nobody_may_send_is_refused_by_its_first_byte() {
        for kind in 0..=u8::MAX {
            let allowed = |tickets| kind == KEY_UPDATE || kind == NEW_SESSION_TICKET && tickets;
            for tickets in [false, true] {
                let expected = match allowed(tickets) {
                    true => Ok(None),
                    false => Err(Fault::Message(kind)),
                };
                assert_eq!(first(&[kind], tickets), expected);
            }
        }
    }

    #[test]
    fn lengths_are_judged_before_the_body_comes() {
        assert_eq!(first(&[24, 0, 0, 2], false), Err(Fault::Unreadable));
        assert_eq!(first(&[24, 0, 0, 0], false), Err(Fault::Unreadable));
        assert_eq!(first(&[24, 0, 0, 1, 2], false), Err(Fault::UpdateKind(2)));
        assert_eq!(first(&[4, 1, 0, 0], true), Err(Fault::Unreadable));
        assert_eq!(first(&[4, 0, 0xff, 0xff], true), Ok(None));
        let ticket = first(&[4, 0, 0, 2, 7, 8, 9], true);
        assert_eq!(ticket, Ok(Some((Message::Ticket(&[7, 8]), 6))));
    }
}
