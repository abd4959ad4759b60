// SPDX-License-Identifier: Apache-2.0

package leak

import (
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
	waits  map[uint64]wait // by cookie
	deaths map[uint64]death
}

type wait struct {
	entered time.Duration
	side    event.Side
	maker   event.Owner // zero unless it was seen to connect or accept
}

type death struct {
	tuple  tcp.Tuple
	at     time.Duration
	cookie uint64
}

// NewMemory is about sockets in one state.
func NewMemory(state tcp.State) *Memory {
	return &Memory{state: state, waits: make(map[uint64]wait), deaths: make(map[uint64]death)}
}

// DiedOpen: the connection is over and its descriptor still open, as the inode of its file
// says. Of other sockets CLOSE is the end.
func DiedOpen(ch *conn.Change) bool { return ch.To == tcp.Close && ch.SkErr != 0 && ch.Inode != 0 }

// Apply takes in what changed.
func (m *Memory) Apply(ch *conn.Change) {
	if ch.From == m.state && m.waits[ch.Cookie].entered <= ch.Mono { // else it left, and came back
		delete(m.waits, ch.Cookie)
	}
	switch {
	case ch.To == m.state && m.waits[ch.Cookie].entered <= ch.Mono:
		w := wait{entered: ch.Mono, side: ch.Side}
		if how := ch.Owner.How; how == event.HowConnect || how == event.HowAccept {
			w.maker = ch.Owner
		}
		m.waits[ch.Cookie] = w
	case DiedOpen(ch):
		m.deaths[ch.Inode] = death{ch.Tuple, ch.Mono, ch.Cookie}
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
		s.Entered = w.entered
		if w.side != event.SideUnknown {
			s.Side = w.side
		}
		s.Maker = w.maker
	}
	for cookie, w := range m.waits {
		if w.entered < f.Began && !found[cookie] {
			delete(m.waits, cookie)
		}
	}
	open := make(map[uint64]death)
	for _, stray := range f.Strays {
		if d, ok := m.deaths[stray.Inode]; ok {
			open[stray.Inode] = d
		}
	}
	for inode, d := range m.deaths { // one that died since the look is in no list yet
		if d.at > f.Began {
			open[inode] = d
		}
		if _, still := open[inode]; !still {
			closed = append(closed, d.cookie)
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
			dead = append(dead, Dead{s, d.at, f.Sites.Get(d.cookie)})
		case seen:
			s.Local, s.Remote = d.tuple.Local, d.tuple.Remote
			dead = append(dead, Dead{s, d.at, f.Sites.Get(d.cookie)})
		default:
			unclear++
		}
	}
	return dead, unclear
}
