//! Authority, baggage and forwarded: what is read can be written and is read alike again.
#![no_main]

use hbone::Headers;
use hbone::authority::Authority;
use hbone::baggage::{BAGGAGE, Baggage};
use hbone::forwarded::Forwarded;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
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
});
