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

// Space is how the ports of one netns are used.
type Space struct {
	NetNS        uint32
	Path         string // a way into it, empty for our own
	Rules        Rules
	Inferred     bool // the kernel side was not asked: whose port bind() chose is not known
	Destinations []*Destination
	Listeners    []*Listener
	Outside      []uint16      // ports outside of the range that somebody listens on
	Conntrack    *Conntrack    // nil: not active
	At           time.Duration // CLOCK_MONOTONIC of the look
}

// Conntrack is the connection tracking of a netns.
type Conntrack struct {
	Count    int           // entries
	TimeWait time.Duration // nf_conntrack_tcp_timeout_time_wait
}

// Destination is who competes for one set of ports: connections from one address to one
// address and port, whose ports connect() has chosen. Or, Bound, those from one address to
// anywhere whose ports bind(0) has chosen, before it could know whither.
type Destination struct {
	Source netip.Addr
	Remote netip.AddrPort // zero if Bound
	Bound  bool

	Capacity int // ports for it: of the range, less reserved, less Blocked
	Blocked  int // ports of the range that others hold, in a way that keeps it off them
	Used     int // ports of the range that it holds
	ByState  map[tcp.State]int

	Flow   Flow    // of its connect() calls in the sample
	Owners []Owner // of Flow and of the sockets that are open, most first

	// Of those in TIME_WAIT: which connect() would take now if tcp_tw_reuse were 1, those it
	// would not yet, and those it never would, without TCP timestamps. All three are 0 if Bound:
	// bind(0) takes no TIME_WAIT.
	Reusable, TooYoung, NoStamp int
	InEffect                    int // of Reusable: those it takes as tcp_tw_reuse is set

	// Frees is when each of its mini-sockets is in nobody's way any more, by CLOCK_MONOTONIC,
	// first first: by its end, or by tcp_tw_reuse if that is in effect.
	Frees []time.Duration
	At    time.Duration // CLOCK_MONOTONIC of the look
}

// Free is how many connections could be made now.
func (d *Destination) Free() int { return d.Capacity - d.Used + d.InEffect }

// ReuseApplies: does tcp_tw_reuse as it is set let connect() take TIME_WAIT of this destination?
func (d *Destination) ReuseApplies(rules *Rules) bool {
	return !d.Bound && rules.ReuseApplies(tcp.Tuple{Local: netip.AddrPortFrom(d.Source, 0), Remote: d.Remote})
}

// Key tells destinations apart.
type Key struct {
	NetNS  uint32
	Source netip.Addr
	Remote netip.AddrPort
	Bound  bool
}

func keyOf(c *event.Caller) Key {
	k := Key{NetNS: c.NetNS, Source: c.Source, Remote: c.Destination, Bound: c.Bound}
	if c.Bound {
		k.Remote = netip.AddrPort{}
	}
	return k
}

// Look is what Space.Take goes by.
type Look struct {
	At      time.Duration // CLOCK_MONOTONIC
	Clock   Clock
	Sockets []event.Port           // of that netns, each of them once
	Holders map[uint64]event.Owner // by cookie
	Callers []event.Caller         // of all netns, in the sample
	Peaks   *Peaks
	While   time.Duration // of the sample
}

// plan is a look at one netns under way.
type plan struct {
	*Look
	space     *Space
	on        map[uint16][]*event.Port // by local port
	listening map[uint16][]*event.Port
	taken     int
	found     map[Key]*Destination
}

// Take sorts what a look has shown. s has its Rules.
func (s *Space) Take(l *Look) {
	p := plan{Look: l, space: s, on: make(map[uint16][]*event.Port), listening: make(map[uint16][]*event.Port), found: make(map[Key]*Destination)}
	sockets := l.Sockets
	s.At = l.At
	for i := range sockets {
		port := sockets[i].Tuple.Local.Port()
		p.on[port] = append(p.on[port], &sockets[i])
		if sockets[i].State == tcp.Listen {
			p.listening[port] = append(p.listening[port], &sockets[i])
		}
	}
	p.countTaken()
	for i := range sockets {
		if k, ok := p.of(&sockets[i]); ok {
			p.add(k, &sockets[i])
		}
	}
	for port := range p.listening {
		if port < s.Rules.Low || port > s.Rules.High {
			s.Outside = append(s.Outside, port)
		}
	}
	slices.Sort(s.Outside)
	for i := range l.Callers {
		if c := &l.Callers[i]; c.NetNS == s.NetNS {
			p.destination(keyOf(c)).call(c)
		}
	}
	for k, d := range p.found {
		p.finish(k, d)
		s.Destinations = append(s.Destinations, d)
	}
	s.Listeners = p.listeners()
	slices.SortFunc(s.Destinations, func(a, b *Destination) int {
		return cmp.Or(cmp.Compare(a.Free()*max(b.Capacity, 1), b.Free()*max(a.Capacity, 1)), // the fullest first
			cmp.Compare(b.Used, a.Used), a.Source.Compare(b.Source), a.Remote.Compare(b.Remote), cmp.Compare(btoi(a.Bound), btoi(b.Bound)))
	})
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// of says who it is that holds this port of the range: not whoever listens or has accepted, nor
// who is bound and may do either.
func (p *plan) of(s *event.Port) (Key, bool) {
	local := s.Tuple.Local
	if s.State == tcp.Listen || s.State == tcp.Close || !p.space.Rules.InRange(local.Port()) || p.accepted(s) {
		return Key{}, false
	}
	if s.Taken {
		return Key{NetNS: p.space.NetNS, Source: local.Addr(), Bound: true}, !local.Addr().IsUnspecified()
	}
	return Key{NetNS: p.space.NetNS, Source: local.Addr(), Remote: s.Tuple.Remote}, s.Tuple.Remote.IsValid() && s.Tuple.Remote.Port() != 0
}

// accepted: connect() has not made it. Of a port that it did not choose, several connections are
// a server's; a client that binds first has one.
func (p *plan) accepted(s *event.Port) bool {
	for _, l := range p.listening[s.Tuple.Local.Port()] {
		if overlap(l.Tuple.Local.Addr(), s.Tuple.Local.Addr()) {
			return true
		}
	}
	return s.Taken && len(p.on[s.Tuple.Local.Port()]) > 1
}

func (p *plan) destination(k Key) *Destination {
	d := p.found[k]
	if d == nil {
		d = &Destination{Source: k.Source, Remote: k.Remote, Bound: k.Bound, ByState: make(map[tcp.State]int), At: p.At, Flow: Flow{While: p.While}}
		if p.Peaks != nil {
			d.Flow.Peak = p.Peaks.most[k]
		}
		p.found[k] = d
	}
	return d
}

func (p *plan) add(k Key, s *event.Port) {
	d := p.destination(k)
	d.Used++
	d.ByState[s.State]++
	if !s.Mini {
		if o, ok := p.Holders[s.Cookie]; ok {
			d.owner(o).Sockets++
		}
		return
	}
	free := p.Clock.End(s)
	if !k.Bound && s.State == tcp.TimeWait && !p.space.Inferred {
		from, ok := p.space.Rules.Reusable(s)
		applies := p.space.Rules.ReuseApplies(s.Tuple)
		switch {
		case !ok:
			d.NoStamp++
		case from > s.Mono:
			d.TooYoung++
		default:
			d.Reusable++
			d.InEffect += btoi(applies)
		}
		if ok && applies {
			free = min(free, max(from, p.At))
		}
	}
	d.Frees = append(d.Frees, free)
}

// finish counts the ports: a destination has one connection on each, a client that binds first
// one.
func (p *plan) finish(k Key, d *Destination) {
	if k.Bound {
		p.finishBound(k, d)
	} else {
		d.Blocked = p.taken
	}
	d.Capacity = p.space.Rules.Range() - p.space.Rules.ReservedInRange() - d.Blocked
	slices.Sort(d.Frees)
	slices.SortFunc(d.Owners, func(a, b Owner) int {
		return cmp.Or(cmp.Compare(b.Sockets+int(b.Connects), a.Sockets+int(a.Connects)), cmp.Compare(a.PID, b.PID))
	})
}

// finishBound: in the way of bind(0) is whoever has an address that overlaps (inet_csk_bind_conflict()).
func (p *plan) finishBound(k Key, d *Destination) {
	for port, sockets := range p.on {
		if !p.space.Rules.InRange(port) {
			continue
		}
		blocked := false
		for _, s := range sockets {
			if o, ok := p.of(s); ok && o == k { // it is its own
				blocked = false
				break
			}
			blocked = blocked || overlap(s.Tuple.Local.Addr(), k.Source)
		}
		d.Blocked += btoi(blocked)
	}
}

// countTaken counts the ports of the range that connect() passes over, whatever the destination: it
// looks at nothing but the port (__inet_hash_connect()).
func (p *plan) countTaken() {
	for port, sockets := range p.on {
		if p.space.Rules.InRange(port) && slices.ContainsFunc(sockets, func(s *event.Port) bool { return s.Taken }) {
			p.taken++
		}
	}
}
