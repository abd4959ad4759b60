// SPDX-License-Identifier: Apache-2.0

package site

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/owner"
	"afterfin/internal/symbol"
	"afterfin/internal/unwind"
)

const (
	maxSites  = 10_000 // known at once: a program has few places, one that compiles itself has many
	maxSlices = 128    // that wait: 2 MiB
	oneStack  = 10 * time.Second
)

// Finder names sites on a goroutine of its own: the files of a large program take a while
// to read, and they must be read before the program ends. Its methods are for one
// goroutine. It is closed by its caller.
type Finder struct {
	symbols *symbol.Resolver
	walker  *walker
	known   map[string]*Site // the worker's

	mu      sync.Mutex
	changed sync.Cond
	jobs    []job
	done    []result
	busy    bool
	slices  int // among jobs
	closed  bool
	dropped uint64
	ended   chan struct{}
}

// job has one of the two; or it is the word to rest, or the end of a socket, told after all that is to be said
// of it.
type job struct {
	told  *event.Site
	slice *event.Slice
	gone  uint64
	rest  bool
}

type result struct {
	cookie uint64
	site   *Site
}

// NewFinder starts the goroutine.
func NewFinder() *Finder {
	f := &Finder{symbols: symbol.New(), walker: newWalker(), known: make(map[string]*Site), ended: make(chan struct{})}
	f.changed.L = &f.mu
	go f.work()
	return f
}

// Close ends the goroutine. What waits is dropped.
func (f *Finder) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.changed.Broadcast()
	<-f.ended
	f.symbols.Close()
	f.walker.close()
}

// Told takes what the kernel side told.
func (f *Finder) Told(s event.Site) { f.add(job{told: &s}) }

// Slice takes a slice, and lets go of it when it is unwound. If too many wait it is
// dropped, which is counted.
func (f *Finder) Slice(s event.Slice) { f.add(job{slice: &s}) }

// Pending tells whether something waits, or is being named.
func (f *Finder) Pending() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.busy || len(f.jobs)+len(f.done) > 0
}

// Gone says that a socket is no more: Collect will give nil for it, after its site.
func (f *Finder) Gone(cookie uint64) { f.add(job{gone: cookie}) }

// Rest lets go of what was read of programs' files, once what waits is named: the next place in one
// of them takes a little longer.
func (f *Finder) Rest() { f.add(job{rest: true}) }

func (f *Finder) add(j job) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if j.slice != nil {
		if f.slices >= maxSlices {
			f.dropped++
			return
		}
		f.slices++
	}
	f.jobs = append(f.jobs, j)
	f.changed.Broadcast()
}

// Collect calls fn with the sites found since the last call, by the cookies of their
// sockets: it is Book.Put.
func (f *Finder) Collect(fn func(cookie uint64, s *Site)) {
	f.mu.Lock()
	done := f.done
	f.done = nil
	f.mu.Unlock()
	for _, r := range done {
		fn(r.cookie, r.site)
	}
}

// Settle waits until nothing waits, but not longer than this.
func (f *Finder) Settle(patience time.Duration) {
	over := false
	timer := time.AfterFunc(patience, func() {
		f.mu.Lock()
		over = true
		f.mu.Unlock()
		f.changed.Broadcast()
	})
	defer timer.Stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	for !over && (f.busy || len(f.jobs) > 0) {
		f.changed.Wait()
	}
}

// Dropped counts the slices that there was no time for.
func (f *Finder) Dropped() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dropped
}

func (f *Finder) work() {
	defer close(f.ended)
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		for len(f.jobs) == 0 && !f.closed {
			f.changed.Wait()
		}
		if f.closed {
			return
		}
		j := f.jobs[0]
		f.jobs[0] = job{} // a slice shall not live longer than it must
		f.jobs = f.jobs[1:]
		f.busy = true
		f.mu.Unlock()
		if j.rest {
			f.symbols.Forget()
			f.mu.Lock()
			f.busy = false
			f.changed.Broadcast()
			continue
		}
		r := f.find(j)
		f.mu.Lock()
		f.busy = false
		if j.slice != nil {
			f.slices--
		}
		f.done = append(f.done, r)
		f.changed.Broadcast()
	}
}

func (f *Finder) find(j job) result {
	ctx, cancel := context.WithTimeout(context.Background(), oneStack)
	defer cancel()
	if j.gone != 0 {
		return result{cookie: j.gone}
	}
	if s := j.told; s != nil {
		return result{s.Cookie, f.site(ctx, Site{PID: int(s.PID), Start: s.Start, Call: s.Call, How: ByFramePointers, Stack: s.Stack})}
	}
	s := j.slice
	site := Site{PID: int(s.PID), Start: s.Start, Call: s.Call, How: ByUnwinding, Stack: []uint64{s.PC}}
	stack, stop, err := f.walker.walk(ctx, s)
	switch {
	case err != nil:
		site.Note = why(err)
		return result{s.Cookie, &site}
	case stop != unwind.End:
		site.Note = "the callers end here: " + stop.String()
	}
	site.Stack = stack
	return result{s.Cookie, f.site(ctx, site)}
}

// site names the frames of a new one, and gives the one that is known already.
func (f *Finder) site(ctx context.Context, s Site) *Site {
	key := s.identity()
	if known := f.known[key]; known != nil {
		return known
	}
	if p, err := owner.ProcessOf(s.PID); err != nil || !sameStart(p.Start, s.Start) {
		s.Note = why(errors.Join(err, fs.ErrNotExist))
		return &s
	}
	frames, err := f.symbols.Resolve(ctx, s.PID, s.Stack)
	if err != nil {
		s.Note = why(err)
		return &s
	}
	s.Frames = frames
	if len(f.known) >= maxSites {
		clear(f.known)
	}
	f.known[key] = &s
	return &s
}

// sameStart: /proc counts in clock ticks, BPF in nanoseconds.
func sameStart(proc, exact time.Duration) bool { return proc == exact.Truncate(owner.ClockTick) }

func why(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "the process had ended before its stack could be named"
	case errors.Is(err, fs.ErrPermission):
		return "the files of the process may not be read (CAP_SYS_PTRACE)"
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("its files could not be read within %v", oneStack)
	}
	return err.Error()
}

func (s *Site) identity() string {
	key := make([]byte, 0, 8*(3+len(s.Stack)))
	key = binary.LittleEndian.AppendUint64(key, uint64(s.PID)|uint64(s.Call)<<32|uint64(s.How)<<40)
	key = binary.LittleEndian.AppendUint64(key, uint64(s.Start))
	for _, address := range s.Stack {
		key = binary.LittleEndian.AppendUint64(key, address)
	}
	return string(key)
}
