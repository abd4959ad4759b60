/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * config.h: knobs that Go sets before the programs are loaded. The verifier sees them
 * as constants and drops what they turn off. The values here work as they are.
 */
#ifndef AFTERFIN_CONFIG_H
#define AFTERFIN_CONFIG_H

#include "kernel.h"
#include "wire.h"

#define AF_MAX_PORTS 16
#define AF_MAX_PIDS 16

/*
 * A wake-up of the reader costs about 75 times what an event costs, so there is none until
 * this many bytes wait; below that the reader's own timer (tracer.PollInterval) comes first.
 */
const volatile __u64 wakeup_bytes = 4 << 20;

/* The accept() seen by tp_btf/sys_exit leaves its owner in a map: look there. */
const volatile bool exact_owner = false;

/*
 * Remember where in its program a socket was made, and tell when it comes to one of these
 * states (bit 1 << TCP_x), or its connection dies. 0: do not.
 */
const volatile __u32 want_sites;

/* Take slices of the stack of processes in `armed`. */
const volatile bool want_slices = false;

/* Count what becomes of TIME_WAIT (count.h). */
const volatile bool want_counts = false;

/* Count who calls connect(), and whither (port.h); with want_counts. */
const volatile bool want_ports = false;

/* Tell rows from and to these states (bit 1 << TCP_x), and with want_died_open those, too. */
const volatile __u32 want_rows = ~0U;

/* Filters. A count of 0, a zero or an empty name lets everything pass. */
const volatile __u16 want_lports[AF_MAX_PORTS];
const volatile __u16 want_rports[AF_MAX_PORTS];
const volatile __u32 want_pids[AF_MAX_PIDS];
const volatile __u32 want_lports_n;
const volatile __u32 want_rports_n;
const volatile __u32 want_pids_n;
const volatile __u32 want_netns;
const volatile __u32 want_states; /* bit 1 << TCP_x */
const volatile bool want_died_open; /* with want_states or want_rows: those of died_open(), too */
const volatile __u8 want_family; /* 4 or 6; v4-mapped counts as 4 */
const volatile char want_comm[AF_COMM_LEN];

/* The length of a jiffy; 1,000,000,000 / CONFIG_HZ. */
const volatile __u64 tick_ns = 4000000;

/*
 * Kernel functions that tell why a mini-socket ends, by where they stand in kernel memory
 * (/proc/kallsyms): whoever is found innermost on the stack gives the cause.
 */
#define AF_CULPRITS 24
struct af_culprit {
	__u64 begin, end;
	__u64 cause; /* enum af_cause, or AF_NOT_THE_END */
};

/* Set by Go when it has found them, before the programs that use them are attached. */
struct af_culprit culprits[AF_CULPRITS];
__u32 culprits_n;

/* tw_timer_handler, one of them: a timer with this function is a mini-socket's. */
__u64 tw_timer_handler;

/* Set by Go once mini-sockets are seen: then FIN_WAIT2→CLOSE means that there is none. */
bool sees_minis;

/* Set by Go while sockets older than us are looked at, see by_cookie. */
bool seeding;

/* Set by Go for as long as it wants counts: they begin at 0 then. */
bool counting;

/* Set by Go when it goes to rest: the next event wakes it, and clears this. */
bool resting;

/* Our own tgid: a file whose last reference the iterator drops is closed by us, not by its owner. */
__u32 self_tgid;

#endif
