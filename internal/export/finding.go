// SPDX-License-Identifier: Apache-2.0

package export

import (
	"net/netip"
	"time"

	"afterfin/internal/leak"
)

// Kind is what a Finding is about.
type Kind uint8

// LeakFound: a process has begun to leak. NoDescriptors: one that leaks will run out of descriptors;
// NoPorts: a destination will of ports. Overflow: sockets got no TIME_WAIT.
const (
	LeakFound Kind = iota
	NoDescriptors
	NoPorts
	Overflow
)

var kinds = [...]string{"afterfin.leak", "afterfin.forecast.descriptors", "afterfin.forecast.ports", "afterfin.overflow"}

// String is the name of the event.
func (k Kind) String() string { return kinds[k] }

// Finding is something that is told once, when it comes to be.
type Finding struct {
	Kind        Kind
	At          time.Time
	Group       *leak.Group // of LeakFound and NoDescriptors
	NetNS       uint32      // of NoPorts and Overflow
	Source      netip.Addr
	Destination netip.AddrPort // of NoPorts; zero if bind() comes before connect()
	In          time.Duration  // of the forecasts: when
	Count       uint64         // of Overflow: sockets, since the look before
}

// soon is how near an end must be to be told.
const soon = time.Hour

// Findings says what a look has that the one before had not. The zero value is ready. Not
// for concurrent use.
type Findings struct {
	before *Look
	told   map[any]bool
}

type (
	leaker struct {
		kind  Kind
		pid   int
		start time.Duration
	}
	exhausted struct {
		netns       uint32
		source      netip.Addr
		destination netip.AddrPort
		bound       bool
	}
)

// Take gives what is new. What is over and comes again is new.
func (f *Findings) Take(l *Look) []Finding {
	var found []Finding
	now := make(map[any]bool)
	add := func(key any, what Finding) {
		now[key] = true
		if !f.told[key] {
			what.At = l.At
			found = append(found, what)
		}
	}
	for i := range l.Leaks.Groups {
		g := &l.Leaks.Groups[i]
		if g.Process == nil || g.Pool {
			continue
		}
		add(leaker{LeakFound, g.Process.PID, g.Process.Start}, Finding{Kind: LeakFound, Group: g})
		if in, ok := g.EMFILE(); ok && in < soon {
			add(leaker{NoDescriptors, g.Process.PID, g.Process.Start}, Finding{Kind: NoDescriptors, Group: g, In: in})
		}
	}
	for _, s := range l.Ports {
		for _, d := range s.Destinations {
			if fc := d.Forecast(&s.Rules, l.Mean); fc.Exhausted >= 0 && fc.Exhausted < soon {
				add(exhausted{s.NetNS, d.Source, d.Remote, d.Bound},
					Finding{Kind: NoPorts, NetNS: s.NetNS, Source: d.Source, Destination: d.Remote, In: fc.Exhausted})
			}
		}
	}
	if f.before != nil {
		for i := range l.TimeWait.Spaces {
			netns := l.TimeWait.Spaces[i].NetNS
			if n := f.before.TimeWait.Overflowed(l.TimeWait, netns); n > 0 {
				found = append(found, Finding{Kind: Overflow, At: l.At, NetNS: netns, Count: n})
			}
		}
	}
	f.before, f.told = l, now
	return found
}
