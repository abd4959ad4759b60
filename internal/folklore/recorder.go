// SPDX-License-Identifier: Apache-2.0

package folklore

import (
	"context"
	"errors"
	"sync"
	"time"

	"afterfin/internal/clock"
	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/feed"
	"afterfin/internal/tracer"
)

// recorder reads one feed for all experiments, each of which has a netns of its own.
type recorder struct {
	feed *feed.Feed

	mu      sync.Mutex
	turned  *sync.Cond // something was read, or asked was answered
	spaces  map[uint32]*account
	asked   int // how often somebody wanted all that has happened
	told    int // which of these are answered
	late    int // read since the first that is not
	lost    event.Lost
	err     error
	closing bool
	done    chan struct{}
}

// account is what was seen in one netns since it was made: its inode number may be that of a dead one.
type account struct {
	since time.Duration
	rows  []conn.Change
}

// record begins to read. The caller stops it, and closes the feed after that.
func record(f *feed.Feed) *recorder {
	r := &recorder{feed: f, spaces: make(map[uint32]*account), done: make(chan struct{})}
	r.turned = sync.NewCond(&r.mu)
	go r.run()
	return r
}

func (r *recorder) run() {
	defer close(r.done)
	for r.turn() {
	}
}

// turn reads once. It is false at the end.
func (r *recorder) turn() bool {
	r.mu.Lock()
	asked := r.asked
	look := asked > r.told
	r.mu.Unlock()
	var err error
	if look { // a move from FIN_WAIT2 to TIME_WAIT may be silent
		err = r.feed.LookForMoves()
	}
	var changes []conn.Change
	read := 0
	if err == nil {
		changes, read, err = r.feed.Next()
	}
	var lost event.Lost
	if err == nil {
		lost, err = r.feed.Lost()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range changes {
		if a := r.spaces[changes[i].NetNS]; a != nil && changes[i].Mono >= a.since {
			a.rows = append(a.rows, changes[i])
		}
	}
	if look {
		r.late += read
	}
	// The end of the ring was come to, or as much was read as it holds: on a busy host it is never empty.
	if read < feed.Batch || r.late > tracer.RingRecords {
		r.told, r.late = asked, 0
	}
	r.lost, r.err = lost, err
	r.turned.Broadcast()
	return err == nil && !r.closing
}

// open begins an account of a netns that was made just now.
func (r *recorder) open(netns uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spaces[netns] = &account{since: clock.Mono()}
}

// rows gives what happened in the netns so far, or the error of ctx.
func (r *recorder) rows(ctx context.Context, netns uint32) ([]conn.Change, event.Lost, error) {
	defer context.AfterFunc(ctx, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.turned.Broadcast()
	})()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	for mine := r.asked; r.told < mine && r.err == nil && !r.closing && ctx.Err() == nil; {
		r.turned.Wait()
	}
	return r.spaces[netns].rows, r.lost, errors.Join(r.err, ctx.Err())
}

// stop ends the reading.
func (r *recorder) stop() {
	r.mu.Lock()
	r.closing = true
	r.turned.Broadcast()
	r.mu.Unlock()
	<-r.done
}
