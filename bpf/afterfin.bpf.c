// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/*
 * afterfin.bpf.c: everything we hook, and nothing else. What each program does stands in the
 * header of its verb.
 */
#include "holder.h"
#include "site.h"
#include "transition.h"

/* Nothing else would carry these types into the object's BTF, where the tests look them up. */
struct af_wire {
	struct af_transition transition;
	struct af_holder holder;
	struct af_site site;
	struct af_slice slice;
	struct af_timer timer;
	struct af_port port;
	enum af_how how;
	enum af_side side;
	enum af_accepted accepted;
	enum af_cause cause;
	enum af_measure measure;
};
const struct af_wire *af_wire __attribute__((unused));

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Every change of a TCP socket's state. The tracepoint is sock:inet_sock_set_state (4.16). */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(set_state, struct sock *sk, int from, int to)
{
	site(ctx, sk, from, to);
	tell_transition(sk, from, to);
	return 0;
}

/* The changes that the kernel skipped set_state for. Attached after it, so called after it. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(set_state_skipped, struct sock *sk, int from, int to)
{
	tell_skipped(sk, from, to);
	return 0;
}

/*
 * accept() in the process that calls it, for MPTCP and io_uring too. fexit reads its result at
 * a place fixed by the number of arguments, and 6.10 changed that number (92ef0fd55ac8): Go
 * takes the one program that fits the running kernel's BTF.
 */
SEC("fexit/inet_csk_accept")
int BPF_PROG(accept_args4, struct sock *listener, int flags, int *err, bool kern, struct sock *sk)
{
	accepted_by_current(sk);
	accept_site(ctx, sk);
	return 0;
}

SEC("fexit/inet_csk_accept")
int BPF_PROG(accept_args2, struct sock *listener, void *arg, struct sock *sk)
{
	accepted_by_current(sk);
	accept_site(ctx, sk);
	return 0;
}

/* accept() where fexit is refused. Costs every system call of the machine: --exact-owner only. */
SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit, struct pt_regs *regs, long ret)
{
	if (accepts(regs, ret))
		accepted_fd(ret);
	return 0;
}

/* The same for processes in `armed`: where they accept. Attached while there are some. */
SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit_armed, struct pt_regs *regs, long ret)
{
	if (accepts(regs, ret))
		accepted_where(ret);
	return 0;
}

/*
 * Mini-sockets where fentry is allowed. The names and arguments are the same from 5.10 to 7.x.
 * inet_twsk_kill() is what every end comes by. The first start of the timer is no such place:
 * on arm64 6.12 it is compiled into its caller.
 */
SEC("fexit/inet_twsk_alloc")
int BPF_PROG(twsk_alloc, struct sock *sk, void *death_row, int state, struct inet_timewait_sock *tw)
{
	if (tw)
		mini_armed(argument(ctx, 3), ARMED_FIRST);
	return 0;
}

SEC("fentry/__inet_twsk_schedule")
int BPF_PROG(twsk_schedule, struct inet_timewait_sock *tw, int timeo, bool rearm)
{
	__u64 mini = argument(ctx, 0);

	learn_len((void *)mini, timeo);
	if (rearm)
		mini_armed(mini, ARMED_AGAIN);
	return 0;
}

SEC("fentry/inet_twsk_kill")
int BPF_PROG(twsk_kill, struct inet_timewait_sock *tw)
{
	mini_ended(argument(ctx, 0), culprit(ctx));
	return 0;
}

/* Mini-sockets where it is not: their timers. Costs every timer of the machine. */
SEC("tp_btf/timer_start")
int BPF_PROG(timer_start, struct timer_list *timer)
{
	if ((__u64)timer->function == tw_timer_handler) {
		__u64 mini = mini_of_timer(ctx);

		learn_len((void *)mini, timer->expires - bpf_jiffies64());
		mini_armed(mini, ARMED_SOMEHOW);
	}
	return 0;
}

SEC("tp_btf/timer_cancel")
int BPF_PROG(timer_cancel, struct timer_list *timer)
{
	int cause;

	if ((__u64)timer->function != tw_timer_handler)
		return 0;
	cause = culprit(ctx);
	if (cause != AF_NOT_THE_END && cause != AF_CAUSE_EXPIRED) /* timer_expire_entry is to come */
		mini_ended(mini_of_timer(ctx), cause);
	return 0;
}

SEC("tp_btf/timer_expire_entry")
int BPF_PROG(timer_expire_entry, struct timer_list *timer)
{
	learn_tick(); /* timers run right after one */
	if ((__u64)timer->function == tw_timer_handler)
		mini_ended(mini_of_timer(ctx), AF_CAUSE_EXPIRED);
	return 0;
}

/* Every TCP socket that a process holds: gives owners to sockets older than us, or accepted unseen. */
SEC("iter/task_file")
int holders(struct bpf_iter__task_file *ctx)
{
	holder(ctx);
	return 0;
}

/* Of one network namespace, after `holders`: MPTCP listeners, and mini-sockets older than us. */
SEC("iter/tcp")
int tcp_sockets(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;

	if (!skc)
		return 0;
	if (skc->skc_state == TCP_LISTEN)
		mptcp_listener(skc);
	else if (skc->skc_state == TCP_TIME_WAIT)
		mini_found(argument(&ctx->sk_common, 0));
	return 0;
}

/* The timer of each mini-socket of one network namespace, and at last the clock. */
SEC("iter/tcp")
int timers(struct bpf_iter__tcp *ctx)
{
	struct sock_common *skc = ctx->sk_common;

	if (!skc)
		tell_timer(ctx->meta->seq, 0);
	else if (skc->skc_state == TCP_TIME_WAIT)
		tell_timer(ctx->meta->seq, argument(&ctx->sk_common, 0));
	return 0;
}

/* Every socket of one network namespace that is in the tables of connections and listeners, and its port. */
SEC("iter/tcp")
int ports(struct bpf_iter__tcp *ctx)
{
	if (ctx->sk_common)
		tell_port(ctx->meta->seq, argument(&ctx->sk_common, 0));
	return 0;
}

/* Every socket that somebody holds and that is in none: bind() gave it a port, and that is all. */
SEC("iter/task_file")
int bound_ports(struct bpf_iter__task_file *ctx)
{
	bound_port(ctx);
	return 0;
}

/* The mini-sockets in `halfway`: where only timers are seen, their move to TIME_WAIT may be silent. */
SEC("iter/bpf_map_elem")
int moves(struct bpf_iter__bpf_map_elem *ctx)
{
	__u64 *cookie = ctx->key, *address = ctx->value;

	if (cookie && address)
		mini_looked_at(*cookie, *address);
	return 0;
}
