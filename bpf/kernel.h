/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * kernel.h: the few kernel fields we read, and nothing of the other 130,000 lines.
 *
 * Each struct names only the fields used here; preserve_access_index makes the
 * loader put the running kernel's offsets in their place (CO-RE), so neither order
 * nor size matters below. Names are the kernel's.
 */
#ifndef AFTERFIN_KERNEL_H
#define AFTERFIN_KERNEL_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_tracing.h>

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_MPTCP 262
#define PF_KTHREAD 0x00200000 /* include/linux/sched.h */
#define SOCK_DEAD 0 /* bit of sk_flags, include/net/sock.h */
#define SOCK_DONE 1
#define SOCK_LINGER 4
#define SEND_SHUTDOWN 2 /* bit of sk_shutdown */
#define NULL ((void *)0)
#define EEXIST 17
#define EPIPE 32
#define ENETUNREACH 101
#define ECONNABORTED 103
#define ECONNRESET 104
#define ETIMEDOUT 110
#define ECONNREFUSED 111
#define EHOSTUNREACH 113

/* include/net/tcp_states.h, part of the user-visible ABI through tcp_info. */
enum {
	TCP_ESTABLISHED = 1,
	TCP_SYN_SENT,
	TCP_SYN_RECV,
	TCP_FIN_WAIT1,
	TCP_FIN_WAIT2,
	TCP_TIME_WAIT,
	TCP_CLOSE,
	TCP_CLOSE_WAIT,
	TCP_LAST_ACK,
	TCP_LISTEN,
	TCP_CLOSING,
	TCP_NEW_SYN_RECV,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	unsigned int inum;
};

struct net {
	struct ns_common ns;
};

typedef struct {
	struct net *net;
} possible_net_t;

struct in6_addr {
	union {
		__be32 u6_addr32[4];
	} in6_u;
};

typedef struct {
	__s64 counter;
} atomic64_t;

struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	__u16 skc_num;
	unsigned short skc_family;
	volatile unsigned char skc_state;
	unsigned char skc_reuse : 4;
	possible_net_t skc_net;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
	unsigned long skc_flags;
	atomic64_t skc_cookie;
};

struct inode {
	unsigned long i_ino;
};

struct socket {
	struct file *file;
	struct sock *sk;
};

struct file {
	struct inode *f_inode;
	void *private_data;
};

struct sock {
	struct sock_common __sk_common;
	__u16 sk_protocol; /* a bitfield before 5.6 (bf9765145b85); we need 5.12 */
	int sk_err;
	__u8 sk_shutdown;
	unsigned long sk_lingertime;
	struct socket *sk_socket;
};

struct timer_list {
	unsigned long expires; /* jiffies */
	void (*function)(struct timer_list *);
};

/* One for each port that is in use; below 0: connect() alone has chosen it. */
struct inet_bind_bucket {
	signed char fastreuse;
	signed char fastreuseport;
};

struct inet_sock {
	__be16 inet_sport;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
	struct inet_bind_bucket *icsk_bind_hash;
};

struct inet_timewait_sock {
	struct sock_common __tw_common;
	unsigned char tw_substate;
	__u32 tw_entry_stamp; /* since 6.18; low half of CLOCK_MONOTONIC in ms */
	struct timer_list tw_timer;
	struct inet_bind_bucket *tw_tb;
};

struct tcp_timewait_sock {
	struct inet_timewait_sock tw_sk;
	int tw_ts_recent_stamp;
};

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	bool is_mptcp; /* only with CONFIG_MPTCP */
	__u32 rcv_nxt;
	__u32 copied_seq; /* what the program has read */
	__u32 data_segs_in;
	__u32 data_segs_out;
	__u32 segs_out;
	int linger2;
};

struct mptcp_sock {
	struct sock *first;
};

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
};

struct files_struct {
	struct fdtable *fdt;
};

struct thread_info {
	unsigned long flags;
	__u32 status; /* x86 only */
};

struct task_struct {
	struct thread_info thread_info;
	unsigned int flags;
	int tgid;
	__u64 start_boottime; /* real_start_time before 5.5 (cf25e24db61c) */
	struct task_struct *group_leader;
	struct files_struct *files;
	char comm[16];
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	__u32 fd;
	struct file *file;
};

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
};

struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	void *key;
	void *value;
};

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8;
	unsigned long ax, cx, dx, si, di, orig_ax, ip, sp;
};
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs {
	__u64 regs[31], sp, pc;
	__s32 syscallno;
};
#endif

#pragma clang attribute pop

/* The addresses of a socket or mini-socket of which only its own is known; IPv4 as v4-mapped. */
static __always_inline void read_addresses(struct sock_common *skc, __u8 *local, __u8 *remote)
{
	if (BPF_CORE_READ(skc, skc_family) == AF_INET) {
		__u32 *l = (__u32 *)local, *r = (__u32 *)remote;

		l[2] = r[2] = bpf_htonl(0xffff);
		l[3] = BPF_CORE_READ(skc, skc_rcv_saddr);
		r[3] = BPF_CORE_READ(skc, skc_daddr);
	} else {
		BPF_CORE_READ_INTO((struct in6_addr *)local, skc, skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO((struct in6_addr *)remote, skc, skc_v6_daddr);
	}
}

/* The system call a pt_regs stands for. arch/x86/entry and arch/arm64/kernel number them apart. */
#if defined(__TARGET_ARCH_x86)
#define NR_accept 43
#define NR_accept4 288
static __always_inline long syscall_nr(const struct pt_regs *regs)
{
	return regs->orig_ax;
}

/* A 32-bit system call numbers its calls in another way. TS_COMPAT, arch/x86/include/asm/thread_info.h */
static __always_inline bool in_compat_syscall(struct task_struct *task)
{
	return task->thread_info.status & 2;
}
#elif defined(__TARGET_ARCH_arm64)
#define NR_accept 202
#define NR_accept4 242
static __always_inline long syscall_nr(const struct pt_regs *regs)
{
	return regs->syscallno;
}

/* A 32-bit program numbers its calls in another way. TIF_32BIT, arch/arm64/include/asm/thread_info.h */
static __always_inline bool in_compat_syscall(struct task_struct *task)
{
	return task->thread_info.flags & (1UL << 22);
}
#endif

#endif
