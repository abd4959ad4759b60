// SPDX-License-Identifier: Apache-2.0

package folklore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"afterfin/internal/clock"
	"afterfin/internal/feed"
)

// Options say how to try claims.
type Options struct {
	Feed    *feed.Feed // of all network namespaces, and of nobody else meanwhile; nil: there is no tracer
	Control bool       // turn the condition of each the other way
	// Done is called with each finding, one at a time, in the order in which they end.
	Done func(Finding)
}

// Run tries claims side by side, each in a netns of its own, and returns when all are through, or
// when ctx is done: then what is under way ends without a finding, its processes are gone and its
// netns with them, and the error is that of ctx. What an experiment needs ends with this process,
// whatever ends that.
func Run(ctx context.Context, claims []*Claim, o Options) error {
	var r *recorder
	if o.Feed != nil {
		r = record(o.Feed)
		defer r.stop()
	}
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, c := range claims {
		group.Go(func() {
			f := try(ctx, c, r, o.Control)
			mu.Lock()
			defer mu.Unlock()
			if ctx.Err() == nil {
				o.Done(f)
			}
		})
	}
	through := make(chan struct{})
	go func() {
		group.Wait()
		close(through)
	}()
	select {
	case <-through:
	case <-ctx.Done():
		select { // one may still wait for a segment; it has nothing that outlives the process
		case <-through:
		case <-time.After(grace):
		}
	}
	return ctx.Err()
}

// grace is how long is waited for experiments that are told to end.
const grace = 2 * time.Second

// overdue is how much longer than it takes an experiment may take: its machine may be busy.
const overdue = time.Minute

// aborted carries an error out of an experiment, through all that called each other there.
type aborted struct{ err error }

// try tries one claim.
func try(ctx context.Context, c *Claim, r *recorder, control bool) (f Finding) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.Takes+overdue, fmt.Errorf("not through after %v", c.Takes+overdue))
	defer cancel()
	begin := clock.Mono()
	f = Finding{Claim: c, Control: control, Traced: r != nil}
	s := &stage{ctx: ctx, recorder: r, control: control}
	defer func() {
		if gone := recover(); gone != nil {
			a, ours := gone.(aborted)
			if !ours {
				panic(gone)
			}
			f.Err = a.err
			if cause := context.Cause(ctx); cause != nil { // which ended what the error is about
				f.Err = fmt.Errorf("%w: %w", cause, a.err)
			}
		}
		f.Err = errors.Join(f.Err, s.end())
		if f.Err != nil {
			f.Err = fmt.Errorf("%s: %w", c.Name, f.Err)
			f.Verdict = ""
		}
		f.Did, f.Took = s.log, clock.Mono()-begin
	}()
	s.begin()
	j := c.try(s)
	f.Verdict, f.Since, f.Figures = j.Verdict, j.Since, j.Figures
	if r != nil {
		f.Seen, f.Lost = s.seen()
	}
	return f
}

// Longest is how long the longest of these takes, about.
func Longest(claims []*Claim) (d time.Duration) {
	for _, c := range claims {
		d = max(d, c.Takes)
	}
	return d
}
