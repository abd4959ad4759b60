// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"time"

	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

// Quality tells how well an age is known.
type Quality uint8

// Unknown: Min and Max mean nothing. Bound: the truth is between them. Exact: the
// beginning was seen, or the kernel's own times leave two jiffies at most.
const (
	Unknown Quality = iota
	Bound
	Exact
)

var qualities = [...]string{"unknown", "bound", "exact"}

// String is the word used in every view.
func (q Quality) String() string { return qualities[q] }

// Age is how long a socket has been in its state.
type Age struct {
	Min, Max time.Duration
	Quality  Quality
}

// ageOf takes the beginning that was seen, else what struct tcp_info leaves.
//
// CLOSE_WAIT begins with a FIN, which also acknowledges something and may carry data:
// tcp_ack() notes the time of that (last_ack_recv), and data that came (last_data_recv)
// came before it or with it. Nothing that comes later is data. A later segment with an ACK
// moves the first of the two: it answers what we sent, data or a keepalive probe.
//
// FIN_WAIT2 begins with the ACK of our FIN, after the last data that we sent. Data and
// a FIN may follow, and each of them has an ACK.
func ageOf(s *Socket, now, tick time.Duration) Age {
	if s.Entered != 0 {
		d := now - s.Entered
		return Age{d, d, Exact}
	}
	if !s.Info.Known {
		return Age{}
	}
	least, before, first := s.Info.LastAckRecv, s.Info.LastDataRecv, finIsLast(&s.Info, tick)
	if s.State == tcp.FinWait2 {
		before, first = s.Info.LastDataSent, ackIsFirst(&s.Info)
	}
	most := max(before, least)
	if first {
		most = least
	}
	// Both are counted in ticks, and the kernel read its clock between After and Before.
	a := Age{Min: max(0, least-tick) + now - s.Before, Max: most + tick + cut(tick) + now - s.After, Quality: Bound}
	if most == least {
		a.Quality = Exact
	}
	return a
}

// finIsLast: is the last ACK that of the FIN? Whatever we send is answered within its
// retransmission timeout, or sent again, which counts as sent; so an ACK that came long after
// it answers nothing. It must be long: what we sent after the FIN is answered too. Twice
// the timeout, for the kernel's timers may be late by an eighth.
func finIsLast(i *event.Info, tick time.Duration) bool {
	if i.Timer != event.TimerNone { // keepalive or window probes, which do not count as sent
		return false
	}
	return i.DataSegsOut == 0 || i.RTO > 0 && i.LastDataSent-i.LastAckRecv > 2*i.RTO+tick
}

// ackIsFirst: is the last ACK that of our FIN? Data that came in FIN_WAIT2 came with an ACK.
func ackIsFirst(i *event.Info) bool {
	return i.Timer == event.TimerNone && i.LastDataRecv > i.LastAckRecv
}

// cut is what the kernel leaves out when it writes ticks as whole milliseconds.
func cut(tick time.Duration) time.Duration {
	if tick%time.Millisecond == 0 {
		return 0
	}
	return time.Millisecond
}
