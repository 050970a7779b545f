//! Authority, baggage and forwarded: what is read can be written and is read alike again.

use hbone::Headers;
use hbone::authority::Authority;
use hbone::baggage::{BAGGAGE, Baggage};
use hbone::forwarded::Forwarded;

/// Input: a text, read as each of the three.
pub fn holds(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    if let Ok(authority) = text.parse::<Authority>() {
        assert_eq!(authority.to_string().parse(), Ok(authority));
    }
    let baggage = Baggage::of(&Headers::new().with(BAGGAGE, text));
    let written = baggage.to_string();
    let again = Baggage::of(&Headers::new().with(BAGGAGE, written.as_str()));
    assert_eq!(again.to_string(), written);
    let forwarded = Forwarded::parse(text);
    let written = forwarded.to_string();
    assert_eq!(Forwarded::parse(&written).to_string(), written);
}
