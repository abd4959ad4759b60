/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* cause.h: why a socket went to CLOSE, other than in order. */
#ifndef AFTERFIN_CAUSE_H
#define AFTERFIN_CAUSE_H

#include "owner.h"

/* What is read of the socket for it. Only at →CLOSE. */
static __always_inline void look_at_end(struct look *l, struct sock *sk, struct tcp_sock *tp)
{
	__u32 waiting = tp->rcv_nxt - tp->copied_seq;

	l->fin = sk->__sk_common.skc_flags >> SOCK_DONE & 1;
	waiting -= l->fin; /* it takes a number too */
	l->unread = waiting > 0 && waiting < 1U << 31;
	l->sent = tp->segs_out != 0;
	l->linger2 = tp->linger2 < 0;
	l->linger0 = sk->__sk_common.skc_flags >> SOCK_LINGER & 1 && !sk->sk_lingertime;
}

static __always_inline __u8 cause_of_errno(int err)
{
	switch (err) {
	case ECONNRESET:
	case ECONNREFUSED:
	case EPIPE: /* tcp_reset() in CLOSE_WAIT */
		return AF_CAUSE_RESET;
	case ETIMEDOUT:
	case EHOSTUNREACH: /* tcp_write_err() gives the last ICMP error */
	case ENETUNREACH:
		return AF_CAUSE_TIMEOUT;
	case ECONNABORTED: /* tcp_abort(): ss -K */
		return AF_CAUSE_ABORTED;
	}
	return AF_CAUSE_UNKNOWN;
}

/*
 * __tcp_close() looks at unread data first, then at SO_LINGER, then in FIN_WAIT2 at
 * TCP_LINGER2. What is left of FIN_WAIT2 and CLOSING is a want of memory, or of
 * tcp_max_tw_buckets, for a mini-socket: Go can tell by the counter of the netns.
 */
static __always_inline __u8 cause_of_close(const struct af_transition *t, const struct conn *c, const struct look *l)
{
	if (t->from == TCP_LAST_ACK || t->from == TCP_LISTEN || t->from == TCP_CLOSE)
		return t->sk_err ? cause_of_errno(t->sk_err) : AF_CAUSE_NONE;
	if (t->sk_err)
		return cause_of_errno(t->sk_err);
	if (c && c->side == AF_SIDE_ACCEPT && !l->held && !l->dead && t->accepted == AF_ACCEPTED_NO)
		return AF_CAUSE_LISTENER_CLOSED; /* inet_csk_listen_stop() */
	if (l->fin && (t->from == TCP_FIN_WAIT2 || t->from == TCP_CLOSING)) /* no close(): it was to be TIME_WAIT */
		return sees_minis ? AF_CAUSE_UNKNOWN : AF_CAUSE_NONE;
	if (l->unread)
		return AF_CAUSE_UNREAD_DATA;
	if (l->linger0)
		return AF_CAUSE_LINGER;
	if (t->from == TCP_FIN_WAIT1 || t->from == TCP_FIN_WAIT2) {
		if (l->linger2)
			return AF_CAUSE_LINGER2;
		return sees_minis ? AF_CAUSE_UNKNOWN : AF_CAUSE_NONE;
	}
	/* tcp_v4_connect() fails before there is a SYN: no port, or the one from bind() has such a connection. */
	if (t->from == TCP_SYN_SENT && !l->sent && !l->shutdown && (!t->lport || t->bound))
		return AF_CAUSE_NO_PORT;
	if (t->from == TCP_SYN_SENT && t->lport) /* close() before there was an answer */
		return AF_CAUSE_NONE;
	if (l->file && (t->from == TCP_ESTABLISHED || t->from == TCP_CLOSE_WAIT))
		return AF_CAUSE_DISCONNECTED; /* the file is still there: connect(AF_UNSPEC) */
	return AF_CAUSE_UNKNOWN;
}

#endif
