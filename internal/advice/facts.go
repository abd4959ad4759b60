// SPDX-License-Identifier: Apache-2.0

// Package advice tells which setting would change something that was measured, what it would
// change, and what it would not. No fact, no advice; and it never changes a setting. Pure.
package advice

import (
	"fmt"
	"net/netip"
	"time"

	"afterfin/internal/ports"
)

// Advice is one knob that would change something measured.
type Advice struct {
	Knob     string `json:"knob"`  // "net.ipv4.tcp_tw_reuse", "RLIMIT_NOFILE"
	Where    string `json:"where"` // whose it is: a netns, the host, a process
	Value    string `json:"value"` // as it is now
	Fact     string `json:"fact"`  // measured
	Would    string `json:"would"`
	WouldNot string `json:"would_not"`
}

// Facts are those of one netns, or of the host; what is zero or nil is no fact.
type Facts struct {
	Where string

	Rules     *ports.Rules
	Needs     []Need   // destinations in need of ports, the worst first
	Listening []uint16 // ports outside of ip_local_port_range that somebody listens on

	TimeWaits, Halfway int // mini-sockets: in TIME_WAIT, and of orphans in FIN_WAIT2
	MaxTimeWaits       int // tcp_max_tw_buckets
	FinTimeout         time.Duration
	RFC1337            int

	While     time.Duration // the sample
	Overflows uint64        // sockets that got no TIME_WAIT in it (TCPTimeWaitOverflow)
	Resets    uint64        // TIME_WAIT that a RST ended in it

	Orphans, MaxOrphans int

	Queues    []Queue // listeners whose accept queue is full
	Somaxconn int

	Files []Files // processes that are close to their limit of descriptors
}

// Need is a destination, and where it is going.
type Need struct {
	Destination *ports.Destination
	Forecast    ports.Forecast
}

// Queue is an accept queue that takes no more.
type Queue struct {
	Local            netip.AddrPort
	Waiting, Backlog int // Backlog: what listen() asked for, cut to somaxconn then
}

// Files is how many descriptors a process has, and may have.
type Files struct {
	PID   int
	Comm  string
	Used  int
	Limit uint64 // RLIMIT_NOFILE, the soft one
}

// When a number is close to its limit.
const (
	scarce = 0.2 // of its ports a destination has left
	near   = 0.8 // of a rate, of buckets, of descriptors
	much   = 0.1 // of the ports, or buckets, that something else than TIME_WAIT takes
	half   = 0.5 // of tcp_max_orphans: beyond a part of it sockets are reset under memory pressure
)

// InNeed: will a destination run short of ports, or has it?
func InNeed(d *ports.Destination, f *ports.Forecast) bool {
	return d.Flow.Failures > 0 || float64(d.Free()) <= scarce*float64(d.Capacity) ||
		f.Sustainable > 0 && max(f.Rate, f.Peak) >= near*f.Sustainable
}

// Full: does an accept queue take no more (sk_acceptq_is_full())?
func (q *Queue) Full() bool { return q.Waiting > q.Backlog }

// CloseToLimit: will the process soon fail with EMFILE?
func (f *Files) CloseToLimit() bool {
	return f.Limit > 0 && float64(f.Used) >= near*float64(f.Limit)
}

// For gives the advice that these facts lead to.
func For(f *Facts) []Advice {
	var out []Advice
	for _, line := range []func(*Facts) *Advice{
		reuse, reuseDelay, timestamps, maxTimeWaits, finTimeout, rfc1337, maxOrphans, portRange, somaxconn, files,
	} {
		if a := line(f); a != nil {
			if a.Where == "" {
				a.Where = f.Where
			}
			out = append(out, *a)
		}
	}
	return out
}

// first gives the first one that something holds of, and words of how many others it does too.
func first[T any](list []T, holds func(*T) bool) (found *T, more string) {
	others := 0
	for i := range list {
		switch {
		case !holds(&list[i]):
		case found == nil:
			found = &list[i]
		default:
			others++
		}
	}
	if others > 0 {
		more = fmt.Sprintf("; and %d more", others)
	}
	return found, more
}
