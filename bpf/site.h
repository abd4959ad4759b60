/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * site.h: where in its program a socket was made. CLOSE→SYN_SENT runs in the caller of
 * connect(), and accept() in its own, so the user stack is theirs. It is told only of
 * sockets that come to a state that is asked for.
 */
#ifndef AFTERFIN_SITE_H
#define AFTERFIN_SITE_H

#include "emit.h"
#include "slice.h"

static __always_inline __u64 mix(__u64 hash, __u64 value)
{
	hash = (hash ^ value) * 0x9e3779b97f4a7c15;
	return hash ^ hash >> 29;
}

/* The user stack of the current task, kept in `stacks`: its key there, 0 if it could not be had. */
static __always_inline __u64 keep_stack(void *ctx)
{
	struct stack *s =
		bpf_task_storage_get(&taking, bpf_get_current_task_btf(), NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
	__u64 key = 0;
	long size, err;

	if (!s) {
		count(AF_LOST_MAP);
		return 0;
	}
	size = bpf_get_stack(ctx, s->ip, sizeof(s->ip), BPF_F_USER_STACK);
	if (size <= 0)
		return 0;
	size /= sizeof(s->ip[0]);
	for (int i = 0; i < AF_SITE_FRAMES && i < size; i++)
		key = mix(key, s->ip[i]);
	if (bpf_map_lookup_elem(&stacks, &key))
		return key;
	for (int i = 0; i < AF_SITE_FRAMES; i++)
		if (i >= size) /* of the one before */
			s->ip[i] = 0;
	err = bpf_map_update_elem(&stacks, &key, s, BPF_NOEXIST);
	if (err && err != -EEXIST) {
		count(AF_LOST_MAP);
		return 0;
	}
	return key;
}

static __always_inline struct conn *remember_site(void *ctx, struct sock *sk, __u8 call)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct conn *c;

	if (task->flags & PF_KTHREAD) /* MPTCP's worker makes subflows */
		return NULL;
	if (want_netns && sk->__sk_common.skc_net.net->ns.inum != want_netns)
		return NULL;
	c = conn_of(sk);
	if (!c)
		return NULL;
	c->stack = keep_stack(ctx);
	c->maker_pid = task->group_leader->tgid;
	c->maker_start_ns = task->group_leader->start_boottime;
	c->call = call;
	if (want_slices)
		take_slice(bpf_get_socket_cookie(sk), call);
	return c;
}

static __always_inline void tell_site(struct sock *sk, const struct conn *c)
{
	struct af_site *slot;

	if (!c->stack)
		return;
	slot = bpf_ringbuf_reserve(&events, sizeof(*slot), 0);
	if (!slot) {
		count(AF_LOST_RING);
		return;
	}
	*slot = (struct af_site){
		.kind = AF_KIND_SITE,
		.call = c->call,
		.cookie = bpf_get_socket_cookie(sk),
		.stack = c->stack,
		.owner_start_ns = c->maker_start_ns,
		.owner_pid = c->maker_pid,
	};
	bpf_ringbuf_submit(slot, wakeup_flags());
}

/* The next state is that of a mini-socket, which has no storage: the last chance to tell. */
static __always_inline bool goes_to_time_wait(int from, int to)
{
	return to == TCP_CLOSE && (from == TCP_FIN_WAIT2 || from == TCP_CLOSING);
}

/* See died_open(), which tells the row. */
static __always_inline bool dies_open(struct sock *sk, int to)
{
	struct socket *sock = sk->sk_socket;

	return to == TCP_CLOSE && sk->sk_err && sock && sock->file;
}

static __always_inline bool wants_site(struct sock *sk, int from, int to)
{
	return want_sites & 1 << (to & 31) || dies_open(sk, to) ||
	       (want_sites & 1 << TCP_TIME_WAIT && goes_to_time_wait(from, to));
}

/* Before the row of the same change, so that Go has it when that comes. */
static __always_inline void site(void *ctx, struct sock *sk, int from, int to)
{
	struct conn *c;

	if (!want_sites || sk->sk_protocol != IPPROTO_TCP)
		return;
	if (from == TCP_CLOSE && to == TCP_SYN_SENT) {
		remember_site(ctx, sk, AF_SIDE_CONNECT);
		return;
	}
	if (to != TCP_CLOSE && !wants_site(sk, from, to))
		return;
	c = conn_of(sk);
	if (!c)
		return;
	if (wants_site(sk, from, to))
		tell_site(sk, c);
	if (to == TCP_CLOSE) /* the socket's next life is another one */
		c->stack = 0;
}

/* The peer may have closed before accept(): then the state has come already. */
static __always_inline void accept_site(void *ctx, struct sock *sk)
{
	struct conn *c;

	if (!want_sites || !sk || sk->sk_protocol != IPPROTO_TCP)
		return;
	c = remember_site(ctx, sk, AF_SIDE_ACCEPT);
	if (c && want_sites & 1 << (sk->__sk_common.skc_state & 31))
		tell_site(sk, c);
}

#endif
