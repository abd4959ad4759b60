/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * timewait.h: mini-sockets, from the first start of their timer to their end.
 *
 * tcp_time_wait() makes one out of a socket that goes to TIME_WAIT, or of an orphan that goes
 * on waiting in FIN_WAIT2, starts its timer, and only then closes the socket: what the state
 * tracepoint shows is that CLOSE. Here both are joined by the cookie.
 *
 * Mini-sockets come by their address. It may be read as long as the cookie there is the one
 * we know: their slab is SLAB_TYPESAFE_BY_RCU.
 */
#ifndef AFTERFIN_TIMEWAIT_H
#define AFTERFIN_TIMEWAIT_H

#include "emit.h"

#define AF_NOT_THE_END 255 /* a culprit that only moves the timer */

#define AF_STACK 24 /* frames looked at, from the innermost on */

/* From a mini-socket to →CLOSE of its socket it takes microseconds; after this long that does not come any more. */
#define LATE_NS 1000000000ULL

/* How its timer was started; FIRST: it is about to be. */
#define ARMED_FIRST 0
#define ARMED_AGAIN 1
#define ARMED_SOMEHOW 2 /* the timer tracepoint cannot tell */

/* An argument as a number: the verifier lets nobody make one of a pointer that it knows. */
static __always_inline __u64 argument(void *ctx, int n)
{
	__u64 address = 0;

	if (bpf_probe_read_kernel(&address, sizeof(address), (__u64 *)ctx + n))
		count(AF_LOST_READ);
	return address;
}

static __always_inline __u64 mini_of_timer(void *ctx)
{
	return argument(ctx, 0) - bpf_core_field_offset(struct inet_timewait_sock, tw_timer);
}

static __always_inline __u64 cookie_of_mini(struct inet_timewait_sock *tw)
{
	return BPF_CORE_READ(tw, __tw_common.skc_cookie.counter);
}

/* CLOCK_MONOTONIC at jiffy 0; the smallest seen, and so the truest: right after a tick. */
__s64 jiffies_begin = (1ULL << 63) - 1;

static __always_inline void learn_tick(void)
{
	__s64 begin = bpf_ktime_get_ns() - bpf_jiffies64() * tick_ns;

	if (begin < jiffies_begin)
		jiffies_begin = begin;
}

/*
 * When the timer was started, had it been set to run `length` jiffies later: the beginning of
 * that jiffy, so at most a jiffy early.
 */
static __always_inline __u64 started(struct inet_timewait_sock *tw, __u64 length)
{
	learn_tick();
	return jiffies_begin + (BPF_CORE_READ(tw, tw_timer.expires) - length) * tick_ns;
}

/*
 * TCP_TIMEWAIT_LEN (include/net/tcp.h) in jiffies: as Go has measured it, or as it was seen
 * since. 0: not known.
 */
__u64 timewait_jiffies;

/*
 * The timer of tw is set to run that much later. There are kernels with another length than
 * 60 s. A tick may come between the two readings that make it up: the longest is the true one.
 */
static __always_inline void learn_len(struct inet_timewait_sock *tw, __u64 length)
{
	if (length > timewait_jiffies && length < 1U << 31 && BPF_CORE_READ(tw, tw_substate) == TCP_TIME_WAIT)
		timewait_jiffies = length;
}

/* The row of a mini-socket whose beginning was not seen. */
static __always_inline void row_of_mini(struct af_transition *t, struct inet_timewait_sock *tw)
{
	struct sock_common *skc = &tw->__tw_common;

	t->kind = AF_KIND_TRANSITION;
	t->netns = BPF_CORE_READ(skc, skc_net.net, ns.inum);
	t->cookie = BPF_CORE_READ(skc, skc_cookie.counter);
	t->lport = BPF_CORE_READ(skc, skc_num);
	t->rport = bpf_ntohs(BPF_CORE_READ(skc, skc_dport));
	t->restarts = AF_RESTARTS_UNKNOWN;
	read_addresses(skc, t->local, t->remote);
	t->from = BPF_CORE_READ(tw, tw_substate);
	if (t->from == TCP_TIME_WAIT && timewait_jiffies) {
		/*
		 * That long at least: a restart may have hidden the beginning. `started` may be a
		 * jiffy early, and more where the CPU that counts them was held up.
		 */
		t->entered_ns = started(tw, timewait_jiffies) + 4 * tick_ns;
		t->entered_bound = true;
	}
}

/* Tell FIN_WAIT2→TIME_WAIT of an orphan. */
static __always_inline void tell_move(struct mini *m, __u64 cookie, __u64 now)
{
	m->state = TCP_TIME_WAIT;
	m->armed_ns = now;
	bpf_map_delete_elem(&halfway, &cookie);
	if (!(m->flags & MINI_TOLD)) /* →CLOSE of its socket will tell it */
		return;
	m->row.from = TCP_FIN_WAIT2;
	m->row.to = TCP_TIME_WAIT;
	m->row.mono_ns = now;
	tell(&m->row);
	m->row.entered_ns = now;
	m->row.entered_bound = false;
}

static __always_inline void tell_end(struct mini *m)
{
	struct af_transition *t = &m->row;
	__u64 cookie = t->cookie;

	t->from = m->state;
	t->to = TCP_CLOSE;
	t->mono_ns = m->ended_ns;
	t->cause = m->cause;
	t->restarts = m->state == TCP_TIME_WAIT ? m->restarts : AF_RESTARTS_UNKNOWN;
	tell(t);
	if (m->state == TCP_FIN_WAIT2)
		bpf_map_delete_elem(&halfway, &cookie);
	bpf_map_delete_elem(&minis, &cookie);
}

/*
 * When an orphan came to TIME_WAIT: by its stamp, to a ms, where there is one and the FIN has
 * renewed it (a FIN without timestamps does not); else by its timer, to a jiffy, and if that
 * was started anew since, by that.
 */
static __always_inline __u64 moved(const struct mini *m, struct inet_timewait_sock *tw)
{
	/* Without a length to go by: now, which is a look late at most. */
	__u64 when = timewait_jiffies ? started(tw, timewait_jiffies) : bpf_ktime_get_ns();

	if (bpf_core_field_exists(tw->tw_entry_stamp)) {
		__u64 now = bpf_ktime_get_ns() / 1000000;
		__u64 stamp = (now - (__u32)(now - BPF_CORE_READ(tw, tw_entry_stamp))) * 1000000;

		if (stamp > m->armed_ns)
			when = stamp;
	}
	return when > m->armed_ns ? when : m->armed_ns;
}

/* The state that a mini-socket is in now, told if it moved there without a word. */
static __always_inline void look_for_move(struct mini *m, __u64 cookie, struct inet_timewait_sock *tw)
{
	if (m->state == TCP_FIN_WAIT2 && BPF_CORE_READ(tw, tw_substate) == TCP_TIME_WAIT)
		tell_move(m, cookie, moved(m, tw));
}

static __always_inline void add_mini(struct inet_timewait_sock *tw, __u64 cookie, int how)
{
	struct mini new = {
		.tw = (__u64)tw,
		.armed_ns = bpf_ktime_get_ns(),
		.state = BPF_CORE_READ(tw, tw_substate),
		.restarts = how == ARMED_SOMEHOW ? AF_RESTARTS_UNKNOWN : 0,
	};

	/* Over what stands there: a socket that is connected anew keeps its cookie. */
	if (bpf_map_update_elem(&minis, &cookie, &new, BPF_ANY)) {
		count(AF_LOST_MAP);
		return;
	}
	if (new.state == TCP_FIN_WAIT2)
		bpf_map_update_elem(&halfway, &cookie, &new.tw, BPF_ANY);
}

/* The timer of a mini-socket is started. */
__noinline int mini_armed(__u64 address, int how)
{
	struct inet_timewait_sock *tw = (void *)address;
	__u64 cookie = cookie_of_mini(tw);
	struct mini *m;

	if (!cookie || unwanted_mini(tw)) /* without a cookie it never had a state that we saw */
		return 0;
	m = bpf_map_lookup_elem(&minis, &cookie);
	if (!m || m->tw != address) {
		if (how != ARMED_AGAIN)
			add_mini(tw, cookie, how);
		return 0;
	}
	if (m->state == TCP_FIN_WAIT2) {
		if (BPF_CORE_READ(tw, tw_substate) == TCP_TIME_WAIT)
			tell_move(m, cookie, bpf_ktime_get_ns());
		return 0;
	}
	if (m->restarts < AF_RESTARTS_UNKNOWN - 1)
		m->restarts++;
	return 0;
}

/* The end of one whose beginning was not seen, or not told of. */
static __always_inline void tell_end_alone(struct inet_timewait_sock *tw, __u8 cause)
{
	struct af_transition t = {};

	row_of_mini(&t, tw);
	t.mono_ns = bpf_ktime_get_ns();
	t.to = TCP_CLOSE;
	t.cause = cause;
	tell(&t);
}

/* A mini-socket ends. */
__noinline int mini_ended(__u64 address, __u32 cause)
{
	struct inet_timewait_sock *tw = (void *)address;
	__u64 cookie = cookie_of_mini(tw), now = bpf_ktime_get_ns();
	struct mini *m;

	if (unwanted_mini(tw))
		return 0;
	m = bpf_map_lookup_elem(&minis, &cookie);
	if (cause == AF_CAUSE_REUSED_SYN && BPF_CORE_READ(tw, tw_substate) == TCP_FIN_WAIT2)
		cause = AF_CAUSE_RESET; /* data to an orphan draws a RST */
	if (!m || m->tw != address) {
		tell_end_alone(tw, cause);
		return 0;
	}
	if (!(m->flags & MINI_TOLD) && now - m->armed_ns > LATE_NS) {
		tell_end_alone(tw, cause); /* →CLOSE was lost, or was before our time */
		bpf_map_delete_elem(&halfway, &cookie);
		bpf_map_delete_elem(&minis, &cookie);
		return 0;
	}
	look_for_move(m, cookie, tw);
	m->ended_ns = now;
	m->cause = cause;
	/* On another CPU →CLOSE of the socket may only now be on its way. */
	if (__sync_fetch_and_or(&m->flags, MINI_ENDED) & MINI_TOLD)
		tell_end(m);
	return 0;
}

/* A mini-socket that was there before us. */
__noinline int mini_found(__u64 address)
{
	struct inet_timewait_sock *tw = (void *)address;
	struct mini m = {.tw = address, .flags = MINI_TOLD, .restarts = AF_RESTARTS_UNKNOWN};

	if (unwanted_mini(tw))
		return 0;
	row_of_mini(&m.row, tw);
	m.state = m.row.from;
	if (m.state == TCP_TIME_WAIT && !m.row.entered_ns) { /* as long as we know of it */
		m.row.entered_ns = bpf_ktime_get_ns();
		m.row.entered_bound = true;
	}
	if (!m.row.cookie || m.row.netns == 0)
		return 0;
	if (bpf_map_update_elem(&minis, &m.row.cookie, &m, BPF_NOEXIST)) /* or it is known by now */
		return 0;
	if (m.state == TCP_FIN_WAIT2)
		bpf_map_update_elem(&halfway, &m.row.cookie, &m.tw, BPF_NOEXIST);
	return 0;
}

/* A mini-socket that was in FIN_WAIT2 when last seen. */
__noinline int mini_looked_at(__u64 cookie, __u64 address)
{
	struct inet_timewait_sock *tw = (void *)address;
	struct mini *m = bpf_map_lookup_elem(&minis, &cookie);

	if (m && m->tw == address && cookie_of_mini(tw) == cookie) {
		look_for_move(m, cookie, tw);
		return 0;
	}
	bpf_map_delete_elem(&halfway, &cookie);
	if (m && m->tw == address) /* its end was not seen */
		bpf_map_delete_elem(&minis, &cookie);
	return 0;
}

/* What a function on the stack tells; AF_CAUSE_UNKNOWN: nothing. */
__noinline int culprit_at(__u64 address)
{
	for (__u32 c = 0; c < AF_CULPRITS; c++) {
		if (c >= culprits_n)
			break;
		if (address >= culprits[c].begin && address < culprits[c].end)
			return culprits[c].cause;
	}
	return AF_CAUSE_UNKNOWN;
}

/* The timer of a mini-socket, for Go to say when it will end; without one, the clock. */
static __always_inline void tell_timer(struct seq_file *seq, __u64 address)
{
	struct inet_timewait_sock *tw = (void *)address;
	struct af_timer t = {.kind = AF_KIND_TIMER};

	if (tw) {
		t.substate = BPF_CORE_READ(tw, tw_substate);
		t.cookie = cookie_of_mini(tw);
		t.expires = BPF_CORE_READ(tw, tw_timer.expires);
	}
	t.jiffies = bpf_jiffies64();
	t.mono_ns = bpf_ktime_get_ns();
	bpf_seq_write(seq, &t, sizeof(t));
}

/*
 * Whoever is innermost on the stack of a mini-socket's end. Not inlined: what it takes of our
 * own stack is free again before the end is told.
 */
static __noinline int culprit(void *ctx)
{
	__u64 stack[AF_STACK] = {};
	long size = bpf_get_stack(ctx, stack, sizeof(stack), 0);

	for (long i = 0; i < AF_STACK; i++) {
		int cause;

		if (i * (long)sizeof(stack[0]) >= size)
			break;
		cause = culprit_at(stack[i]);
		if (cause != AF_CAUSE_UNKNOWN)
			return cause;
	}
	return AF_CAUSE_UNKNOWN;
}

/* Of these two tcp_time_wait() makes them. */
static __always_inline bool may_go_on_as_mini(int from)
{
	return from == TCP_FIN_WAIT2 || from == TCP_CLOSING;
}

/*
 * t is the change to CLOSE of a socket. If a mini-socket took its place, tell that instead:
 * FIN_WAIT2→TIME_WAIT, at the moment its timer was started; or nothing, if it waits on in
 * FIN_WAIT2.
 */
static __always_inline bool goes_on_as_mini(struct af_transition *t)
{
	__u64 cookie = t->cookie; /* up to 6.1 a key must be on the stack, or in a map */
	struct mini *m = bpf_map_lookup_elem(&minis, &cookie);

	if (!m || m->flags & MINI_TOLD)
		return false;
	if (m->state == TCP_TIME_WAIT) {
		t->to = TCP_TIME_WAIT;
		t->mono_ns = m->armed_ns;
		tell(t);
		t->entered_ns = m->armed_ns;
	}
	t->inode = 0; /* mini-sockets have no file */
	m->row = *t;
	if (__sync_fetch_and_or(&m->flags, MINI_TOLD) & MINI_ENDED)
		tell_end(m);
	return true;
}

#endif
