// SPDX-License-Identifier: Apache-2.0

package ports

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

// Listener is a place that connections came in at, and where some of them keep bind() from being
// called again: it fails with EADDRINUSE, and no event tells.
type Listener struct {
	Local     netip.AddrPort // as its connections have it, or :: if they differ
	Listening bool           // somebody listens there now: would it be bound again?
	ByState   map[tcp.State]int

	// Refuses: bind() fails even with SO_REUSEADDR, for that must have been set on the old
	// listener too (a connection takes it over, and its TIME_WAIT from that).
	Refuses bool
	// Until is when the last of them is over, by CLOCK_MONOTONIC, if all are mini-sockets; 0:
	// nobody knows.
	Until time.Duration
}

// listeners finds them. Where nobody listens any more, a port that connect() did not choose and
// that is not of the range, or has several connections, was a listener's.
func (p *plan) listeners() []*Listener {
	var found []*Listener
	for port, sockets := range p.on {
		l := &Listener{Listening: len(p.listening[port]) > 0, ByState: make(map[tcp.State]int)}
		open := false
		for _, s := range sockets {
			if s.State == tcp.Listen {
				l.Refuses = l.Refuses || !s.Reuse // its next one's connections will refuse as well
				continue
			}
			if !s.Taken || s.State == tcp.Close || !p.accepted(s) && p.space.Rules.InRange(port) {
				continue
			}
			l.place(s)
			l.ByState[s.State]++
			l.Refuses = l.Refuses || !s.Reuse
			if s.Mini {
				l.Until = max(l.Until, p.Clock.End(s))
			} else {
				open = true
			}
		}
		if len(l.ByState) == 0 || l.Listening && !l.Refuses || l.Listening && l.ByState[tcp.TimeWait] == 0 {
			continue
		}
		if open {
			l.Until = 0
		}
		found = append(found, l)
	}
	slices.SortFunc(found, func(a, b *Listener) int {
		return cmp.Or(cmp.Compare(btoi(a.Listening), btoi(b.Listening)), a.Local.Compare(b.Local))
	})
	return found
}

func (l *Listener) place(s *event.Port) {
	switch local := s.Tuple.Local; {
	case !l.Local.IsValid():
		l.Local = local
	case l.Local != local:
		l.Local = netip.AddrPortFrom(netip.IPv6Unspecified(), local.Port())
	}
}
