//! What the searches of this thread for a source port found out a moment ago, so that thousands of
//! connects towards one address do not each find out the same. Knows no socket.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::netns::NetnsId;

/// How long a search's word holds: ports come free when connections end, and one search in that
/// time costs nothing.
const HOLDS_FOR: Duration = Duration::from_millis(500);
/// Words of one thread; one more and all are forgotten, which costs one search each. 1,024 of about
/// 100 bytes are 100 KB.
const WORDS: usize = 1_024;

/// Who connects where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Towards {
    /// The namespace of the socket.
    pub(super) netns: NetnsId,
    /// The source address.
    pub(super) client: IpAddr,
    /// Address and port of the destination.
    pub(super) destination: SocketAddr,
}

/// What a search found taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Taken {
    /// The range that is tried first.
    Preferred,
    /// The range beyond it too.
    Everything,
}

thread_local! {
    static TAKEN: RefCell<HashMap<Towards, (Taken, Instant)>> = RefCell::default();
}

/// What was found taken a moment ago.
pub(super) fn recall(towards: &Towards) -> Option<Taken> {
    TAKEN.with_borrow_mut(|words| {
        let (taken, since) = *words.get(towards)?;
        if since.elapsed() < HOLDS_FOR {
            return Some(taken);
        }
        words.remove(towards);
        None
    })
}

/// Notes what a search has just found taken.
pub(super) fn note(towards: Towards, taken: Taken) {
    TAKEN.with_borrow_mut(|words| {
        if words.len() >= WORDS {
            words.clear();
        }
        words.insert(towards, (taken, Instant::now()));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_for_its_own_address_only_and_the_words_are_bounded() {
        let towards = |port: u16| Towards {
            netns: NetnsId { dev: 1, ino: 1 },
            client: [10, 0, 0, 1].into(),
            destination: ([10, 0, 0, 2], port).into(),
        };
        note(towards(80), Taken::Preferred);
        assert_eq!(recall(&towards(80)), Some(Taken::Preferred));
        assert_eq!(recall(&towards(81)), None);
        assert!(Some(Taken::Everything) > Some(Taken::Preferred));
        for port in 1..5_000 {
            note(towards(port), Taken::Everything);
        }
        assert!(TAKEN.with_borrow(|words| words.len() <= WORDS));
    }

    #[test]
    fn a_word_is_forgotten_after_a_while() {
        let towards = Towards {
            netns: NetnsId { dev: 1, ino: 2 },
            client: [10, 0, 0, 1].into(),
            destination: ([10, 0, 0, 2], 80).into(),
        };
        note(towards, Taken::Everything);
        std::thread::sleep(HOLDS_FOR);
        assert_eq!(recall(&towards), None);
    }
}
