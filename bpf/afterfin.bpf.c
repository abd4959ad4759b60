// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
//go:build ignore

/*
 * afterfin.bpf.c: everything we hook, and nothing else. What each program does stands in the
 * header of its verb.
 */
#include "holder.h"
#include "transition.h"

/* Nothing else would carry these types into the object's BTF, where the tests look them up. */
struct af_wire {
	struct af_transition transition;
	struct af_holder holder;
	enum af_how how;
	enum af_side side;
	enum af_accepted accepted;
};
const struct af_wire *af_wire __attribute__((unused));

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Every change of a TCP socket's state. The tracepoint is sock:inet_sock_set_state (4.16). */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(set_state, struct sock *sk, int from, int to)
{
	transition(sk, from, to);
	return 0;
}

/* The changes that the kernel skipped set_state for. Attached after it, so called after it. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(set_state_skipped, struct sock *sk, int from, int to)
{
	skipped_transition(sk, from, to);
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
	return 0;
}

SEC("fexit/inet_csk_accept")
int BPF_PROG(accept_args2, struct sock *listener, void *arg, struct sock *sk)
{
	accepted_by_current(sk);
	return 0;
}

/* accept() where fexit is refused. Costs every system call of the machine: --exact-owner only. */
SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit, struct pt_regs *regs, long ret)
{
	long nr = syscall_nr(regs);

	if (ret >= 0 && (nr == NR_accept || nr == NR_accept4) && !in_compat_syscall(bpf_get_current_task_btf()))
		accepted_fd(ret);
	return 0;
}

/* Every TCP socket that a process holds: gives owners to sockets older than us, or accepted unseen. */
SEC("iter/task_file")
int holders(struct bpf_iter__task_file *ctx)
{
	holder(ctx);
	return 0;
}

/* The MPTCP listeners of one network namespace, after `holders`. */
SEC("iter/tcp")
int mptcp_listeners(struct bpf_iter__tcp *ctx)
{
	mptcp_listener(ctx);
	return 0;
}
