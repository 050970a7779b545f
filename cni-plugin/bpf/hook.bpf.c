// Node-wide: marks the new outbound TCP sockets of enrolled pods, so that the pod's ip rule sends
// them to lo, and lets an application bind a port that captured sockets occupy. Attached once, at
// the root of the node's cgroup2 tree. connect needs Linux 5.8, bind 6.1 (bpf_setsockopt there).
#include "steer.h"

#define SOL_SOCKET 1
#define SO_REUSEADDR 2
#define SO_MARK 36

// Key: the netns cookie, unique until the next boot. 4096: several times what a node runs.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
} enrolled SEC(".maps");

// Key: id of a cgroup that a proxy runs in. CAP_NET_RAW is enough to set a mark and default
// containers have it, so the mark alone proves nothing.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u32);
} proxies SEC(".maps");

static __always_inline int is_enrolled_tcp(struct bpf_sock_addr *ctx)
{
	__u64 netns = bpf_get_netns_cookie(ctx);

	return ctx->protocol == IPPROTO_TCP && bpf_map_lookup_elem(&enrolled, &netns);
}

// Loopback, link-local (cloud metadata too) and multicast never leave by a proxy.
static __always_inline int stays_local_v4(__u32 ip4)
{
	__u32 ip = bpf_ntohl(ip4);

	return !ip || ip >> 24 == 127 || ip >> 16 == 0xa9fe || ip >> 28 >= 0xe;
}

static __always_inline int stays_local_v6(const struct address *to)
{
	__u32 head = bpf_ntohl(to->word[0]);

	if (is_mapped(to))
		return stays_local_v4(to->word[3]);
	return is_loopback(to) || head >> 22 == 0x3fa || head >> 24 == 0xff;
}

static __always_inline void capture(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	__u32 mark, field;
	__u64 cgroup;

	if (!sk || !is_enrolled_tcp(ctx))
		return;
	mark = sk->mark;
	field = mark & MARK_MASK;
	if (field == MARK_CAPTURE)
		return;
	cgroup = bpf_get_current_cgroup_id();
	if (field == MARK_PROXY && bpf_map_lookup_elem(&proxies, &cgroup))
		return;
	mark = (mark & ~MARK_MASK) | MARK_CAPTURE;
	bpf_setsockopt(ctx, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
}

// The return value 1 lets the call go on. None of the programs ever refuses one.
SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	if (!stays_local_v4(ctx->user_ip4))
		capture(ctx);
	return 1;
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	struct address to = { .word = { ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2],
					ctx->user_ip6[3] } };

	if (!stays_local_v6(&to))
		capture(ctx);
	return 1;
}

static __always_inline int share_port(struct bpf_sock_addr *ctx)
{
	int one = 1;

	if (ctx->user_port && is_enrolled_tcp(ctx))
		bpf_setsockopt(ctx, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	return 1;
}

SEC("cgroup/bind4")
int bind4(struct bpf_sock_addr *ctx)
{
	return share_port(ctx);
}

SEC("cgroup/bind6")
int bind6(struct bpf_sock_addr *ctx)
{
	return share_port(ctx);
}

char _license[] SEC("license") = "Apache-2.0";
