/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* holder.h: who accepted a connection, and who holds a descriptor of it now. */
#ifndef AFTERFIN_HOLDER_H
#define AFTERFIN_HOLDER_H

#include "owner.h"
#include "slice.h"

/* After inet_csk_accept(): the child (NULL if accept failed) and its process. */
static __always_inline void accepted_by_current(struct sock *sk)
{
	struct conn *c;

	if (!sk || sk->sk_protocol != IPPROTO_TCP)
		return;
	c = conn_of(sk);
	if (!c)
		return;
	c->side = AF_SIDE_ACCEPT;
	c->accepted = AF_ACCEPTED_YES;
	own_by_current(c, AF_HOW_ACCEPT);
}

/* Did the system call that ends here accept a connection? */
static __always_inline bool accepts(const struct pt_regs *regs, long ret)
{
	long nr = syscall_nr(regs);

	return ret >= 0 && (nr == NR_accept || nr == NR_accept4) && !in_compat_syscall(bpf_get_current_task_btf());
}

/* The TCP socket behind a descriptor of the current process: an address only. */
static __always_inline struct sock *socket_of_fd(long fd)
{
	struct file **files = BPF_CORE_READ(bpf_get_current_task_btf(), files, fdt, fd);
	struct file *file = NULL;
	struct socket *sock;
	struct sock *sk;
	__u16 protocol;

	if (!files || fd >= BPF_CORE_READ(bpf_get_current_task_btf(), files, fdt, max_fds) ||
	    bpf_probe_read_kernel(&file, sizeof(file), files + fd) || !file)
		return NULL;
	sock = BPF_CORE_READ(file, private_data);
	/* Another thread may have closed the fd and opened something else: a socket points back. */
	if (!sock || BPF_CORE_READ(sock, file) != file)
		return NULL;
	sk = BPF_CORE_READ(sock, sk);
	protocol = BPF_CORE_READ(sk, sk_protocol);
	if (protocol == IPPROTO_MPTCP && bpf_core_type_exists(struct mptcp_sock))
		return BPF_CORE_READ((struct mptcp_sock *)sk, first);
	return protocol == IPPROTO_TCP ? sk : NULL;
}

/* After accept() or accept4() returned fd. */
static __always_inline void accepted_fd(long fd)
{
	struct sock *sk = socket_of_fd(fd);
	struct owner o = {};

	if (sk && BPF_CORE_READ(sk, __sk_common.skc_state) != TCP_LISTEN &&
	    owner_of_task(&o, bpf_get_current_task_btf(), AF_HOW_ACCEPT))
		put_by_cookie(sk, &o, BPF_ANY);
}

static __always_inline void accepted_where(long fd)
{
	__u32 tgid = bpf_get_current_task_btf()->tgid;
	struct sock *sk;

	if (!bpf_map_lookup_elem(&armed, &tgid))
		return;
	sk = socket_of_fd(fd);
	if (sk)
		take_slice(BPF_CORE_READ(sk, __sk_common.skc_cookie.counter), AF_SIDE_ACCEPT);
}

static __always_inline void tell_holder(struct seq_file *seq, const struct owner *o, __u64 cookie)
{
	struct af_holder h = {
		.kind = AF_KIND_HOLDER,
		.pid = o->pid,
		.cookie = cookie,
		.start_ns = o->start_ns,
	};

	__builtin_memcpy(h.comm, o->comm, sizeof(h.comm));
	bpf_seq_write(seq, &h, sizeof(h));
}

/* Of several holders the first counts; who connected or accepted is better known already. */
static __always_inline void own_by_holder(struct conn *c, struct sock *sk, const struct owner *o)
{
	bool inherited = c->owner.how == AF_HOW_LISTEN && sk->__sk_common.skc_state != TCP_LISTEN;

	if (c->owner.how == AF_HOW_UNKNOWN || inherited)
		c->owner = *o;
}

/*
 * The file is an MPTCP socket; its first subflow is the TCP socket that the state tracepoint
 * shows. We get that one's address only, so the owner is left for it to find.
 */
static __always_inline void mptcp_holder(struct bpf_iter__task_file *ctx, struct sock *msk, const struct owner *o)
{
	struct sock *first;

	if (!bpf_core_type_exists(struct mptcp_sock))
		return;
	first = BPF_CORE_READ((struct mptcp_sock *)msk, first);
	if (!first)
		return;
	if (seeding)
		put_by_cookie(first, o, BPF_NOEXIST);
	tell_holder(ctx->meta->seq, o, BPF_CORE_READ(first, __sk_common.skc_cookie.counter));
}

static __always_inline void holder(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *sock;
	struct owner o = {};
	struct conn *c;
	struct sock *sk;

	self_tgid = bpf_get_current_task_btf()->tgid;
	if (!task || !file)
		return;
	sock = bpf_sock_from_file(file);
	if (!sock)
		return;
	sk = sock->sk;
	if (!sk || !owner_of_task(&o, task, AF_HOW_FD))
		return;
	if (sk->sk_protocol == IPPROTO_MPTCP) {
		mptcp_holder(ctx, sk, &o);
		return;
	}
	if (sk->sk_protocol != IPPROTO_TCP)
		return;
	c = conn_of(sk);
	if (c)
		own_by_holder(c, sk, &o);
	tell_holder(ctx->meta->seq, &o, bpf_get_socket_cookie(sk));
}

/*
 * The listeners among the subflows: their children inherit through socket storage, so an
 * owner left by cookie must get there before the next connection comes in.
 */
static __always_inline void mptcp_listener(struct sock_common *skc)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(skc);
	struct conn *c;

	if (!tp || !is_mptcp(tp))
		return;
	c = conn_of(tp);
	if (c)
		take_by_cookie(c, bpf_get_socket_cookie(tp));
}

#endif
