/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * slice.h: the registers and the top of the stack of a thread that makes a socket. Plain gcc
 * -O2 keeps no frame pointers, so bpf_get_stack() ends in libc; Go unwinds these by .eh_frame.
 * Only for processes in `armed`, and of each not more than SLICES_A_SECOND.
 */
#ifndef AFTERFIN_SLICE_H
#define AFTERFIN_SLICE_H

#include "maps.h"

#define SLICES_A_SECOND 100 /* tracer.SlicesASecond */
#define INTERVAL (1000000000 / SLICES_A_SECOND)
#define BURST 10 /* that many may come at once */

/* Go programs keep the frame pointer right below SP on arm64. */
#define BELOW_SP 16

#if defined(__TARGET_ARCH_x86)
static __always_inline __u64 copy_registers(struct af_slice *s, const struct pt_regs *r)
{
	s->regs[0] = r->ax;
	s->regs[1] = r->dx;
	s->regs[2] = r->cx;
	s->regs[3] = r->bx;
	s->regs[4] = r->si;
	s->regs[5] = r->di;
	s->regs[6] = r->bp;
	s->regs[7] = r->sp;
	s->regs[8] = r->r8;
	s->regs[9] = r->r9;
	s->regs[10] = r->r10;
	s->regs[11] = r->r11;
	s->regs[12] = r->r12;
	s->regs[13] = r->r13;
	s->regs[14] = r->r14;
	s->regs[15] = r->r15;
	s->pc = r->ip;
	return r->sp;
}
#elif defined(__TARGET_ARCH_arm64)
static __always_inline __u64 copy_registers(struct af_slice *s, const struct pt_regs *r)
{
	for (int i = 0; i < 31; i++)
		s->regs[i] = r->regs[i];
	s->regs[31] = r->sp;
	s->pc = r->pc;
	return r->sp;
}
#endif

/* As much as is there: the stack of a goroutine is shorter, and its neighbour may be absent. */
static __always_inline __u32 copy_stack(struct af_slice *s)
{
	const void *from = (const void *)s->base;

	if (!bpf_probe_read_user(s->bytes, AF_SLICE_BYTES, from))
		return AF_SLICE_BYTES;
	if (!bpf_probe_read_user(s->bytes, AF_SLICE_BYTES / 4, from))
		return AF_SLICE_BYTES / 4;
	if (!bpf_probe_read_user(s->bytes, AF_SLICE_BYTES / 16, from))
		return AF_SLICE_BYTES / 16;
	if (!bpf_probe_read_user(s->bytes, AF_SLICE_BYTES / 64, from))
		return AF_SLICE_BYTES / 64;
	return 0;
}

/* Threads of one process may pass together: a slice more does no harm. */
static __always_inline bool due(struct arming *a)
{
	__u64 now = bpf_ktime_get_ns();

	if (a->next_ns > now + (BURST - 1) * INTERVAL) {
		__sync_fetch_and_add(&a->passed, 1);
		return false;
	}
	a->next_ns = (a->next_ns > now ? a->next_ns : now) + INTERVAL;
	__sync_fetch_and_add(&a->taken, 1);
	return true;
}

/* A global function, so that the verifier walks it once. */
__noinline int take_slice(__u64 cookie, __u32 call)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 tgid = task->tgid;
	struct arming *a = bpf_map_lookup_elem(&armed, &tgid);
	struct af_slice *s;
	struct pt_regs *regs;

	if (!a || in_compat_syscall(task) || !due(a))
		return 0;
	regs = (struct pt_regs *)bpf_task_pt_regs(task);
	s = bpf_ringbuf_reserve(&slices, sizeof(*s), 0);
	if (!s) {
		__sync_fetch_and_add(&a->passed, 1);
		return 0;
	}
	__builtin_memset(s->regs, 0, sizeof(s->regs));
	s->kind = AF_KIND_SLICE;
	s->cookie = cookie;
	s->owner_pid = tgid;
	s->owner_start_ns = task->group_leader->start_boottime;
	s->call = call;
	s->base = copy_registers(s, regs) - BELOW_SP;
	s->size = copy_stack(s);
	if (!s->size) { /* paged out: nothing that could be unwound */
		__sync_fetch_and_add(&a->passed, 1);
		bpf_ringbuf_discard(s, BPF_RB_NO_WAKEUP);
		return 0;
	}
	bpf_ringbuf_submit(s, BPF_RB_NO_WAKEUP);
	return 0;
}

#endif
