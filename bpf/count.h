/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* count.h: rows counted here instead of told (want_counts); struct af_tally says what. */
#ifndef AFTERFIN_COUNT_H
#define AFTERFIN_COUNT_H

#include "port.h"

/* What a value counts as in a histogram; Go has the same in event.SlotFloor. */
static __always_inline __u32 slot_of(__u64 value)
{
	__u32 shift = 0;
	__u64 v = value >> AF_SLOT_BITS;

	for (int i = 0; i < 64 - AF_SLOT_BITS && v > 1; i++) {
		v >>= 1;
		shift++;
	}
	value = (shift << AF_SLOT_BITS) + (value >> shift);
	return value < AF_SLOTS ? value : AF_SLOTS - 1;
}

/* The larger of the two stays, whoever writes beside us. */
static __always_inline void raise(__u64 *most, __u64 value)
{
	for (int i = 0; i < 8; i++) {
		__u64 old = *(volatile __u64 *)most;

		if (value <= old || __sync_val_compare_and_swap(most, old, value) == old)
			return;
	}
}

__noinline int enter_value(__u32 which, __u64 value)
{
	struct af_histogram *h = bpf_map_lookup_elem(&histograms, &which);
	__u32 slot = slot_of(value);

	if (!h || slot >= AF_SLOTS)
		return 0;
	__sync_fetch_and_add(&h->slots[slot], 1);
	__sync_fetch_and_add(&h->sum, value);
	raise(&h->most, value);
	raise(&h->least, ~value);
	return 0;
}

static const struct af_tally no_tally;

/* That of a netns, made on first use. */
static __always_inline struct af_tally *tally_of(__u32 netns)
{
	struct af_tally *n = bpf_map_lookup_elem(&tallies, &netns);

	if (n)
		return n;
	bpf_map_update_elem(&tallies, &netns, &no_tally, BPF_NOEXIST); /* or another CPU was first */
	n = bpf_map_lookup_elem(&tallies, &netns);
	if (!n)
		count(AF_LOST_MAP);
	return n;
}

/* One more of a key; false if there is no room for it. */
static __always_inline bool one_more(void *map, const void *key, const struct af_ranked *first)
{
	struct af_ranked *r = bpf_map_lookup_elem(map, key);

	if (!r && bpf_map_update_elem(map, key, first, BPF_NOEXIST) == 0)
		return true;
	if (!r)
		r = bpf_map_lookup_elem(map, key); /* another CPU was first */
	if (!r)
		return false;
	__sync_fetch_and_add(&r->count, 1);
	return true;
}

/* Who made it, and with whom. Of a connection that came in the port that matters is ours. */
static __always_inline void rank(struct af_tally *n, const struct af_transition *t)
{
	struct af_maker maker = {
		.start_ns = t->owner_start_ns, .netns = t->netns, .pid = t->owner_pid, .side = t->side};
	struct af_peer peer = {.netns = t->netns, .side = t->side};
	struct af_ranked first = {.count = 1};

	__builtin_memcpy(peer.remote, t->remote, sizeof(peer.remote));
	peer.port = t->side == AF_SIDE_ACCEPT ? t->lport : t->rport;
	if (!one_more(&peers, &peer, &first))
		__sync_fetch_and_add(&n->peers_left_out, 1);
	__builtin_memcpy(first.comm, t->owner_comm, sizeof(first.comm));
	if (!one_more(&makers, &maker, &first))
		__sync_fetch_and_add(&n->makers_left_out, 1);
}

static __always_inline void count_entry(const struct af_transition *t)
{
	struct af_tally *n = tally_of(t->netns);

	if (!n)
		return;
	if (t->side < AF_SIDES)
		__sync_fetch_and_add(&n->entered[t->side], 1);
	rank(n, t);
}

static __always_inline void count_length(const struct af_transition *t)
{
	__u32 which = t->cause == AF_CAUSE_EXPIRED ? AF_EXPIRED_EXACT : AF_CUT_EXACT;

	if (!t->entered_ns)
		return;
	if (t->entered_bound)
		which++;
	enter_value(which, (t->mono_ns - t->entered_ns) / 1000);
}

static __always_inline void count_end(const struct af_transition *t)
{
	struct af_tally *n = tally_of(t->netns);

	if (!n)
		return;
	if (t->cause < AF_CAUSES)
		__sync_fetch_and_add(&n->ended[t->cause], 1);
	if (t->restarts == AF_RESTARTS_UNKNOWN) {
		__sync_fetch_and_add(&n->restarts_unknown, 1);
	} else if (t->restarts) {
		__sync_fetch_and_add(&n->restarted, 1);
		__sync_fetch_and_add(&n->restarts, t->restarts);
	}
	count_length(t);
}

/* An orphan's mini-socket that never came to TIME_WAIT. A socket's own row knows of no restarts. */
static __always_inline void count_halfway(const struct af_transition *t)
{
	struct af_tally *n;

	if (t->from != TCP_FIN_WAIT2 || t->to != TCP_CLOSE || t->restarts != AF_RESTARTS_UNKNOWN)
		return;
	n = tally_of(t->netns);
	if (n && t->cause < AF_CAUSES)
		__sync_fetch_and_add(&n->halfway_ended[t->cause], 1);
}

static __always_inline void count_change(const struct af_transition *t)
{
	__u32 key = t->from * AF_CHANGES + t->to;
	__u64 *n = bpf_map_lookup_elem(&changes, &key);

	if (n) /* it is always there */
		__sync_fetch_and_add(n, 1);
}

/* A row that passed the filters. */
static __always_inline void count_row(const struct af_transition *t)
{
	count_change(t);
	if (want_ports)
		count_call(t);
	if (t->to == TCP_TIME_WAIT)
		count_entry(t);
	else if (t->from == TCP_TIME_WAIT)
		count_end(t);
	else
		count_halfway(t);
}

/* t closes a connection first, which is what makes a TIME_WAIT: how long was it in use, and how much? */
__noinline int count_life(const struct af_transition *t, __u32 exchanges)
{
	if (!t || !counting || !wanted(t))
		return 0;
	if (t->entered_ns)
		enter_value(AF_LIVES, (t->mono_ns - t->entered_ns) / 1000);
	enter_value(AF_EXCHANGES, exchanges);
	return 0;
}

#endif
