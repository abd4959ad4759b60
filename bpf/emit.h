/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* emit.h: filter, then count, or reserve, fill, submit; what does not fit is counted as lost. */
#ifndef AFTERFIN_EMIT_H
#define AFTERFIN_EMIT_H

#include "count.h"

/* The ring is lock-free: CPUs may step over the exact byte together, so the mark is this wide. */
#define WAKEUP_MARK (64 * sizeof(struct af_transition))

static __always_inline __u64 wakeup_flags(void)
{
	__u64 waiting;

	if (resting) {
		resting = false;
		return BPF_RB_FORCE_WAKEUP;
	}
	waiting = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);
	/* Only while the mark is passed: an awake reader is not woken again. */
	if (waiting >= wakeup_bytes && waiting < wakeup_bytes + WAKEUP_MARK)
		return BPF_RB_FORCE_WAKEUP;
	return BPF_RB_NO_WAKEUP;
}

/* A global function, so that the verifier walks the filters once. */
__noinline int tell(const struct af_transition *t)
{
	struct af_transition *slot;

	if (!t || !wanted(t))
		return 0;
	if (want_counts && counting)
		count_row(t);
	if (!(want_rows & (1U << t->from | 1U << t->to)) && !(want_died_open && died_open(t)))
		return 0;
	slot = bpf_ringbuf_reserve(&events, sizeof(*slot), 0);
	if (!slot) {
		count(AF_LOST_RING);
		return 0;
	}
	*slot = *t;
	bpf_ringbuf_submit(slot, wakeup_flags());
	return 0;
}

#endif
