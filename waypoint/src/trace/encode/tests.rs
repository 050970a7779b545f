//! Parts of spans that no request of the other tests has.

use super::host_and_port;

#[test]
fn an_authority_is_a_host_and_perhaps_a_port() {
    for (authority, host, port) in [
        ("shop", "shop", None),
        ("shop:81", "shop", Some(81)),
        ("[fd00::1]", "fd00::1", None),
        ("[fd00::1]:81", "fd00::1", Some(81)),
        ("shop:", "shop", None),
        ("", "", None),
    ] {
        assert_eq!(host_and_port(authority), (host, port), "{authority}");
    }
}
