/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* port.h: which ports are in use, and who uses them up. */
#ifndef AFTERFIN_PORT_H
#define AFTERFIN_PORT_H

#include "filter.h"

static const struct af_calls no_calls;

/* That of a caller, made on first use; of all for whom there was no room; or NULL. */
static __always_inline struct af_calls *calls_of(struct af_caller *who, const __u8 *comm)
{
	struct af_calls *calls = bpf_map_lookup_elem(&callers, who);

	if (calls)
		return calls;
	bpf_map_update_elem(&callers, who, &no_calls, BPF_NOEXIST); /* or another CPU was first */
	calls = bpf_map_lookup_elem(&callers, who);
	if (calls) {
		__builtin_memcpy(calls->comm, comm, sizeof(calls->comm));
		return calls;
	}
	who->pid = 0;
	who->start_ns = 0;
	bpf_map_update_elem(&callers, who, &no_calls, BPF_NOEXIST);
	calls = bpf_map_lookup_elem(&callers, who);
	if (!calls)
		count(AF_LOST_MAP);
	return calls;
}

/* A row of a connection that we have made. Not inlined: its stack is free again before the next call. */
__noinline int count_call(const struct af_transition *t)
{
	struct af_caller who = {};
	struct af_calls *calls;

	if (!t || t->side != AF_SIDE_CONNECT || t->from == TCP_TIME_WAIT)
		return 0;
	if (t->to != TCP_SYN_SENT && t->to != TCP_TIME_WAIT && t->to != TCP_CLOSE)
		return 0;
	who.netns = t->netns;
	who.pid = t->owner_pid;
	who.start_ns = t->owner_start_ns;
	who.bound = t->bound;
	__builtin_memcpy(who.source, t->local, sizeof(who.source));
	if (!t->bound) {
		__builtin_memcpy(who.remote, t->remote, sizeof(who.remote));
		who.port = t->rport;
	}
	calls = calls_of(&who, t->owner_comm);
	if (!calls)
		return 0;
	if (t->to == TCP_SYN_SENT) {
		__sync_fetch_and_add(&calls->connects, 1);
	} else if (t->to == TCP_TIME_WAIT) {
		__sync_fetch_and_add(&calls->time_waits, 1);
	} else if (t->cause == AF_CAUSE_NO_PORT) {
		__sync_fetch_and_add(&calls->failures, 1);
		calls->failed_ns = t->mono_ns;
	} else {
		__sync_fetch_and_add(&calls->released, 1);
	}
	return 0;
}

/* __inet_hash_connect() passes over a port that bind() had a hand in. */
static __always_inline bool taken(const struct inet_bind_bucket *tb)
{
	return tb &&
	       ((signed char)BPF_CORE_READ(tb, fastreuse) >= 0 || (signed char)BPF_CORE_READ(tb, fastreuseport) >= 0);
}

static __always_inline void look_at_mini(struct af_port *p, struct inet_timewait_sock *tw)
{
	p->mini = true;
	p->state = BPF_CORE_READ(tw, tw_substate);
	p->taken = taken(BPF_CORE_READ(tw, tw_tb));
	p->expires = BPF_CORE_READ(tw, tw_timer.expires);
	p->ts_recent_stamp = BPF_CORE_READ((struct tcp_timewait_sock *)tw, tw_ts_recent_stamp);
	if (bpf_core_field_exists(tw->tw_entry_stamp))
		p->entry_stamp = BPF_CORE_READ(tw, tw_entry_stamp);
}

/* Told of a socket by its address, which may be that of a mini-socket. */
static __always_inline void tell_port(struct seq_file *seq, __u64 address)
{
	struct sock_common *skc = (void *)address;
	struct af_port p = {.kind = AF_KIND_PORT};

	p.lport = BPF_CORE_READ(skc, skc_num);
	p.state = BPF_CORE_READ(skc, skc_state);
	if (!p.lport || p.state == TCP_NEW_SYN_RECV) /* a request has none but its listener's */
		return;
	p.netns = BPF_CORE_READ(skc, skc_net.net, ns.inum);
	p.cookie = BPF_CORE_READ(skc, skc_cookie.counter);
	p.rport = bpf_ntohs(BPF_CORE_READ(skc, skc_dport));
	p.reuse = BPF_CORE_READ_BITFIELD_PROBED(skc, skc_reuse);
	read_addresses(skc, p.local, p.remote);
	if (p.state == TCP_TIME_WAIT)
		look_at_mini(&p, (void *)address);
	else
		p.taken = taken(BPF_CORE_READ((struct inet_connection_sock *)address, icsk_bind_hash));
	p.jiffies = bpf_jiffies64();
	p.mono_ns = bpf_ktime_get_ns();
	bpf_seq_write(seq, &p, sizeof(p));
}

/* A socket in none of the tables that the tcp iterator walks. */
static __always_inline void bound_port(struct bpf_iter__task_file *ctx)
{
	struct file *file = ctx->file;
	struct socket *sock;
	struct sock *sk;

	if (!ctx->task || !file)
		return;
	sock = bpf_sock_from_file(file);
	if (!sock)
		return;
	sk = sock->sk;
	if (sk && sk->sk_protocol == IPPROTO_TCP && sk->__sk_common.skc_state == TCP_CLOSE)
		tell_port(ctx->meta->seq,
			  (__u64)BPF_CORE_READ(sock, sk)); /* as a number, and not what the verifier knows it to be */
}

#endif
