// SPDX-License-Identifier: Apache-2.0

// Package ports knows by which rules the kernel gives out local ports, how many of them are in
// use, for whom there are none left, and when that will be so. Pure: it touches no kernel.
package ports

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/tcp"
	"afterfin/internal/timewait"
)

// Rules are the settings of a netns that decide who gets which port.
type Rules struct {
	Low, High  uint16        // ip_local_port_range, both included
	Reserved   []Span        // ip_local_reserved_ports: connect() and bind(0) pass over them
	Reuse      int           // tcp_tw_reuse: 0 never, 1 always, 2 over loopback only (default)
	ReuseDelay time.Duration // tcp_tw_reuse_delay; below 0: this kernel has none (before 6.14)
	Timestamps int           // tcp_timestamps: 0 off
}

// Span is a run of ports, both ends included.
type Span struct{ First, Last uint16 }

// ParseSpans reads a list of ports as the kernel prints it: "8080,9000-9100".
func ParseSpans(text string) ([]Span, error) {
	var spans []Span
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		first, last, ok := strings.Cut(part, "-")
		if !ok {
			last = first
		}
		a, err := strconv.ParseUint(first, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("ports %q: %w", part, err)
		}
		b, err := strconv.ParseUint(last, 10, 16)
		if err != nil || b < a {
			return nil, fmt.Errorf("ports %q are no range", part)
		}
		spans = append(spans, Span{uint16(a), uint16(b)})
	}
	return spans, nil
}

// InRange: may connect() and bind(0) choose it?
func (r *Rules) InRange(port uint16) bool {
	if port < r.Low || port > r.High {
		return false
	}
	for _, s := range r.Reserved {
		if s.First <= port && port <= s.Last {
			return false
		}
	}
	return true
}

// Range is how many ports there are from Low to High.
func (r *Rules) Range() int { return int(r.High) - int(r.Low) + 1 }

// ReservedInRange is how many of them are reserved.
func (r *Rules) ReservedInRange() (n int) {
	for _, s := range r.Reserved {
		if first, last := max(s.First, r.Low), min(s.Last, r.High); first <= last {
			n += int(last) - int(first) + 1
		}
	}
	return n
}

// ReuseApplies: does tcp_tw_reuse as it is set let connect() take a TIME_WAIT of this tuple?
// The value 2 is for loopback addresses, at either end (tcp_twsk_unique()).
func (r *Rules) ReuseApplies(t tcp.Tuple) bool {
	return r.Reuse == 1 || r.Reuse == 2 && (t.Local.Addr().IsLoopback() || t.Remote.Addr().IsLoopback())
}

// Delay is how long a TIME_WAIT must have lasted for tcp_tw_reuse, at most: up to 6.13 the next
// second of the kernel's clock must have begun.
func (r *Rules) Delay() time.Duration {
	if r.ReuseDelay < 0 {
		return time.Second
	}
	return r.ReuseDelay
}

// Reusable tells from when on, by CLOCK_MONOTONIC, tcp_tw_reuse lets connect() take a
// mini-socket. False: never, for it has seen no TCP timestamp, or is an orphan in FIN_WAIT2,
// which newer kernels do not take (tcp_twsk_unique()).
func (r *Rules) Reusable(p *event.Port) (from time.Duration, ok bool) {
	if p.RecentStamp == 0 || p.State != tcp.TimeWait {
		return 0, false
	}
	if r.ReuseDelay < 0 || p.EntryStamp == 0 {
		return time.Duration(p.RecentStamp+1) * time.Second, true // time_after32(): later than, in whole seconds
	}
	now := p.Mono.Milliseconds()
	age := uint32(now) - p.EntryStamp // both wrap after 49 days
	entered := time.Duration(now-int64(int32(age))) * time.Millisecond
	return entered + r.ReuseDelay + time.Millisecond, true
}

// Clock is what the end of a TIME_WAIT is told by.
type Clock struct {
	Wheel  timewait.Wheel
	Length time.Duration // that the timer is set to; 0: not known
}

// End is when the timer of a mini-socket runs, by CLOCK_MONOTONIC, to the jiffy.
func (c *Clock) End(p *event.Port) time.Duration {
	left := int64(p.Expires - p.Jiffies)
	if left < 0 { // over, and only the wheel is late
		left = 0
	}
	ahead := max(uint64(c.Length/c.Wheel.Tick), uint64(left)) // an orphan's timer is set to tcp_fin_timeout
	if p.State == tcp.FinWait2 {
		ahead = uint64(left)
	}
	runs := timewait.Runs(p.Expires, ahead)
	return p.Mono + time.Duration(int64(runs-p.Jiffies))*c.Wheel.Tick
}

// Unspecified addresses are those of a socket that takes all.
func overlap(a, b netip.Addr) bool { return a == b || a.IsUnspecified() || b.IsUnspecified() }
