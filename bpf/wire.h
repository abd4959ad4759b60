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
	AF_KIND_TIMER = 5, /* iterator over mini-sockets: struct af_timer */
	AF_KIND_PORT = 6, /* iterators over sockets that have a port: struct af_port */
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
	AF_SIDES = 3,
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
	AF_CAUSE_NO_PORT = 16, /* connect() found no port: EADDRNOTAVAIL */
	AF_CAUSES = 17,
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
	__u8 bound; /* its port was there before connect(): by bind() */
	__u8 pad[4];
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

/* The timer of a mini-socket, in jiffies as the kernel has it; cookie 0: none, the clock alone. */
struct af_timer {
	__u32 kind;
	__u32 substate; /* TCP_TIME_WAIT, or TCP_FIN_WAIT2 of an orphan */
	__u64 cookie;
	__u64 expires; /* as set: the wheel rounds it up */
	__u64 jiffies; /* now */
	__u64 mono_ns; /* now */
};

/* What became of TIME_WAIT in one netns; per CPU, to be added up. */
struct af_tally {
	__u64 entered[AF_SIDES];
	__u64 ended[AF_CAUSES];
	__u64 halfway_ended[AF_CAUSES]; /* mini-sockets of orphans that died in FIN_WAIT2 */
	__u64 restarted; /* of those that ended: how many had 2MSL begin anew */
	__u64 restarts; /* and how often */
	__u64 restarts_unknown; /* of so many that is not known */
	__u64 makers_left_out; /* entries whose maker found no room among those ranked */
	__u64 peers_left_out;
};

/* What is ranked by how many TIME_WAIT it made. */
struct af_maker {
	__u64 start_ns;
	__u32 netns;
	__u32 pid; /* 0: not known */
	__u32 side;
	__u32 pad;
};

struct af_peer {
	__u8 remote[16];
	__u32 netns;
	__u32 side;
	__u32 port; /* ours if it connected to us, else theirs */
	__u32 pad;
};

struct af_ranked {
	__u64 count;
	__u8 comm[AF_COMM_LEN];
};

/*
 * Values by their size. Each one has a slot up to 255, from there on 128 slots share what lies
 * between two powers of two, so a slot is at most 0.8 % wide. The last one has all from 2^36 on.
 */
#define AF_SLOT_BITS 7
#define AF_SLOTS 3840

struct af_histogram {
	__u64 most;
	__u64 least; /* inverted, so that 0 is none here too */
	__u64 sum;
	__u32 slots[AF_SLOTS];
};

/* A socket that has a port, and what of it decides who else may have the same one. */
struct af_port {
	__u32 kind;
	__u32 netns;
	__u64 cookie;
	__u64 expires; /* of a mini-socket: its timer, as in struct af_timer */
	__u64 jiffies;
	__u64 mono_ns;
	__u8 local[16];
	__u8 remote[16];
	__u32 ts_recent_stamp; /* tw_ts_recent_stamp: when a timestamp came last, in seconds; 0: none did */
	__u32 entry_stamp; /* tw_entry_stamp, in ms; 0: this kernel has none */
	__u16 lport;
	__u16 rport;
	__u8 state; /* of a mini-socket: its substate */
	__u8 mini;
	__u8 taken; /* connect() does not choose this port, whatever the destination */
	__u8 reuse; /* SO_REUSEADDR */
	__u8 pad[8];
};

/* Who calls connect(), and whither: key of the map `callers`. */
struct af_caller {
	__u64 start_ns;
	__u8 source[16];
	__u8 remote[16]; /* :: if the port was there before: then the destination does not matter */
	__u32 netns;
	__u32 pid; /* 0: of many, for whom there was no room */
	__u32 port;
	__u32 bound;
};

/* What became of it. */
struct af_calls {
	__u64 connects; /* CLOSE→SYN_SENT */
	__u64 failures; /* of them: no port, EADDRNOTAVAIL */
	__u64 time_waits; /* connections that left a TIME_WAIT */
	__u64 released; /* and those that left none: the port is free at once */
	__u64 failed_ns; /* CLOCK_MONOTONIC of the last failure */
	__u8 comm[AF_COMM_LEN];
};

/* Index of the map `histograms`. */
enum af_measure {
	AF_EXPIRED_EXACT = 0, /* TIME_WAIT that ended by its timer, in us */
	AF_EXPIRED_BOUND = 1, /* the same, where it began before us: at least so long */
	AF_CUT_EXACT = 2, /* TIME_WAIT that something else ended, in us */
	AF_CUT_BOUND = 3,
	AF_LIVES = 4, /* ESTABLISHED, of connections that were closed from our side first, in us */
	AF_EXCHANGES = 5, /* the lesser of the segments with data sent and received, of the same */
	AF_MEASURES = 6,
};

_Static_assert(sizeof(struct af_port) == 96, "a hole or a changed record");
_Static_assert(sizeof(struct af_caller) == 56, "a hole or a changed record");
_Static_assert(sizeof(struct af_timer) == 40, "a hole or a changed record");
_Static_assert(sizeof(struct af_slice) == 48 + 256 + AF_SLICE_BYTES, "a hole or a changed record");
_Static_assert(sizeof(struct af_site) == 40, "a hole or a changed record");
_Static_assert(sizeof(struct af_transition) == 120, "a hole or a changed record");
_Static_assert(sizeof(struct af_holder) == 40, "a hole or a changed record");

#endif
