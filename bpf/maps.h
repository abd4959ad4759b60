/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* maps.h: every map, with who inserts, deletes and reads it, and why it has its size. */
#ifndef AFTERFIN_MAPS_H
#define AFTERFIN_MAPS_H

#include "config.h"

struct owner {
	__u64 start_ns;
	__u32 pid;
	__u8 how;
	__u8 comm[AF_COMM_LEN];
};

/* What we know of one socket. */
struct conn {
	__u64 entered_ns; /* when `state` began; 0: not seen */
	__u64 born_ns; /* time of a LISTEN→SYN_RECV not yet told; 0: none */
	struct owner owner;
	__u64 stack; /* where it was made: key of `stacks`; 0: not seen */
	__u64 maker_start_ns; /* of the process whose stack that is */
	__u32 maker_pid;
	__u8 call; /* enum af_side */
	__u8 state; /* the state last seen; 0: none */
	__u8 side;
	__u8 accepted;
	bool bound; /* connect() found a port there */
	bool deferred; /* shutdown() came before ESTABLISHED: the kernel carries it out, in a softirq */
};

/*
 * The memory of each socket, kept in the socket itself.
 * Inserted by the state tracepoint, fexit accept and both iterators; deleted by the kernel
 * with the socket, so it needs no size, cannot fill up and never goes stale.
 * BPF_F_CLONE: sk_clone_lock() copies it from a listener to the connection that comes in,
 * before LISTEN→SYN_RECV fires. That is how a child knows its listener's owner exactly, even
 * among SO_REUSEPORT listeners on one port.
 */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct conn);
} conns SEC(".maps");

/* A user stack, innermost first, as far as the program keeps frame pointers; then zeros. */
struct stack {
	__u64 ip[AF_SITE_FRAMES];
};

/*
 * Where sockets were made, by a hash of it: a program has few such places, and `conns` has the
 * key. Only with want_sites. Inserted at CLOSE→SYN_SENT and by fexit accept, read by
 * tracer.Tracer, deleted by nobody, so that a key stays good. Grows on demand; full is counted.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16 << 10);
	__type(key, __u64);
	__type(value, struct stack);
} stacks SEC(".maps");

/*
 * A thread's own place to take its stack at: too large for ours, and a CPU's could be taken
 * away, for 7.x preempts programs. Made at its first connect() or accept(), deleted by the
 * kernel with the thread.
 */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct stack);
} taking SEC(".maps");

/* A process whose next sockets are looked at closely. */
struct arming {
	__u64 next_ns; /* when the next one is due; it may come a little before */
	__u64 taken;
	__u64 passed; /* over, for they came too fast */
};

/*
 * Processes found leaking, by tgid. Inserted and deleted by tracer.Tracer, which counts them
 * (tracer.MaxArmed); the programs that make slices move next_ns on.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct arming);
} armed SEC(".maps");

/*
 * Slices for Go. Inserted by the programs that see a connect() or accept(), read by
 * tracer.Tracer. Apart from `events`, which they would crowd. Go sets the size: that of 60
 * slices, 0.6 s of one process, where it takes some.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} slices SEC(".maps");

/*
 * Events for Go. Inserted by the state tracepoint, read by tracer.Tracer.
 * Go sets the size (tracer.RingBytes).
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 16 << 20);
} events SEC(".maps");

/* The change that set_state told last on a CPU: written by it, read by set_state_skipped. */
struct last_told {
	__u64 sk; /* its address; 0: set_state is at work */
	__u64 to;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct last_told);
} last SEC(".maps");

/* Loss by cause, enum af_counter. Counted by all programs, read by tracer.Tracer. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, AF_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/*
 * Cookie → owner, learnt where only the address of the socket is at hand: an address cannot
 * open socket storage. Inserted by tp_btf/sys_exit (--exact-owner) and, at the start, by the
 * task_file iterator for MPTCP; moved into `conns` and deleted by the next program that sees
 * the socket itself and knows its owner no better. Grows on demand; full is counted. With
 * --exact-owner Go makes it larger: without, there are only the sockets of before.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 64 << 10);
	__type(key, __u64);
	__type(value, struct owner);
} by_cookie SEC(".maps");

/*
 * Counts instead of rows, only with want_counts (else Go makes them small): by netns, by what
 * is measured, and two rankings. Inserted and counted up by whoever would tell a row; read by
 * tracer.Tracer once at the end; deleted by nobody. A netns without room is counted as lost,
 * a maker or peer without room in its tally.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct af_tally);
} tallies SEC(".maps");

/* Changes of state, at from * AF_CHANGES + to. */
#define AF_CHANGES 16
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, AF_CHANGES *AF_CHANGES);
	__type(key, __u32);
	__type(value, __u64);
} changes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, AF_MEASURES);
	__type(key, __u32);
	__type(value, struct af_histogram);
} histograms SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 16 << 10);
	__type(key, struct af_maker);
	__type(value, struct af_ranked);
} makers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 64 << 10);
	__type(key, struct af_peer);
	__type(value, struct af_ranked);
} peers SEC(".maps");

/*
 * Who calls connect(), only with want_ports. Inserted and counted up as those above. Full: the
 * destination goes on with pid 0, and without room for that it is counted as lost.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 32 << 10);
	__type(key, struct af_caller);
	__type(value, struct af_calls);
} callers SEC(".maps");

/* Both sides set their own bit; who finds the other one set tells the end. */
#define MINI_TOLD 1 /* →CLOSE of its socket was seen: `row` has owner and side */
#define MINI_ENDED 2

/*
 * A mini-socket, which stands in for a socket in TIME_WAIT, or for an orphan in FIN_WAIT2.
 * The state tracepoint knows nothing of it.
 */
struct mini {
	struct af_transition row; /* the next one to tell */
	__u64 tw; /* its address; the cookie there says whether it is still the same */
	__u64 armed_ns; /* when its timer was first started: the beginning of `state` if that is TIME_WAIT */
	__u64 ended_ns;
	__u32 flags;
	__u16 restarts;
	__u8 state; /* as last seen: TCP_TIME_WAIT, or TCP_FIN_WAIT2 of an orphan */
	__u8 cause;
};

/*
 * Mini-sockets by cookie, which the kernel copies from the socket.
 * Inserted when the timer is started, and at the start by the iter/tcp pass; deleted at the
 * end. Twice the largest default of tcp_max_tw_buckets (262,144); grows on demand, full is
 * counted.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 512 << 10);
	__type(key, __u64);
	__type(value, struct mini);
} minis SEC(".maps");

/*
 * Cookie → address of the mini-sockets in FIN_WAIT2, where their move to TIME_WAIT may be
 * silent (timer tracepoints): the ones to look at. Inserted and deleted with `minis`. A look
 * walks all buckets, 14 ns each, ten times a second; who finds no room is told of at its end.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 32 << 10);
	__type(key, __u64);
	__type(value, __u64);
} halfway SEC(".maps");

static __always_inline void count(__u32 counter)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &counter);

	if (n)
		__sync_fetch_and_add(n, 1); /* per CPU, yet a softirq may interrupt us here */
}

/* It has one most often: then this is a load and no call. */
static __always_inline __u64 cookie_of(struct sock *sk)
{
	__u64 cookie = sk->__sk_common.skc_cookie.counter;

	return cookie ? cookie : bpf_get_socket_cookie(sk);
}

/*
 * The memory of a socket, made on first use. NULL only for want of kernel memory. It is tried twice:
 * where another CPU makes it, too, or makes that of another tracer, the kernel gives EEXIST or EAGAIN
 * (bpf_local_storage_update(), bpf_local_storage_alloc()), and leaves trying again to us.
 */
static __always_inline struct conn *make_conn(void *sk)
{
	struct conn *c = bpf_sk_storage_get(&conns, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (!c)
		c = bpf_sk_storage_get(&conns, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	return c;
}

/* The same, and counted where there is none. */
static __always_inline struct conn *conn_of(void *sk)
{
	struct conn *c = make_conn(sk);

	if (!c)
		count(AF_LOST_MAP);
	return c;
}

#endif
