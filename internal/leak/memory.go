// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"maps"
	"slices"
	"time"

	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/owner"
	"afterfin/internal/site"
	"afterfin/internal/tcp"
)

// Dead is a descriptor whose connection is gone.
type Dead struct {
	owner.Stray
	At   time.Duration // CLOCK_MONOTONIC at its end; 0: not seen
	Site *site.Site    // as in Leak
}

// Memory keeps of the transitions what a look at the host cannot tell: when sockets
// came to their state, on which side they are, and which of them died under their
// descriptor. It grows with what waits, not with what passes. Not for concurrent use.
type Memory struct {
	state  tcp.State
	waits  map[uint64]Wait // by cookie
	deaths map[uint64]Death
}

// Wait is a socket that was seen coming to its state.
type Wait struct {
	Cookie  uint64
	Entered time.Duration // CLOCK_MONOTONIC
	Side    event.Side
	Maker   event.Owner // zero unless it was seen to connect or accept
}

// Death is a socket that died under its descriptor.
type Death struct {
	Inode, Cookie uint64
	Tuple         tcp.Tuple
	At            time.Duration // CLOCK_MONOTONIC
}

// Record is what a Memory knows, for another process.
type Record struct {
	Waits  []Wait
	Deaths []Death
}

// NewMemory is about sockets in one state.
func NewMemory(state tcp.State) *Memory {
	return &Memory{state: state, waits: make(map[uint64]Wait), deaths: make(map[uint64]Death)}
}

// Record gives all that is known.
func (m *Memory) Record() Record {
	return Record{slices.Collect(maps.Values(m.waits)), slices.Collect(maps.Values(m.deaths))}
}

// Recall makes a Memory of one.
func (r *Record) Recall(state tcp.State) *Memory {
	m := NewMemory(state)
	for _, w := range r.Waits {
		m.waits[w.Cookie] = w
	}
	for _, d := range r.Deaths {
		m.deaths[d.Inode] = d
	}
	return m
}

// Apply takes in what changed: what comes to the state or leaves it, and what is DiedOpen.
func (m *Memory) Apply(ch *conn.Change) {
	if ch.From == m.state && m.waits[ch.Cookie].Entered <= ch.Mono { // else it left, and came back
		delete(m.waits, ch.Cookie)
	}
	switch {
	case ch.To == m.state && m.waits[ch.Cookie].Entered <= ch.Mono:
		w := Wait{Cookie: ch.Cookie, Entered: ch.Mono, Side: ch.Side}
		if how := ch.Owner.How; how == event.HowConnect || how == event.HowAccept {
			w.Maker = ch.Owner
		}
		m.waits[ch.Cookie] = w
	case ch.DiedOpen():
		m.deaths[ch.Inode] = Death{ch.Inode, ch.Cookie, ch.Tuple, ch.Mono}
	}
}

// Complete adds what is known to what was found, and forgets what is over: sockets
// whose end was lost, and descriptors that are closed by now: it gives the cookies of these.
func (m *Memory) Complete(f *Found) (closed []uint64) {
	found := make(map[uint64]bool, len(f.Sockets))
	for i := range f.Sockets {
		s := &f.Sockets[i]
		w, ok := m.waits[s.Cookie]
		found[s.Cookie] = true
		if !ok {
			continue
		}
		s.Entered = w.Entered
		if w.Side != event.SideUnknown {
			s.Side = w.Side
		}
		s.Maker = w.Maker
	}
	for cookie, w := range m.waits {
		if w.Entered < f.Began && !found[cookie] {
			delete(m.waits, cookie)
		}
	}
	open := make(map[uint64]Death)
	for _, stray := range f.Strays {
		if d, ok := m.deaths[stray.Inode]; ok {
			open[stray.Inode] = d
		}
	}
	for inode, d := range m.deaths { // one that died since the look is in no list yet
		if d.At > f.Began {
			open[inode] = d
		}
		if _, still := open[inode]; !still {
			closed = append(closed, d.Cookie)
		}
	}
	m.deaths = open
	f.deaths = open
	return closed
}

// dead says which strays are dead descriptors: by what the kernel says of them, or by
// the end that was seen. unclear counts those of which neither is known.
func (f *Found) dead() (dead []Dead, unclear int) {
	for _, s := range f.Strays {
		d, seen := f.deaths[s.Inode]
		switch {
		case s.Known:
			dead = append(dead, Dead{s, d.At, f.Sites.Get(d.Cookie)})
		case seen:
			s.Local, s.Remote = d.Tuple.Local, d.Tuple.Remote
			dead = append(dead, Dead{s, d.At, f.Sites.Get(d.Cookie)})
		default:
			unclear++
		}
	}
	return dead, unclear
}
