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

static __always_inline bool wanted(const struct af_transition *t)
{
	if (want_states && !(want_states & (1U << t->from | 1U << t->to)))
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
