// SPDX-License-Identifier: Apache-2.0

// Package conn is the connection table: it joins what was there before the start
// with what the kernel tells since, and says for each event what it means. Pure:
// no kernel, no clock but the events' own.
package conn

import (
	"time"

	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

// MaxConns is how many connections the table keeps, about 100 MB. Beyond it a
// connection is not remembered; that is counted and its rows stay right, since
// the kernel keeps what they need with the socket.
const MaxConns = 1 << 20

// Quality tells how well a duration is known.
type Quality uint8

// Unknown: nothing is known. AtLeast: it began before we looked, so this is a
// proven lower bound. Exact: both ends were seen.
const (
	Unknown Quality = iota
	AtLeast
	Exact
)

// Span is a duration with its quality; D is 0 if unknown.
type Span struct {
	D       time.Duration
	Quality Quality
}

// Change is a transition with all that is known about it.
type Change struct {
	event.Transition
	InState Span // time spent in From
}

// entry is what the table knows of one socket.
type entry struct {
	state tcp.State
	side  event.Side
	// after and before bound the moment the state was written down by sock_diag;
	// both are the time of the last transition once one was seen.
	after, before time.Duration
	owner         event.Owner
}

// Table keeps live connections by cookie. Not for concurrent use.
//
// Order. The transitions of one socket come in order: the kernel changes it under
// the socket's lock and the ring keeps that order. Between sockets there is none,
// and a dump runs beside it all. So everything is decided per cookie and by time:
// what is older than what the table knows still makes a row, but changes nothing.
type Table struct {
	conns   map[uint64]*entry
	free    []*entry // of connections that are gone
	closed  tombstones
	max     int
	evicted uint64
}

// NewTable makes a table that keeps at most max connections.
func NewTable(max int) *Table {
	return &Table{conns: make(map[uint64]*entry), max: max}
}

// Evicted counts connections not kept because the table was full.
func (t *Table) Evicted() uint64 { return t.evicted }

// AddExisting takes in a socket from a dump. A transition that was applied
// already knows better, so the dump changes nothing then. Request sockets are left
// out, since no transition tells their end, and mini-sockets, whose rows the kernel
// side makes without us.
func (t *Table) AddExisting(e *event.Existing) {
	if leftOut(e) || t.conns[e.Cookie] != nil || t.closed.has(e.Cookie, e.After) {
		return
	}
	if c := t.insert(e.Cookie); c != nil {
		*c = entry{state: e.State, after: e.After, before: e.Before}
	}
}

// leftOut: a FIN_WAIT2 without file may be a mini-socket, as sock_diag shows it.
func leftOut(e *event.Existing) bool {
	return e.State == tcp.TimeWait || e.Inode == 0 && (e.State == tcp.SynRecv || e.State == tcp.FinWait2)
}

// AddHolder notes a process that holds the socket, for one whose owner is not
// known better.
func (t *Table) AddHolder(h *event.Holder) {
	if c := t.conns[h.Cookie]; c != nil && open(&c.owner, c.state) {
		c.owner = h.Owner
	}
}

// open: may another process be the owner? Of a connection that came in, the
// listener's owner is only a hint; of the listener itself it is the one who listens.
func open(o *event.Owner, state tcp.State) bool {
	return o.How == event.HowUnknown || o.How == event.HowListen && state != tcp.Listen
}

// Apply takes in a transition and puts what it means into ch, over whatever is there.
func (t *Table) Apply(tr *event.Transition, ch *Change) {
	ch.Transition = *tr
	c := t.conns[tr.Cookie]
	if c != nil && c.owner.PID != 0 && open(&ch.Owner, ch.From) {
		ch.Owner = c.owner
	}
	if c != nil && ch.Side == event.SideUnknown {
		ch.Side = c.side
	}
	ch.InState = inState(tr, c)
	t.learn(ch, c)
}

// Forget drops a socket whose end may never be told. The kernel remembers what
// the rows to come need; what was there before them is used up by now.
func (t *Table) Forget(cookie uint64) {
	if c := t.conns[cookie]; c != nil {
		t.drop(cookie, c)
	}
}

// Clear forgets all.
func (t *Table) Clear() { t.conns, t.free = make(map[uint64]*entry), nil }

// inState: the kernel saw the state begin, or a dump saw it there.
func inState(tr *event.Transition, c *entry) Span {
	switch {
	case tr.Entered != 0 && tr.AtLeast:
		return Span{tr.Mono - tr.Entered, AtLeast}
	case tr.Entered != 0:
		return Span{tr.Mono - tr.Entered, Exact}
	case c != nil && c.state == tr.From && c.before < tr.Mono:
		return Span{tr.Mono - c.before, AtLeast}
	}
	return Span{}
}

func (t *Table) learn(ch *Change, c *entry) {
	switch {
	case ch.Cookie == 0, c == nil && t.closed.has(ch.Cookie, ch.Mono):
		return
	case c != nil && c.precedes(ch):
		return
	case ch.To == tcp.Close, ch.To == tcp.TimeWait: // what is to tell of a mini-socket the kernel side knows
		if c != nil {
			t.drop(ch.Cookie, c)
		}
		t.closed.add(ch.Cookie, ch.Mono)
		return
	case c == nil:
		if c = t.insert(ch.Cookie); c == nil {
			return
		}
	}
	*c = entry{state: ch.To, side: ch.Side, owner: ch.Owner, after: ch.Mono, before: ch.Mono}
}

// precedes: did ch happen before what the entry says? While a dump was running
// only the state can tell: what leaves the state it found comes after it.
func (c *entry) precedes(ch *Change) bool {
	if ch.Mono > c.after && ch.Mono < c.before {
		return ch.From != c.state
	}
	return ch.Mono < c.before
}

// insert makes an entry, for the caller to fill; nil if there is no room.
func (t *Table) insert(cookie uint64) *entry {
	if len(t.conns) >= t.max {
		t.evicted++
		return nil
	}
	var c *entry
	if last := len(t.free) - 1; last >= 0 {
		c, t.free = t.free[last], t.free[:last]
	} else {
		c = new(entry)
	}
	t.conns[cookie] = c
	return c
}

// drop keeps the entry for the next connection, so that a busy host makes no garbage.
func (t *Table) drop(cookie uint64, c *entry) {
	delete(t.conns, cookie)
	t.free = append(t.free, c)
}

// tombstones remember the sockets closed last, so that an event or a dump that
// comes late does not bring one back for good. The kernel counts cookies up, so those of one
// time fall on places of their own.
type tombstones [8192]struct {
	cookie uint64
	at     time.Duration
}

func (s *tombstones) add(cookie uint64, at time.Duration) {
	place := &s[cookie%uint64(len(s))]
	place.cookie, place.at = cookie, at
}

// has: was the socket closed at that time or later?
func (s *tombstones) has(cookie uint64, at time.Duration) bool {
	place := &s[cookie%uint64(len(s))]
	return place.cookie == cookie && at <= place.at
}
