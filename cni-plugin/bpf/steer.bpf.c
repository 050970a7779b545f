// Which socket gets a connection that arrives in an enrolled pod: one program and its maps a pod,
// attached to the pod's network namespace. Not one program for all pods, since sk_lookup may not
// ask for the netns cookie. Needs Linux 5.17 (ingress_ifindex).
#include "steer.h"

// Values of 8 bytes: user space reads the socket's cookie back, which repair and restart need.
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, SLOTS);
	__type(key, __u32);
	__type(value, __u64);
} listeners SEC(".maps");

// Every address of the pod. 64: an interface with more is not a pod's.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct address);
	__type(value, __u32);
} local_addrs SEC(".maps");

// Sources whose connections reach the application untouched (kubelet probes).
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 64);
	__type(key, struct prefix);
	__type(value, __u32);
} exempt SEC(".maps");

// Format of the maps, so that an agent of another version sees what it finds.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} stats SEC(".maps");

static __always_inline void count(__u32 counter)
{
	__u64 *value = bpf_map_lookup_elem(&stats, &counter);

	if (value)
		__sync_fetch_and_add(value, 1);
}

// Without a listener the connection is refused: traffic never passes a proxy that is not there.
static __always_inline int hand_to(struct bpf_sk_lookup *ctx, __u32 role)
{
	__u32 slot = role * 2 + (ctx->family == FAMILY_V6);
	struct bpf_sock *listener = bpf_map_lookup_elem(&listeners, &slot);
	long failed;

	if (!listener) {
		count(COUNT_EMPTY_SLOT);
		return SK_DROP;
	}
	failed = bpf_sk_assign(ctx, listener, 0);
	bpf_sk_release(listener);
	if (failed) {
		count(COUNT_ASSIGN_FAILED);
		return SK_DROP;
	}
	count(role);
	return SK_PASS;
}

static __always_inline int leave_alone(__u32 counter)
{
	count(counter);
	return SK_PASS;
}

// Packets that table 100 sent to lo: what the pod's captured sockets sent, addressed to anyone.
static __always_inline int from_loopback(struct bpf_sk_lookup *ctx, struct address *local)
{
	if (is_loopback(local) || bpf_map_lookup_elem(&local_addrs, local))
		return leave_alone(COUNT_LOCAL);
	if (ctx->protocol == IPPROTO_TCP)
		return hand_to(ctx, ROLE_OUTBOUND);
	if (ctx->protocol == IPPROTO_UDP && ctx->local_port == DNS_PORT)
		return hand_to(ctx, ROLE_DNS);
	return SK_PASS;
}

static __always_inline int from_network(struct bpf_sk_lookup *ctx, struct prefix *remote)
{
	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	// Before the test on the source: a pod that reaches itself through its Service comes over
	// its own HBONE port.
	if (ctx->local_port == HBONE_PORT)
		return hand_to(ctx, ROLE_HBONE);
	// ingress_ifindex is inet_iif(): a packet that was looped to the pod's own address names the
	// device that has the address, not lo.
	if (bpf_map_lookup_elem(&local_addrs, &remote->address))
		return leave_alone(COUNT_LOCAL);
	if (bpf_map_lookup_elem(&exempt, remote))
		return leave_alone(COUNT_EXEMPT);
	return hand_to(ctx, ROLE_INBOUND);
}

SEC("sk_lookup")
int steer(struct bpf_sk_lookup *ctx)
{
	struct prefix remote = { .bits = 128 };
	struct address local;

	if (ctx->family == FAMILY_V6) {
		local.word[0] = ctx->local_ip6[0];
		local.word[1] = ctx->local_ip6[1];
		local.word[2] = ctx->local_ip6[2];
		local.word[3] = ctx->local_ip6[3];
		remote.address.word[0] = ctx->remote_ip6[0];
		remote.address.word[1] = ctx->remote_ip6[1];
		remote.address.word[2] = ctx->remote_ip6[2];
		remote.address.word[3] = ctx->remote_ip6[3];
		// Else clang 14 merges the last load of both branches into one through a computed
		// pointer into ctx, which the verifier refuses.
		asm volatile("" ::: "memory");
	} else {
		local = mapped(ctx->local_ip4);
		remote.address = mapped(ctx->remote_ip4);
	}
	if (ctx->ingress_ifindex == LOOPBACK_IFINDEX)
		return from_loopback(ctx, &local);
	return from_network(ctx, &remote);
}

char _license[] SEC("license") = "Apache-2.0";
