/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * filter.h: leave out, before a record is reserved, what nobody asked for.
 *
 * Only what the kernel knows for certain is left out here. An owner that is unknown, or only
 * the listener's, passes: Go may still find the true one, and applies the same filter again.
 */
#ifndef AFTERFIN_FILTER_H
#define AFTERFIN_FILTER_H

#include "maps.h"

static __always_inline bool has_port(const volatile __u16 *ports, __u32 n, __u16 port)
{
	for (__u32 i = 0; i < AF_MAX_PORTS; i++) {
		if (i >= n)
			break;
		if (ports[i] == port)
			return true;
	}
	return false;
}

/*
 * Will no row of this socket ever be wanted? Asked first of all, so that what nobody asked for
 * costs next to nothing. A port that is 0 is not chosen yet; a listener has no remote one,
 * and its memory goes to its children.
 */
static __always_inline bool never_wanted(__u32 netns, __u16 lport, __u16 rport)
{
	if (want_netns && want_netns != netns)
		return true;
	if (want_lports_n && lport && !has_port(want_lports, want_lports_n, lport))
		return true;
	return want_rports_n && rport && !has_port(want_rports, want_rports_n, rport);
}

static __always_inline bool unwanted(struct sock *sk, int to)
{
	__u32 netns = want_netns ? sk->__sk_common.skc_net.net->ns.inum : 0;
	__u16 lport = sk->__sk_common.skc_num;

	if (want_lports_n && !lport && to == TCP_CLOSE) /* __inet_put_port() has zeroed it by now */
		lport = bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
	return never_wanted(netns, lport, bpf_ntohs(sk->__sk_common.skc_dport));
}

/* The same of a mini-socket, by its address. */
static __always_inline bool unwanted_mini(struct inet_timewait_sock *tw)
{
	struct sock_common *skc = &tw->__tw_common;

	if (!want_netns && !want_lports_n && !want_rports_n)
		return false;
	return never_wanted(BPF_CORE_READ(skc, skc_net.net, ns.inum), BPF_CORE_READ(skc, skc_num),
			    bpf_ntohs(BPF_CORE_READ(skc, skc_dport)));
}

static __always_inline bool wanted_owner(const struct af_transition *t)
{
	bool listener = t->to == TCP_LISTEN || (t->from == TCP_LISTEN && t->to == TCP_CLOSE);

	if (t->how == AF_HOW_UNKNOWN || (t->how == AF_HOW_LISTEN && !listener))
		return true;
	if (want_pids_n) {
		bool found = false;

		for (__u32 i = 0; i < AF_MAX_PIDS; i++) {
			if (i >= want_pids_n)
				break;
			if (want_pids[i] == t->owner_pid)
				found = true;
		}
		if (!found)
			return false;
	}
	if (want_comm[0]) {
		for (int i = 0; i < AF_COMM_LEN; i++) {
			if (t->owner_comm[i] != want_comm[i])
				return false;
			if (!t->owner_comm[i])
				break;
		}
	}
	return true;
}

/* Is this ::ffff:a.b.c.d? */
static __always_inline bool mapped(const __u8 *address)
{
	const __u32 *word = (const __u32 *)address;

	return !(word[0] | word[1] | (word[2] ^ bpf_htonl(0xffff)));
}

/* The connection is over and its descriptor still open, as the inode of its file says. */
static __always_inline bool died_open(const struct af_transition *t)
{
	return t->to == TCP_CLOSE && t->sk_err && t->inode;
}

static __always_inline bool wanted(const struct af_transition *t)
{
	if (want_states && !(want_states & (1U << t->from | 1U << t->to)) && !(want_died_open && died_open(t)))
		return false;
	if (want_netns && want_netns != t->netns)
		return false;
	if (want_family) {
		/* A dual-stack listener, bound to ::, is IPv6; what comes in over IPv4 is mapped at both ends. */
		bool v4 = mapped(t->local) || mapped(t->remote);

		if (want_family != (v4 ? 4 : 6))
			return false;
	}
	if (want_lports_n && !has_port(want_lports, want_lports_n, t->lport))
		return false;
	if (want_rports_n && !has_port(want_rports, want_rports_n, t->rport))
		return false;
	return wanted_owner(t);
}

#endif
