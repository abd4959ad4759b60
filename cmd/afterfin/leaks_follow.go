// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/feed"
	"afterfin/internal/leak"
	"afterfin/internal/owner"
	"afterfin/internal/tcp"
)

// followLeaks reports again and again, completed by the transitions since the start.
// Ctrl-C ends it with a last report.
func followLeaks(e env, o *leaksOptions, every time.Duration) error {
	cfg := o.feed
	cfg.Filter = event.Filter{NetNS: cfg.Filter.NetNS}
	cfg.Filter.States.Add(o.state)
	cfg.Filter.DiedOpen = true // in any state
	cfg.NoTimeWait = true
	cfg.Sites.Add(o.state)
	cfg.Deep = o.deep
	f, err := attach(e, cfg)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, line := range readyLines(f.Start()) {
		fmt.Fprintln(e.stderr, line)
	}
	l := newFollower(e, f, o)
	defer l.places.close()
	var before []leak.Group
	var reported time.Time
	for {
		changes, _, err := f.Next()
		if err != nil {
			return &failure{code: exitRuntime, err: err}
		}
		for i := range changes {
			l.apply(&changes[i])
		}
		if err := l.places.read(); err != nil {
			return &failure{code: exitRuntime, err: err}
		}
		last := e.ctx.Err() != nil
		apart := time.Since(reported)
		if !last && apart < every {
			continue
		}
		r, s, err := o.look(l.complete)
		if err != nil {
			return err
		}
		if !reported.IsZero() {
			leak.Sample(r.Groups, before, apart)
		}
		before, reported = r.Groups, time.Now()
		if err := l.places.found(leaking(r)); err != nil {
			return &failure{code: exitRuntime, err: err}
		}
		lost, err := f.Lost()
		if err != nil {
			return &failure{code: exitRuntime, err: err}
		}
		foot := leakFoot(s)
		foot.Lost = &lost
		if o.output == "text" {
			fmt.Fprintf(e.stdout, "%s\n", reported.Format("15:04:05"))
		}
		if err := o.write(e, r, foot); errors.Is(err, syscall.EPIPE) {
			return nil // whoever read it has seen enough
		} else if err != nil {
			return err
		}
		if last {
			return o.threshold(r)
		}
	}
}

// follower is what --follow knows beside each look.
type follower struct {
	memory *leak.Memory
	feed   *feed.Feed
	places *places
	state  tcp.State
	seen   leak.Seen
}

// newFollower begins with nothing; its caller closes the places.
func newFollower(e env, f *feed.Feed, o *leaksOptions) *follower {
	return &follower{memory: leak.NewMemory(o.state), feed: f, places: openPlaces(f, o.deep, e.stderr), state: o.state,
		seen: leak.Seen{Makes: true, Accepts: f.Tracer().Accepts(), Deep: o.deep}}
}

func (l *follower) apply(ch *conn.Change) {
	l.memory.Apply(ch)
	l.places.apply(ch, l.state)
}

// complete brings what was found up to date from the feed: else it would know more than we.
func (l *follower) complete(found *leak.Found) (leak.Seen, error) {
	if err := l.feed.Drain(l.apply); err != nil {
		return leak.Seen{}, err
	}
	for _, cookie := range l.memory.Complete(found) {
		l.places.gone(cookie)
	}
	var err error
	found.Sites, err = l.places.settled()
	return l.seen, err
}

// leaking are the processes to look at closely: those of pools wait for nobody.
func leaking(r *leak.Report) map[*owner.Process][]uint64 {
	by := make(map[*owner.Process][]uint64)
	for i := range r.Groups {
		g := &r.Groups[i]
		if g.Process == nil || g.Pool {
			continue
		}
		for j := range g.Leaks {
			by[g.Process] = append(by[g.Process], g.Leaks[j].Cookie)
		}
	}
	return by
}
