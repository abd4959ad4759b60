// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"afterfin/internal/clock"
	"afterfin/internal/event"
	"afterfin/internal/export"
	"afterfin/internal/feed"
	"afterfin/internal/netns"
	"afterfin/internal/otlp"
	"afterfin/internal/ports"
	"afterfin/internal/recorder"
	"afterfin/internal/survey"
	"afterfin/internal/timewait"
	"afterfin/internal/tracer"
)

// service is serve at work. One goroutine reads the feed and looks (record); others take
// snapshots, and ask it by asks.
type service struct {
	env      env
	options  *serveOptions
	feed     *feed.Feed
	follower *follower
	history  *recorder.History
	asks     chan func()
	findings export.Findings
	pushed   *otlp.Exporter // nil: nothing is

	before time.Duration // CLOCK_MONOTONIC when what is ranked was taken last

	mu        sync.Mutex // of what follows
	looked    *export.Look
	lookErr   error     // of the last one
	turned    time.Time // when record was last seen to go on
	lost      event.Lost
	gone      event.Tally // of netns that are no more
	tallies   map[uint32]event.Tally
	failures  uint64
	overflows uint64
	memory    uint64
	maps      []export.Map
}

// newService attaches and looks once. Its caller closes it.
func newService(e env, o *serveOptions) (*service, error) {
	f, err := attach(e, o.feedOf(e.types))
	if err != nil {
		return nil, err
	}
	s := &service{env: e, options: o, feed: f, follower: newFollower(e, f, &o.leaks), asks: make(chan func()),
		history: recorder.NewHistory(), turned: time.Now()}
	if err = sees(f.Start(), tracer.GivesTimeWait); err == nil {
		err = f.Tracer().StartCounting()
	}
	s.before = clock.Mono()
	if err == nil {
		s.look()
		err = s.lookErr
	}
	if err == nil {
		return s, nil
	}
	s.close()
	if f := new(failure); errors.As(err, &f) {
		return nil, f
	}
	return nil, &failure{code: exitRuntime, err: err}
}

func (s *service) close() {
	if s.pushed != nil {
		ctx, cancel := context.WithTimeout(context.Background(), lastPush)
		defer cancel()
		s.pushed.Close(ctx)
	}
	s.follower.places.close()
	s.feed.Close()
}

// lastPush is for how long a collector that does not answer may hold up the end.
const lastPush = 2 * time.Second

// record reads, answers and looks until ctx is done. A look that fails is told by ready and by
// the metrics; that nothing can be read any more ends it.
func (s *service) record(ctx context.Context) error {
	next := time.Now().Add(s.options.every)
	var counted time.Time
	for ctx.Err() == nil {
		changes, _, err := s.feed.Next()
		if err != nil {
			return err
		}
		for i := range changes {
			s.follower.apply(&changes[i])
		}
		if err := s.follower.places.read(); err != nil {
			return err
		}
		for s.asked() {
		}
		now := time.Now()
		if now.Sub(counted) >= time.Second {
			counted = now
			if err := s.count(now); err != nil {
				return err
			}
		}
		if !now.Before(next) {
			s.look()
			next = time.Now().Add(s.options.every)
		}
	}
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// asked answers one who waits, if anybody does.
func (s *service) asked() bool {
	select {
	case fn := <-s.asks:
		fn()
		return true
	default:
		return false
	}
}

// count keeps what only this goroutine may read.
func (s *service) count(now time.Time) error {
	lost, err := s.feed.Lost()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost, s.turned = lost, now
	return nil
}

// look takes in how the sockets are now.
func (s *service) look() {
	begin := time.Now()
	defer s.follower.places.finder.Rest()
	l, interval, err := s.survey()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookErr = err
	if err != nil {
		return
	}
	l.At, l.Took = begin, time.Since(begin)
	for i := range interval.Ranked.Callers {
		s.failures += interval.Ranked.Callers[i].Failures
	}
	if s.looked != nil {
		for i := range l.TimeWait.Spaces {
			s.overflows += s.looked.TimeWait.Overflowed(l.TimeWait, l.TimeWait.Spaces[i].NetNS)
		}
	}
	s.looked = l
	if s.pushed != nil {
		s.pushed.Tell(s.findings.Take(l))
	}
	s.lookErr = s.fold(l.TimeWait)
	live, halfway := l.TimeWait.Live()
	s.fill("makers", len(interval.Ranked.Makers))
	s.fill("peers", len(interval.Ranked.Peers))
	s.fill("callers", len(interval.Ranked.Callers))
	s.fill("minis", live+halfway)
	s.fill("halfway", halfway)
}

// fill notes how full a map was when it was looked into.
func (s *service) fill(name string, entries int) {
	s.maps = append(s.maps, export.Map{Name: name, Entries: entries, Limit: s.feed.Tracer().Limit(name)})
}

// survey is a look at everything, and what was counted since the one before.
func (s *service) survey() (*export.Look, *recorder.Interval, error) {
	report, found, err := s.options.leaks.look(s.follower.complete)
	if err != nil {
		return nil, nil, err
	}
	ranked, err := s.feed.Tracer().TakeRanked()
	if err != nil {
		return nil, nil, err
	}
	at := clock.Mono()
	totals, err := s.feed.Tracer().Totals()
	if err != nil {
		return nil, nil, err
	}
	cfg := &s.options.leaks.feed
	tw, err := survey.TimeWaits(netns.NS{Inode: cfg.Filter.NetNS, Path: cfg.NetNSPath}, &cfg.Filter)
	if err != nil {
		return nil, nil, err
	}
	interval := &recorder.Interval{Begin: s.before, End: at, Ranked: ranked, Totals: totals, TimeWait: tw}
	s.before = at
	s.history.Add(interval)
	p := porter{env: s.env, cfg: *cfg}
	if err := p.look(s.feed, ports.Look{While: interval.End - interval.Begin, Callers: ranked.Callers}); err != nil {
		return nil, nil, err
	}
	return &export.Look{
		Leaks: report, Waiting: found.Ages(s.options.leaks.state), TimeWait: tw, Ports: p.report.Spaces, Mean: p.report.Mean(),
		Unreadable: found.Unreadable, Unreachable: found.Unreachable,
	}, interval, nil
}

// fold keeps of a netns that is no more what was counted in it: the kernel's map has room for
// so many, and its inode number may come again.
func (s *service) fold(now *timewait.Now) error {
	tr := s.feed.Tracer()
	totals, err := tr.Totals()
	if err != nil {
		return err
	}
	tallies := make(map[uint32]event.Tally)
	for inode, t := range totals.Tallies {
		if now.Space(inode) != nil {
			continue
		}
		if before, known := s.tallies[inode]; !known || before != *t { // it may be one that cannot be entered
			tallies[inode] = *t
			continue
		}
		sum, err := tr.TakeTally(inode)
		if err != nil {
			return err
		}
		s.gone.Add(&sum)
	}
	s.tallies = tallies
	s.memory, err = tr.MapMemory()
	s.maps = nil // not appended to: a snapshot may have it
	s.fill("tallies", len(totals.Tallies))
	return err
}

// snapshot is for any goroutine.
func (s *service) snapshot() (*export.Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	totals, err := s.feed.Tracer().Totals()
	if err != nil {
		return nil, err
	}
	const none = 0 // no netns has this number
	gone := s.gone
	totals.Tallies[none] = &gone
	out := &export.Snapshot{Counts: totals, Lost: s.lost, Failures: s.failures, Overflows: s.overflows,
		Look: s.looked, MapMemory: s.memory, Maps: s.maps}
	for _, h := range s.feed.Start().Hooks {
		out.Hooks = append(out.Hooks, export.Hook{Gives: h.Gives, Program: h.Program})
	}
	return out, nil
}

// stuck is for how long nothing may be read: a look at a large host takes seconds.
const stuck = time.Minute

func (s *service) health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if idle := time.Since(s.turned); idle > stuck {
		return fmt.Errorf("nothing was read for %v", idle.Round(time.Second))
	}
	return nil
}

func (s *service) ready() error {
	if err := s.health(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lookErr
}
