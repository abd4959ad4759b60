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

static __always_inline bool wanted_owner(const struct owner *o, bool listener)
{
	if (o->how == AF_HOW_UNKNOWN || (o->how == AF_HOW_LISTEN && !listener))
		return true;
	if (want_pids_n) {
		bool found = false;

		for (__u32 i = 0; i < AF_MAX_PIDS; i++) {
			if (i >= want_pids_n)
				break;
			if (want_pids[i] == o->pid)
				found = true;
		}
		if (!found)
			return false;
	}
	if (want_comm[0]) {
		for (int i = 0; i < AF_COMM_LEN; i++) {
			if (o->comm[i] != want_comm[i])
				return false;
			if (!o->comm[i])
				break;
		}
	}
	return true;
}

static __always_inline bool wanted(const struct af_transition *t, const struct owner *o, bool v4)
{
	if (want_states && !(want_states & (1U << t->from | 1U << t->to)))
		return false;
	if (want_netns && want_netns != t->netns)
		return false;
	if (want_family && want_family != (v4 ? 4 : 6))
		return false;
	if (want_lports_n && !has_port(want_lports, want_lports_n, t->lport))
		return false;
	if (want_rports_n && !has_port(want_rports, want_rports_n, t->rport))
		return false;
	return !o || wanted_owner(o, t->to == TCP_LISTEN || (t->from == TCP_LISTEN && t->to == TCP_CLOSE));
}

#endif
