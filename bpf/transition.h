/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* transition.h: one change of sk->sk_state, from the tracepoint to the ring. */
#ifndef AFTERFIN_TRANSITION_H
#define AFTERFIN_TRANSITION_H

#include "cause.h"
#include "timewait.h"

/*
 * The pointer the tracepoint hands us has a type the verifier knows, so these are plain loads
 * with a fault handler behind them: no helper call, and cheaper than one bulk copy of
 * sock_common through bpf_probe_read_kernel.
 */
static __always_inline void fill_addresses(struct af_transition *t, struct sock *sk)
{
	__u32 *local = (__u32 *)t->local, *remote = (__u32 *)t->remote;

	if (sk->__sk_common.skc_family == AF_INET) {
		local[2] = remote[2] = bpf_htonl(0xffff);
		local[3] = sk->__sk_common.skc_rcv_saddr;
		remote[3] = sk->__sk_common.skc_daddr;
		return;
	}
	for (int i = 0; i < 4; i++) {
		local[i] = sk->__sk_common.skc_v6_rcv_saddr.in6_u.u6_addr32[i];
		remote[i] = sk->__sk_common.skc_v6_daddr.in6_u.u6_addr32[i];
	}
}

static __always_inline void fill_ports(struct af_transition *t, struct sock *sk, struct tcp_sock *tp)
{
	t->rport = bpf_ntohs(sk->__sk_common.skc_dport);
	t->lport = sk->__sk_common.skc_num;
	if (!t->lport && t->to == TCP_CLOSE) /* __inet_put_port() has zeroed skc_num by now */
		t->lport = bpf_ntohs(tp->inet_conn.icsk_inet.inet_sport);
}

/* A request and its answer take a segment with data each way, at least. */
static __always_inline void look_at_use(struct look *l, struct tcp_sock *tp)
{
	__u32 in = tp->data_segs_in, out = tp->data_segs_out;

	l->exchanges = in < out ? in : out;
}

/*
 * Everything that is read of the socket, before anything is decided. Nothing here depends on
 * what the change is: each branch that did would be walked by the verifier once for all that
 * follows. The two pointers come first for the same reason: a kernel like 6.18 searches
 * all of the kernel's type names each time that the verifier comes by such a load.
 */
static __always_inline void look_at(struct af_transition *t, struct look *l, struct sock *sk, struct tcp_sock *tp)
{
	struct socket *sock = sk->sk_socket;
	struct file *file;

	t->netns = sk->__sk_common.skc_net.net->ns.inum;
	t->cookie = cookie_of(sk);
	t->sk_err = sk->sk_err;
	l->shutdown = sk->sk_shutdown;
	l->dead = sk->__sk_common.skc_flags >> SOCK_DEAD & 1;
	l->mptcp = is_mptcp(tp);
	fill_addresses(t, sk);
	fill_ports(t, sk, tp);
	if (t->to == TCP_CLOSE)
		look_at_end(l, sk, tp);
	if (want_counts && t->to == TCP_FIN_WAIT1)
		look_at_use(l, tp);
	if (sock) {
		l->held = true;
		file = sock->file;
		if (file) {
			l->file = true;
			t->inode = file->f_inode->i_ino;
		}
	}
}

/*
 * A TCP socket that no struct socket holds is in the accept queue, or was closed by everybody
 * (then SOCK_DEAD is set), or is a subflow that mptcp_close() has let go of (then it is not).
 */
static __always_inline bool never_held(const struct look *l, int from)
{
	if (l->held || from == TCP_CLOSE || l->dead)
		return false;
	return from == TCP_SYN_RECV || !l->mptcp;
}

static __always_inline void fill_accepted(struct af_transition *t, struct conn *c, const struct look *l)
{
	if (c->side == AF_SIDE_CONNECT || t->from == TCP_LISTEN || t->to == TCP_LISTEN)
		return;
	if (c->side == AF_SIDE_ACCEPT && l->held) {
		c->accepted = AF_ACCEPTED_YES;
	} else if (!c->accepted && never_held(l, t->from)) {
		c->side = AF_SIDE_ACCEPT; /* only accepting makes sockets that nothing ever held */
		t->accepted = AF_ACCEPTED_NO;
		return;
	}
	t->accepted = c->accepted;
}

static __always_inline void fill_owner(struct af_transition *t, const struct conn *c)
{
	t->owner_pid = c->owner.pid;
	t->owner_start_ns = c->owner.start_ns;
	t->how = c->owner.how;
	__builtin_memcpy(t->owner_comm, c->owner.comm, sizeof(t->owner_comm));
}

/* A connection that came in: it begins here, whatever sk_clone_lock() copied from its listener. */
static __always_inline void begin_accept_side(struct conn *c, __u64 now)
{
	c->side = AF_SIDE_ACCEPT;
	c->accepted = AF_ACCEPTED_UNKNOWN;
	c->entered_ns = now;
	c->born_ns = 0;
	c->state = TCP_SYN_RECV;
	if (c->owner.pid)
		c->owner.how = AF_HOW_LISTEN;
}

/* Tell the LISTEN→SYN_RECV that was held back, now that the child has its own cookie and remote. */
static __always_inline void tell_held(struct conn *c, const struct af_transition *now)
{
	struct af_transition t = *now;

	t.mono_ns = c->born_ns;
	t.entered_ns = 0;
	t.inode = 0;
	t.sk_err = 0;
	t.from = TCP_LISTEN;
	t.to = TCP_SYN_RECV;
	t.side = c->side;
	t.accepted = AF_ACCEPTED_NO;
	fill_owner(&t, c);
	c->born_ns = 0;
	tell(&t);
}

static __always_inline void tell_change(struct af_transition *t, const struct conn *c, const struct look *l)
{
	if (t->to == TCP_CLOSE) {
		if (may_go_on_as_mini(t->from) && goes_on_as_mini(t))
			return;
		t->cause = cause_of_close(t, c, l);
	}
	if (want_counts && t->from == TCP_ESTABLISHED && t->to == TCP_FIN_WAIT1)
		count_life(t, l->exchanges);
	tell(t);
}

/*
 * What the change means, given what the socket showed. A global function: the verifier walks
 * it once, for any arguments, and not again for each way that leads here.
 */
__noinline int decide(struct af_transition *t, struct conn *c, const struct look *l)
{
	bool arrives;

	if (!t || !l) /* the verifier wants to see this; it never is */
		return 0;
	arrives = t->from == TCP_LISTEN && t->to == TCP_SYN_RECV;
	/*
	 * Up to 6.12 the child still has its listener's cookie here and no remote port
	 * (inet_csk_clone_lock() sets both after the change).
	 */
	if (arrives) {
		t->accepted = AF_ACCEPTED_NO;
		if (!t->rport)
			t->cookie = 0;
	}
	if (!c) { /* no memory for it, which is counted */
		tell_change(t, c, l);
		return 0;
	}
	if (arrives) {
		begin_accept_side(c, t->mono_ns);
		if (!t->rport) { /* hold the row until the next one */
			c->born_ns = t->mono_ns;
			return 0;
		}
	}
	if (c->born_ns)
		tell_held(c, t);
	if (t->from != TCP_CLOSE && owner_left_by_cookie(c)) /* that one begins anew */
		take_by_cookie(c, t->cookie);
	fill_accepted(t, c, l);
	learn_owner(c, t, l);
	t->side = c->side;
	t->bound = c->side == AF_SIDE_CONNECT && c->bound;
	fill_owner(t, c);
	/* If a transition was missed (recursion, attach), the time in state is unknown. */
	if (c->state == t->from)
		t->entered_ns = c->entered_ns;
	c->state = t->to;
	c->entered_ns = t->mono_ns;
	tell_change(t, c, l);
	return 0;
}

/*
 * Not of MPTCP's own sockets: their subflows tell the story. And tcp_close_state() sets the
 * state that is there again when a socket is closed after shutdown().
 */
static __always_inline bool is_change(struct sock *sk, int from, int to)
{
	return sk->sk_protocol == IPPROTO_TCP && from != to;
}

static __always_inline void transition(struct sock *sk, int from, int to)
{
	struct af_transition t = {};
	struct look l = {};
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk); /* the same address, by the type that it has */

	if (!tp)
		return;
	t.kind = AF_KIND_TRANSITION;
	t.mono_ns = bpf_ktime_get_ns();
	t.from = from;
	t.to = to;
	look_at(&t, &l, sk, tp);
	decide(&t, conn_of(sk), &l);
}

/*
 * The kernel skips a program that would interrupt itself on one CPU: a tick comes in while
 * set_state runs, and the delayed-ACK timers under it change the state of other sockets. It
 * skips per program, so a second one on the same tracepoint is called then. Up to 6.18 a
 * tracepoint is not preempted, and no softirq interrupts a softirq: what one of the two is
 * skipped for, the other sees. From 7.0 on both may be preempted and skipped; that is counted.
 *
 * The second one runs for each change, so it has to be cheap: most often the first has just
 * left word on this CPU that it has told this change. Where something came between the two,
 * the memory of the socket says so.
 */
static __always_inline struct last_told *told_here(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&last, &zero);
}

static __always_inline void tell_transition(struct sock *sk, int from, int to)
{
	struct last_told *here;

	if (!is_change(sk, from, to) || unwanted(sk, to))
		return;
	here = told_here();
	if (!here) /* it is always there */
		return;
	here->sk = 0; /* for whatever comes while we are at it */
	transition(sk, from, to);
	here->sk = (__u64)sk;
	here->to = to;
}

static __always_inline void tell_skipped(struct sock *sk, int from, int to)
{
	struct last_told *here;
	struct conn *c;

	if (!is_change(sk, from, to) || unwanted(sk, to))
		return;
	here = told_here();
	if (here && here->sk == (__u64)sk && here->to == to)
		return;
	c = make_conn(sk);
	if (!c || c->state == to) /* without memory set_state told the row, too, and counted that */
		return;
	count(AF_RECOVERED);
	transition(sk, from, to);
}

#endif
