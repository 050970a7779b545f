// Numbers shared by the programs and, by tests, with src/steering/abi.rs.
#pragma once

#include <linux/bpf.h>
#include <linux/in.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// linux/bpf.h brings no socket families, and sys/socket.h does not compile for bpf.
#define FAMILY_V6 10

#define LOOPBACK_IFINDEX 1
#define HBONE_PORT 15008
#define DNS_PORT 53

// The proxy's own sockets towards the network; only believed when the caller is a proxy.
#define MARK_PROXY 0x539
// "Deliver to lo": captured sockets and the proxy's sockets towards the application.
#define MARK_CAPTURE 0x53a
// Other bits of the mark belong to the CNI in use, and stay.
#define MARK_MASK 0xfff

// A slot of the listener map is role * 2 + (family is IPv6).
enum role { ROLE_OUTBOUND, ROLE_INBOUND, ROLE_HBONE, ROLE_DNS, ROLES };
#define SLOTS (ROLES * 2)

// Counters: one a role, then these.
enum counter { COUNT_LOCAL = ROLES, COUNT_EXEMPT, COUNT_EMPTY_SLOT, COUNT_ASSIGN_FAILED, COUNTERS };

// IPv4 as ::ffff:a.b.c.d, network byte order.
struct address {
	__u32 word[4];
};

struct prefix {
	__u32 bits;
	struct address address;
};

static __always_inline struct address mapped(__u32 ip4)
{
	struct address address = { .word = { 0, 0, bpf_htonl(0xffff), ip4 } };
	return address;
}

static __always_inline int is_mapped(const struct address *address)
{
	return !address->word[0] && !address->word[1] && address->word[2] == bpf_htonl(0xffff);
}

static __always_inline int is_loopback(const struct address *address)
{
	if (is_mapped(address))
		return bpf_ntohl(address->word[3]) >> 24 == 127;
	return !address->word[0] && !address->word[1] && !address->word[2] &&
	       address->word[3] == bpf_htonl(1);
}
