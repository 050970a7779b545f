//! The numbers that the BPF programs and user space share (bpf/steer.h has the same; a test
//! compares them), and the one form in which addresses are keys.

use std::net::IpAddr;

/// Mark of captured sockets and of the proxy's sockets towards the application: "deliver to lo".
pub const MARK_CAPTURE: u32 = 0x53a;
/// Mark of the proxy's sockets towards the network.
pub const MARK_PROXY: u32 = 0x539;
/// The bits of a mark that are ours.
pub const MARK_MASK: u32 = 0xfff;
/// Routing table, and preference of the rules that lead to it. Greater than 0, so that table
/// `local` still wins for loopback and the pod's own addresses.
pub const TABLE: u32 = 100;
/// Index of lo in every network namespace.
pub const LOOPBACK_IFINDEX: u32 = 1;

/// Listeners of a pod, in the order of their slots and of ZDS: outbound, inbound, hbone, each v4
/// then v6. The DNS slots (6, 7) stay empty until DNS capture comes.
pub const LISTENERS: usize = 6;

/// Names of the counters in map `stats`, by index.
pub const COUNTERS: [&str; 8] = [
    "outbound",
    "inbound",
    "hbone",
    "dns",
    "left_alone_local",
    "left_alone_exempt",
    "refused_no_listener",
    "refused_assign_failed",
];

/// Address as key: 16 bytes in network order, IPv4 as ::ffff:a.b.c.d.
pub fn address_key(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The address of a key.
pub fn key_address(key: [u8; 16]) -> IpAddr {
    std::net::Ipv6Addr::from(key).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_says_the_same_numbers() {
        let header = include_str!("../../bpf/steer.h");
        for line in [
            format!("#define MARK_CAPTURE {MARK_CAPTURE:#x}"),
            format!("#define MARK_PROXY {MARK_PROXY:#x}"),
            format!("#define MARK_MASK {MARK_MASK:#x}"),
            format!("#define LOOPBACK_IFINDEX {LOOPBACK_IFINDEX}"),
            "enum role { ROLE_OUTBOUND, ROLE_INBOUND, ROLE_HBONE, ROLE_DNS, ROLES };".into(),
            "enum counter { COUNT_LOCAL = ROLES, COUNT_EXEMPT, COUNT_EMPTY_SLOT, \
             COUNT_ASSIGN_FAILED, COUNTERS };"
                .into(),
        ] {
            assert!(header.contains(&line), "steer.h lacks `{line}`");
        }
    }

    #[test]
    fn keys_are_mapped_addresses_and_come_back() {
        let v4: IpAddr = "10.1.2.3".parse().unwrap();
        let v6: IpAddr = "fd00::1".parse().unwrap();
        assert_eq!(address_key(v4)[10..], [0xff, 0xff, 10, 1, 2, 3]);
        assert_eq!(key_address(address_key(v4)), v4);
        assert_eq!(key_address(address_key(v6)), v6);
    }
}
