// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"cmp"
	"math"
	"slices"
	"time"

	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/owner"
	"afterfin/internal/site"
	"afterfin/internal/tcp"
)

// Forever as an Age's Max: no upper bound is known.
const Forever = time.Duration(math.MaxInt64)

// Overdue is a socket that was in CLOSE_WAIT for as long as the limit, or longer. Its Leak
// is what the last look while it was open has shown; without any, only the tuple.
type Overdue struct {
	Leak
	// Process is the holder in question, or the holder of the listener in whose queue
	// it is; nil if it was not described before it ended.
	Process *owner.Process
	Named   event.Owner // by the transitions; zero if there were none
	FD      int         // in Process; -1: not known, or none
	Looked  bool        // there was such a look
	// Closed: it has left CLOSE_WAIT, and its process lived on. An end of both that was
	// told as one counts as the end of the process.
	Closed bool
}

// Processes are asked for what the kernel knows now; start is CLOCK_BOOTTIME at their start.
type Processes struct {
	// Place says whether a process is one of those in question, and then who it is.
	Place func(pid int, start time.Duration) (owner.Place, *owner.Process)
	// Alive says whether it has not ended.
	Alive func(pid int, start time.Duration) bool
}

// Deadline finds the sockets of some processes that were in CLOSE_WAIT for too long, from
// looks at the host, from transitions, or from both. An age counts only as far as it is
// proven. Not for concurrent use.
type Deadline struct {
	limit  time.Duration
	procs  Processes
	memory *Memory
	waits  map[uint64]*waiter // by cookie, of any process
	over   []*waiter

	// Sites are where sockets were made; nil: nobody looked.
	Sites *site.Book
}

// waiter is one stay in CLOSE_WAIT.
type waiter struct {
	Overdue
	first  time.Duration // CLOCK_MONOTONIC when it was surely there: its beginning, or a dump
	looked time.Duration // of the last look that found it
	mine   bool
	over   bool
	missed bool // by the last look; its row may still be in the ring
}

// NewDeadline is about those processes that are Inside.
func NewDeadline(limit time.Duration, procs Processes) *Deadline {
	return &Deadline{limit: limit, procs: procs, memory: NewMemory(tcp.CloseWait), waits: make(map[uint64]*waiter)}
}

// Waiting counts the sockets that are in CLOSE_WAIT now, as far as is known, but for those
// whose holders were seen to be none of ours: without any, a look would change nothing.
func (d *Deadline) Waiting() (n int) {
	for _, w := range d.waits {
		if w.mine || !w.Looked {
			n++
		}
	}
	return n
}

// Overdue gives what was found so far, the oldest first.
func (d *Deadline) Overdue() []Overdue {
	var out []Overdue
	for _, w := range d.over {
		o := w.Overdue
		o.Site = d.Sites.Get(o.Cookie)
		out = append(out, o)
	}
	slices.SortStableFunc(out, func(a, b Overdue) int {
		return cmp.Or(cmp.Compare(b.Age.Min, a.Age.Min), cmp.Compare(a.Cookie, b.Cookie))
	})
	return out
}

// Apply takes in what changed.
func (d *Deadline) Apply(ch *conn.Change) {
	if ch.To == tcp.CloseWait {
		d.enter(ch)
	}
	if ch.From == tcp.CloseWait {
		d.leave(ch)
	}
	d.memory.Apply(ch)
}

func (d *Deadline) enter(ch *conn.Change) {
	w := d.waits[ch.Cookie]
	if w == nil || w.first < ch.Mono { // else a look was faster than the ring
		w = fromChange(ch)
		d.waits[ch.Cookie] = w
	}
	w.first, w.Entered = ch.Mono, ch.Mono
	d.name(w, ch)
}

func fromChange(ch *conn.Change) *waiter {
	s := &Socket{Existing: event.Existing{
		Cookie: ch.Cookie, Inode: ch.Inode, NetNS: ch.NetNS, Tuple: ch.Tuple, State: tcp.CloseWait,
	}, Side: ch.Side}
	return &waiter{Overdue: Overdue{Leak: Leak{Socket: s}, FD: -1}, first: ch.Mono}
}

// name takes the owner that a transition tells. Of a connection that came in it may be
// the listener's only, so it decides as long as no look has shown the holders.
func (d *Deadline) name(w *waiter, ch *conn.Change) {
	if ch.Owner.PID == 0 || w.Looked && ch.Owner.How != event.HowClose {
		return
	}
	place, p := d.procs.Place(int(ch.Owner.PID), ch.Owner.Start)
	if place == owner.Gone {
		return
	}
	w.mine, w.Named = place == owner.Inside, ch.Owner
	if w.Process == nil || !w.Looked {
		w.Process = p
	}
}

func (d *Deadline) leave(ch *conn.Change) {
	w := d.waits[ch.Cookie]
	if w == nil { // there before the first look, or its beginning was lost
		w = fromChange(ch)
	}
	delete(d.waits, ch.Cookie)
	d.name(w, ch)
	w.Age = w.ageAtEnd(ch)
	w.Closed = d.outlived(w)
	d.judge(w)
}

// outlived: the process was there when the end of the socket was told.
func (d *Deadline) outlived(w *waiter) bool {
	switch {
	case w.Process != nil:
		return d.procs.Alive(w.Process.PID, w.Process.Start)
	case w.Named.PID != 0:
		return d.procs.Alive(int(w.Named.PID), w.Named.Start)
	}
	return true
}

func (w *waiter) ageAtEnd(ch *conn.Change) Age {
	switch {
	case ch.InState.Quality == conn.Exact:
		return Age{ch.InState.D, ch.InState.D, Exact}
	case w.Entered != 0:
		return Age{ch.Mono - w.Entered, ch.Mono - w.Entered, Exact}
	}
	a := Age{Min: max(ch.InState.D, ch.Mono-w.first, w.Age.Min), Max: Forever, Quality: Bound}
	if w.Looked && w.Age.Quality != Unknown && w.Age.Max != Forever {
		a.Max = max(a.Min, w.Age.Max+ch.Mono-w.looked)
	}
	return a
}

func (d *Deadline) judge(w *waiter) {
	if !w.over && w.mine && w.Age.Quality != Unknown && w.Age.Min >= d.limit {
		w.over = true
		d.over = append(d.over, w)
	}
}

// Look takes in what a look at the host has found. Call it when the transitions from
// before are applied, if there are any.
func (d *Deadline) Look(f *Found) {
	d.memory.Complete(f)
	found := make(map[uint64]bool)
	for _, l := range Judge(f, tcp.CloseWait, 0) {
		found[l.Cookie] = true
		d.see(l, f)
	}
	for cookie, w := range d.waits {
		if found[cookie] || w.first >= f.Began {
			continue
		}
		if w.missed { // its row was lost, or there are none
			delete(d.waits, cookie)
			continue
		}
		w.missed = true
		w.Closed = d.outlived(w)
		if w.Looked && w.Age.Max != Forever {
			w.Age.Max += f.At - w.looked
			w.Age.Quality = Bound
		}
	}
}

func (d *Deadline) see(l Leak, f *Found) {
	w := d.waits[l.Cookie]
	if w == nil {
		w = &waiter{Overdue: Overdue{FD: -1}, first: l.Before}
		d.waits[l.Cookie] = w
	}
	// Since the dump it may have been closed: its age is proven for that moment.
	l.Age = ageOf(l.Socket, l.After, f.Tick)
	if least := max(0, l.After-w.first); l.Age.Quality == Unknown {
		l.Age = Age{least, Forever, Bound}
	} else if l.Age.Min < least {
		l.Age.Min, l.Age.Max = least, max(least, l.Age.Max)
	}
	if ending := l.Verdict == Undecided || l.Verdict == NoFD; ending && len(l.Holders)+len(l.Fixed) == 0 && w.Looked {
		// Its holder was just about to end: what was known of it stands.
		l.Holders, l.Fixed, l.Verdict, l.Inferred = w.Holders, w.Fixed, w.Verdict, w.Inferred
	}
	if l.Side == event.SideUnknown && w.Socket != nil { // the listener that told it is gone
		l.Side = w.Side
	}
	w.Leak, w.looked, w.Looked = l, l.Before, true
	w.missed, w.Closed = false, false
	d.hold(w)
	d.judge(w)
}

// hold decides by the holders: one inside is enough.
func (d *Deadline) hold(w *waiter) {
	holders := slices.Concat(w.Holders, w.Fixed)
	queued := w.Verdict == NotAccepted && w.Listener != nil
	if queued {
		holders = w.Listener.Holders
	}
	var inside *owner.Holder
	known := false
	for i, h := range holders {
		place, _ := d.procs.Place(h.Process.PID, h.Process.Start)
		known = known || place != owner.Gone
		if place == owner.Inside && (inside == nil || h.Process.Start < inside.Process.Start) {
			inside = &holders[i]
		}
	}
	switch {
	case inside != nil:
		w.mine, w.Process, w.FD = true, fuller(w.Process, inside.Process), inside.FD
		if queued || len(w.Holders) == 0 { // the listener's, or the io_uring's
			w.FD = -1
		}
	case known:
		w.mine = false
	}
}

// fuller: a process that is just about to end has no command line any more.
func fuller(before, now *owner.Process) *owner.Process {
	if before != nil && before.PID == now.PID && before.Start == now.Start && len(now.Cmdline) == 0 {
		return before
	}
	return now
}
