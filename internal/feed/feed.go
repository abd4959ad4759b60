// SPDX-License-Identifier: Apache-2.0

// Package feed joins the two sources, the kernel ring and the dump of existing
// sockets, into one stream of changes with owners: attach, dump, replay, ready.
package feed

import (
	"fmt"
	"slices"
	"time"

	"afterfin/internal/clock"
	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/tcp"
	"afterfin/internal/tracer"
)

const (
	// Batch is how many transitions Next reads at most. If it reads fewer, it has come to the
	// end of the ring: all that happened before the call is read.
	Batch = 2048
	// lookInterval is how late a silent FIN_WAIT2→TIME_WAIT may be told.
	lookInterval = 100 * time.Millisecond

	maxPending = 1 << 20 // transitions kept while the dump runs; the ring holds more, and counts
)

// Config says what to follow.
type Config struct {
	Filter     event.Filter
	ExactOwner bool
	NoTimeWait bool
	NetNSPath  string       // with Filter.NetNS: how to enter it
	Sites      tcp.StateSet // as in tracer.Config
	Deep       bool
	Counts     bool // as in tracer.Config; without Rows nothing is kept of single sockets
	Rows       tcp.StateSet
	Timers     bool // as in tracer.Config
	Ports      bool // as in tracer.Config
	Types      *tracer.Types
}

// Start is what was there and what was chosen when the feed became ready.
type Start struct {
	Hooks  []tracer.Hook
	States map[tcp.State]int // existing sockets that match the filter
	// TimeWaitLeft is what the youngest of those in TIME_WAIT still has.
	TimeWaitLeft time.Duration
	NetNS        int           // network namespaces dumped
	Unreadable   int           // processes or namespaces that could not be entered
	CallBefore   time.Duration // cost of one system call before --exact-owner armed anything
	CallAfter    time.Duration // and after; 0 if nothing was armed
	Took         time.Duration // from Open to ready
	// LengthUnknown is why it is not known how long this kernel's TIME_WAIT is; nil if it is,
	// or does not matter.
	LengthUnknown error
}

// Feed is the running stream. Not for concurrent use.
type Feed struct {
	filter    event.Filter
	tracer    *tracer.Tracer
	table     *conn.Table
	pending   []event.Transition // read while the dump ran, not applied yet
	raw       []event.Transition
	changes   []conn.Change
	walk      budget
	overflows *overflows
	looked    time.Time // when moves were looked for last
	partial   bool      // some rows of a socket are told and not others, its end perhaps not
	lostRows  uint64
	start     Start
	offset    time.Duration
}

// Open attaches, dumps the existing sockets and gives them their owners. Errors
// are those of tracer.New and sockdiag.Dump. The caller closes the Feed.
func Open(cfg Config) (*Feed, error) {
	begin := time.Now()
	f := &Feed{
		filter:  cfg.Filter,
		table:   conn.NewTable(conn.MaxConns),
		raw:     make([]event.Transition, Batch),
		partial: cfg.Filter.States != 0 || cfg.Filter.WantsOwner() || cfg.Counts,
	}
	if cfg.ExactOwner {
		f.start.CallBefore = tracer.CallCost()
	}
	var err error
	var length time.Duration
	if !cfg.NoTimeWait {
		length, f.start.LengthUnknown = timeWaitLength()
	}
	if f.tracer, err = tracer.New(tracer.Config{
		Filter: cfg.Filter, ExactOwner: cfg.ExactOwner, NoTimeWait: cfg.NoTimeWait, TimeWaitLength: length, Sites: cfg.Sites, Deep: cfg.Deep,
		Counts: cfg.Counts, Rows: cfg.Rows, Timers: cfg.Timers, Ports: cfg.Ports, Types: cfg.Types,
	}); err != nil {
		return nil, err
	}
	f.start.Hooks = f.tracer.Hooks()
	if f.tracer.TaxesCalls() {
		f.start.CallAfter = tracer.CallCost()
	}
	if err := f.seedAndRead(cfg); err != nil {
		f.tracer.Close()
		return nil, err
	}
	f.start.Took = time.Since(begin)
	return f, nil
}

// seedAndRead empties the ring while the dump runs, so that a busy host does not
// overflow it before the first row.
func (f *Feed) seedAndRead(cfg Config) error {
	type result struct {
		found *found
		err   error
	}
	done := make(chan result, 1)
	go func() {
		found, err := seed(f.tracer, cfg)
		done <- result{found, err}
	}()
	for {
		n, err := f.tracer.Read(f.raw)
		if err != nil {
			<-done // it still uses the tracer
			return err
		}
		f.pending = append(f.pending, f.raw[:n]...)
		if len(f.pending) >= maxPending {
			break
		}
		select {
		case r := <-done:
			return f.take(r.found, r.err)
		default:
		}
	}
	r := <-done
	return f.take(r.found, r.err)
}

func (f *Feed) take(found *found, err error) error {
	if err == nil {
		found.into(f)
	}
	return err
}

// Start tells what Open found.
func (f *Feed) Start() Start { return f.start }

// Next waits tracer.PollInterval, or tracer.RestInterval, for transitions and returns those that match the filter, and
// how many were read in all, Batch at most: 0 on a quiet host. The slice is
// reused by the next call. Errors are those of tracer.Read.
func (f *Feed) Next() (changes []conn.Change, read int, err error) {
	if now := time.Now(); now.Sub(f.looked) >= lookInterval {
		f.looked = now
		if err := f.LookForMoves(); err != nil {
			return nil, 0, err
		}
	}
	n, err := f.read()
	if err != nil {
		return nil, 0, err
	}
	f.offset = clock.Real() - clock.Mono()
	f.changes = slices.Grow(f.changes[:0], n)[:n]
	for i := range f.raw[:n] {
		f.table.Apply(&f.raw[i], &f.changes[i])
		if f.partial {
			f.table.Forget(f.raw[i].Cookie)
		}
	}
	f.overflows.prove(f.changes)
	if err := f.resolve(time.Now()); err != nil {
		return nil, 0, err
	}
	kept := 0
	for i := range f.changes {
		if !f.filter.Match(&f.changes[i].Transition) {
			continue
		}
		if kept < i { // they are large
			f.changes[kept] = f.changes[i]
		}
		kept++
	}
	return f.changes[:kept], n, nil
}

// Tracer is what the feed reads, for what passes beside the changes: where sockets were
// made. It is the feed's: nobody else reads or closes it.
func (f *Feed) Tracer() *tracer.Tracer { return f.tracer }

// Drain calls fn with what has happened so far and was not read yet, and no more than the ring
// can hold: others go on meanwhile.
func (f *Feed) Drain(fn func(*conn.Change)) error {
	for late := 0; late <= tracer.RingRecords; {
		changes, n, err := f.Next()
		if err != nil {
			return err
		}
		for i := range changes {
			fn(&changes[i])
		}
		if n < Batch {
			break
		}
		late += n
	}
	return nil
}

// LookForMoves is tracer.LookForMoves. Next does it every lookInterval; call it
// once more before the last Next.
func (f *Feed) LookForMoves() error { return f.tracer.LookForMoves() }

// read takes first what came in while the dump ran.
func (f *Feed) read() (int, error) {
	if len(f.pending) == 0 {
		return f.tracer.Read(f.raw)
	}
	n := copy(f.raw, f.pending)
	f.pending = f.pending[n:]
	if len(f.pending) > 0 {
		return n, nil
	}
	f.pending = nil
	more, err := f.tracer.Read(f.raw[n:])
	return n + more, err
}

// Wall gives the time of day of a CLOCK_MONOTONIC reading, by the clocks as they
// stood at the last Next.
func (f *Feed) Wall(mono time.Duration) time.Time {
	return time.Unix(0, int64(mono+f.offset))
}

// Lost counts what did not arrive since Open.
func (f *Feed) Lost() (event.Lost, error) {
	lost, err := f.tracer.Lost()
	if err != nil {
		return lost, fmt.Errorf("count losses: %w", err)
	}
	if rows := lost.Ring + lost.Recursion; rows != f.lostRows {
		f.lostRows = rows
		f.table.Clear() // some ends among them: what they ended would stay for good
	}
	lost.Evicted = f.table.Evicted()
	return lost, nil
}

// Close detaches everything.
func (f *Feed) Close() error { return f.tracer.Close() }
