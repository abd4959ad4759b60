/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * wire.h: what crosses from the kernel to Go, and nothing else.
 *
 * Every record begins with its kind, runs from wide to narrow, has no holes,
 * and is in host byte order (addresses excepted: network order, as in a packet).
 * internal/event decodes it; a test in internal/tracer compares each member with
 * the BTF of the compiled object.
 */
#ifndef AFTERFIN_WIRE_H
#define AFTERFIN_WIRE_H

#define AF_COMM_LEN 16

enum af_kind {
	AF_KIND_TRANSITION = 1, /* ring buffer: struct af_transition */
	AF_KIND_HOLDER = 2, /* task_file iterator: struct af_holder */
	AF_KIND_SITE = 3, /* ring buffer: struct af_site */
	AF_KIND_SLICE = 4, /* ring buffer of its own: struct af_slice */
};

/* How the owner of a socket was learnt. */
enum af_how {
	AF_HOW_UNKNOWN = 0,
	AF_HOW_CONNECT = 1, /* it called connect() */
	AF_HOW_ACCEPT = 2, /* it called accept() */
	AF_HOW_CLOSE = 3, /* it called close() or shutdown(), or died holding it */
	AF_HOW_FD = 4, /* it was seen holding a descriptor */
	AF_HOW_LISTEN = 5, /* it owns the listener that the connection came in on */
};

enum af_side {
	AF_SIDE_UNKNOWN = 0,
	AF_SIDE_CONNECT = 1,
	AF_SIDE_ACCEPT = 2,
};

enum af_accepted {
	AF_ACCEPTED_UNKNOWN = 0, /* or not a socket that is accepted at all */
	AF_ACCEPTED_NO = 1,
	AF_ACCEPTED_YES = 2,
};

/* Why a socket or a mini-socket went to CLOSE. */
enum af_cause {
	AF_CAUSE_NONE = 0, /* closed in order, or no change to CLOSE at all */
	AF_CAUSE_UNKNOWN = 1,
	/* Of mini-sockets. */
	AF_CAUSE_EXPIRED = 2,
	AF_CAUSE_REUSED_CONNECT = 3, /* a connect() took its tuple */
	AF_CAUSE_REUSED_SYN = 4, /* a SYN came in for its tuple */
	AF_CAUSE_NETNS_EXIT = 5,
	AF_CAUSE_DESTROYED = 6, /* ss -K */
	/* Of both. */
	AF_CAUSE_RESET = 7, /* a RST, or a segment that draws one */
	/* Of sockets. */
	AF_CAUSE_LINGER = 8, /* SO_LINGER with 0 s */
	AF_CAUSE_UNREAD_DATA = 9, /* closed over data that nobody had read */
	AF_CAUSE_TIMEOUT = 10,
	AF_CAUSE_ABORTED = 11,
	AF_CAUSE_LINGER2 = 12, /* TCP_LINGER2 below 0: no FIN_WAIT2 for an orphan */
	AF_CAUSE_OVERFLOW = 13, /* tcp_max_tw_buckets reached: no TIME_WAIT. Go tells, from the netns's counter */
	AF_CAUSE_DISCONNECTED = 14, /* connect(AF_UNSPEC) */
	AF_CAUSE_LISTENER_CLOSED = 15, /* in the accept queue */
};

#define AF_RESTARTS_UNKNOWN 0xffff

/* What the kernel side could not deliver, and what it nearly lost; indices of the map `counters`. */
enum af_counter {
	AF_LOST_RING = 0, /* no room in the ring: a row is missing */
	AF_LOST_MAP = 1, /* no memory for the socket: a row without owner and time */
	AF_LOST_READ = 2, /* a kernel field could not be read: a row without it */
	AF_RECOVERED = 3, /* not a loss: rows that set_state was skipped for, told all the same */
	AF_COUNTERS = 4,
};

/* One change of sk->sk_state, or of a mini-socket (timewait.h). */
struct af_transition {
	__u32 kind;
	__u32 netns; /* inode number */
	__u64 mono_ns; /* CLOCK_MONOTONIC at the change */
	__u64 entered_ns; /* CLOCK_MONOTONIC when `from` began; 0: not seen */
	__u64 cookie; /* 0: could not be told */
	__u64 inode; /* of the socket's file; 0: it has none */
	__u64 owner_start_ns; /* CLOCK_BOOTTIME; with owner_pid it names a process for good */
	__u8 local[16]; /* IPv4 stands v4-mapped */
	__u8 remote[16];
	__u8 owner_comm[AF_COMM_LEN]; /* of the process, not of the thread */
	__u32 owner_pid; /* tgid in the initial pid namespace; 0: none */
	__u16 lport; /* 0: not chosen yet */
	__u16 rport;
	__u16 sk_err; /* errno at the change */
	__u8 from;
	__u8 to;
	__u8 how;
	__u8 side;
	__u8 accepted;
	__u8 cause;
	__u16 restarts; /* of 2MSL, on leaving TIME_WAIT */
	__u8 entered_bound; /* entered_ns is no beginning: `from` lasts at least since then */
	__u8 pad[5];
};

/* A process that holds a descriptor of a TCP socket. */
struct af_holder {
	__u32 kind;
	__u32 pid;
	__u64 cookie;
	__u64 start_ns;
	__u8 comm[AF_COMM_LEN];
};

/* Return addresses in struct stack (maps.h). */
#define AF_SITE_FRAMES 60

/* Where in a program a socket was made: by connect() or accept(), with this user stack. */
struct af_site {
	__u32 kind;
	__u32 call; /* enum af_side */
	__u64 cookie;
	__u64 stack; /* key of `stacks` */
	__u64 owner_start_ns;
	__u32 owner_pid; /* whose addresses they are */
	__u32 pad;
};

#define AF_SLICE_REGS 32
#define AF_SLICE_BYTES 16384

/*
 * The same for a program without frame pointers, for Go to unwind: the registers at the
 * system call and the top of the stack. It may hold anything that the program has there.
 */
struct af_slice {
	__u32 kind;
	__u32 size; /* of bytes that are set */
	__u64 cookie;
	__u64 owner_start_ns;
	__u32 owner_pid;
	__u32 call; /* enum af_side */
	__u64 base; /* the address of bytes[0] */
	__u64 pc;
	__u64 regs[AF_SLICE_REGS]; /* by DWARF number */
	__u8 bytes[AF_SLICE_BYTES];
};

_Static_assert(sizeof(struct af_slice) == 48 + 256 + AF_SLICE_BYTES, "a hole or a changed record");
_Static_assert(sizeof(struct af_site) == 40, "a hole or a changed record");
_Static_assert(sizeof(struct af_transition) == 120, "a hole or a changed record");
_Static_assert(sizeof(struct af_holder) == 40, "a hole or a changed record");

#endif
