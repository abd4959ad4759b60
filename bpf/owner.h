/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * owner.h: who owns a socket.
 *
 * Most transitions run in a softirq, on top of whatever process happened to be on the CPU.
 * So the current process counts only where the kernel gets there by a system call of the
 * owner (or by its exit), and is then remembered with the socket.
 */
#ifndef AFTERFIN_OWNER_H
#define AFTERFIN_OWNER_H

#include "maps.h"

/* What a transition shows of its socket, beside what is told of it. */
struct look {
	bool held; /* a struct socket holds it */
	bool file; /* and that one has a file */
	bool dead; /* SOCK_DEAD: nobody holds it any more */
	bool mptcp; /* a subflow */
	bool linger0; /* SO_LINGER with 0 s */
	bool linger2; /* TCP_LINGER2 below 0 */
	bool unread; /* there is data that nobody has read */
	bool fin; /* SOCK_DONE: the peer's FIN came in */
	bool sent; /* a segment, since connect() */
	__u8 shutdown; /* sk_shutdown */
	__u32 exchanges; /* at most, in a connection that we close; only with want_counts */
};

/* False where nobody is to be named: a kernel thread. */
static __always_inline bool owner_of_task(struct owner *o, struct task_struct *task, __u8 how)
{
	struct task_struct *leader = task->group_leader;

	if (task->flags & PF_KTHREAD)
		return false;
	o->pid = leader->tgid;
	o->start_ns = leader->start_boottime;
	o->how = how;
	/* The process's name: each thread may carry another one. */
	if (bpf_probe_read_kernel(o->comm, sizeof(o->comm), leader->comm))
		count(AF_LOST_READ);
	return true;
}

static __always_inline void own_by_current(struct conn *c, __u8 how)
{
	struct task_struct *task = bpf_get_current_task_btf();
	bool indirect = c->owner.how == AF_HOW_UNKNOWN || c->owner.how == AF_HOW_LISTEN;

	if (self_tgid && task->tgid == self_tgid) /* the iterator dropped a last reference */
		return;
	/* The first direct evidence about a process stands: the one who connected and now closes stays `connect`. */
	if (!indirect && c->owner.pid == task->tgid)
		return;
	owner_of_task(&c->owner, task, how);
}

static __always_inline bool is_mptcp(struct tcp_sock *tp)
{
	return bpf_core_field_exists(tp->is_mptcp) && tp->is_mptcp;
}

/*
 * Does this change to CLOSE come from a system call of a holder? Close with unread data,
 * SO_LINGER 0, a failing connect() and connect(AF_UNSPEC) leave sk_err at 0 and the file in
 * place; a reset, a timeout and an abort set sk_err first, and the normal last steps
 * (LAST_ACK, FIN_WAIT2, CLOSING) run in a softirq. MPTCP ends its subflows from anywhere.
 */
static __always_inline bool closed_by_holder(const struct af_transition *t, const struct look *l)
{
	if (t->from != TCP_ESTABLISHED && t->from != TCP_CLOSE_WAIT && t->from != TCP_SYN_SENT &&
	    t->from != TCP_SYN_RECV)
		return false;
	return !t->sk_err && l->file && !l->mptcp;
}

/* What this transition says about the owner. */
static __always_inline void learn_owner(struct conn *c, const struct af_transition *t, const struct look *l)
{
	__u8 how = AF_HOW_UNKNOWN, from = t->from, to = t->to;

	if (from == TCP_CLOSE && to == TCP_SYN_SENT) { /* tcp_v4_connect, tcp_v6_connect */
		c->owner = (struct owner){}; /* the socket's earlier life does not count */
		c->deferred = false;
		c->side = AF_SIDE_CONNECT;
		c->bound = t->lport != 0;
		how = AF_HOW_CONNECT;
	} else if (from == TCP_CLOSE && to == TCP_LISTEN) { /* inet_csk_listen_start */
		c->owner = (struct owner){};
		how = AF_HOW_LISTEN;
	} else if (from == TCP_SYN_RECV && to == TCP_ESTABLISHED) {
		/* tcp_rcv_state_process() calls tcp_shutdown() itself then (94062790aedb, 6.9 and stable). */
		c->deferred = l->shutdown & SEND_SHUTDOWN;
	} else if (to == TCP_FIN_WAIT1 || to == TCP_LAST_ACK) { /* tcp_close_state: close, shutdown, exit */
		if (from != to && !c->deferred)
			how = AF_HOW_CLOSE;
	} else if (to == TCP_CLOSE && closed_by_holder(t, l)) {
		how = AF_HOW_CLOSE;
	}
	if (how != AF_HOW_UNKNOWN)
		own_by_current(c, how);
}

/* sk is an address; its cookie is there, since a dump or a transition has asked for it. */
static __always_inline void put_by_cookie(struct sock *sk, const struct owner *o, __u64 flags)
{
	__u64 cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
	long err;

	/* After CLOSE there is no transition left that would take it. */
	if (!cookie || BPF_CORE_READ(sk, __sk_common.skc_state) == TCP_CLOSE)
		return;
	err = bpf_map_update_elem(&by_cookie, &cookie, o, flags);
	if (err && err != -EEXIST)
		count(AF_LOST_MAP);
}

static __always_inline void take_by_cookie(struct conn *c, __u64 cookie)
{
	struct owner *o = bpf_map_lookup_elem(&by_cookie, &cookie);

	if (!o)
		return;
	c->owner = *o;
	if (o->how == AF_HOW_ACCEPT) {
		c->side = AF_SIDE_ACCEPT;
		c->accepted = AF_ACCEPTED_YES;
	}
	bpf_map_delete_elem(&by_cookie, &cookie);
}

/* May by_cookie know better? */
static __always_inline bool owner_left_by_cookie(const struct conn *c)
{
	if (c->owner.how == AF_HOW_UNKNOWN)
		return true;
	return exact_owner && c->side != AF_SIDE_CONNECT && c->owner.how != AF_HOW_ACCEPT;
}

#endif
