// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/clock"
	"afterfin/internal/conn"
	"afterfin/internal/feed"
	"afterfin/internal/leak"
	"afterfin/internal/owner"
	"afterfin/internal/survey"
	"afterfin/internal/tcp"
	"afterfin/internal/tracer"
	"afterfin/internal/view"
)

// assertRun is a command under way and what is known of its sockets.
type assertRun struct {
	feed      *feed.Feed // nil: looks must do
	places    *places    // with feed
	deadline  *leak.Deadline
	timeWaits *leak.TimeWaits // nil: not counted
	every     time.Duration   // between looks
	looked    time.Time
	unread    int // processes, at the last look
}

// watchCommandTree runs the command to its end. watched is why it could not be watched
// to its end, err why it was not started.
func watchCommandTree(e env, o *assertOptions, command *exec.Cmd) (a *view.Assertion, watched, err error) {
	// Then processes whose parents end become our children, and stay in the tree.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, nil, &failure{code: exitRuntime, err: fmt.Errorf("become a subreaper: %w", err)}
	}
	signals := takeSignals(e.ending)
	defer signals.stop()
	tree := owner.NewTree(os.Getpid())
	r := &assertRun{deadline: leak.NewDeadline(o.limit, leak.Processes{Place: tree.Place, Alive: tree.Alive}), every: lookEvery(o.limit)}
	if o.timeWait >= 0 {
		r.timeWaits = leak.NewTimeWaits(tree.Place)
	}
	if err := r.open(e, o); err != nil {
		return nil, nil, err
	}
	defer r.close()
	if s := signals.early(); s != 0 {
		return nil, nil, &failure{code: exitSignal + int(s), err: fmt.Errorf("%v before the command was started", s)}
	}
	command.Stdin, command.Stdout, command.Stderr = e.stdin, e.stdout, e.stderr
	c, err := start(command, tree)
	if err != nil {
		return nil, nil, cannotStart(command.Args[0], err)
	}
	go signals.passOn(c)
	status, watched := r.watch(c)
	return r.result(o, status, watched)
}

// lookEvery: often enough to see the same socket several times before it is too old.
func lookEvery(limit time.Duration) time.Duration {
	return min(max(limit/4, 50*time.Millisecond), time.Second)
}

// open begins to watch, before the command is started, and looks once: what is known to
// be there already, and that looking works.
func (r *assertRun) open(e env, o *assertOptions) error {
	why := "--no-bpf"
	if !o.noBPF {
		var cfg feed.Config
		cfg.Filter.States.Add(tcp.CloseWait)
		cfg.Sites.Add(tcp.CloseWait)
		cfg.Deep = true
		if cfg.NoTimeWait = r.timeWaits == nil; !cfg.NoTimeWait {
			cfg.Filter.States.Add(tcp.TimeWait)
			cfg.Filter.States.Add(tcp.Close) // connect() too: it names processes in good time
		}
		f, err := attach(e, cfg)
		if errors.Is(err, tracer.ErrNoRegisters) {
			fmt.Fprintf(e.stderr, "notice: %v: lines of code go by frame pointers only\n", err)
			cfg.Deep = false
			f, err = attach(e, cfg)
		}
		var missing *failure
		switch {
		case err == nil:
			r.feed, r.places = f, openPlaces(f, cfg.Deep, e.stderr)
			r.deadline.Sites = r.places.book
		case r.timeWaits != nil, !errors.As(err, &missing), missing.code != exitPrivilege && missing.code != exitFeature:
			return err
		default:
			why = missing.Error()
		}
	}
	if err := r.look(); err != nil {
		r.close()
		return lookFailed(err)
	}
	if r.feed == nil {
		fmt.Fprintf(e.stderr, "notice: no BPF (%s): polling every %s, a CLOSE_WAIT that is over between two looks may be missed\n", why, view.Duration(r.every))
	}
	return nil
}

// watch follows the command to its end, and then sees what is left.
func (r *assertRun) watch(c *child) (unix.WaitStatus, error) {
	if r.feed == nil {
		return r.poll(c)
	}
	for {
		select {
		case status := <-c.ended:
			if err := r.drain(); err != nil {
				return status, err
			}
			return status, r.look()
		default:
		}
		err := r.read()
		if err == nil && r.deadline.Waiting() > 0 && time.Since(r.looked) >= r.every {
			err = r.look()
		}
		if err != nil {
			return <-c.ended, err
		}
	}
}

func (r *assertRun) poll(c *child) (unix.WaitStatus, error) {
	tick := time.NewTicker(r.every)
	defer tick.Stop()
	for {
		select {
		case status := <-c.ended:
			return status, r.look()
		case <-tick.C:
			if err := r.look(); err != nil {
				return <-c.ended, err
			}
		}
	}
}

func (r *assertRun) apply(ch *conn.Change) {
	r.deadline.Apply(ch)
	if r.timeWaits != nil {
		r.timeWaits.Apply(ch)
	}
}

// read takes in what changed.
func (r *assertRun) read() error {
	changes, _, err := r.feed.Next()
	for i := range changes {
		r.apply(&changes[i])
	}
	if err != nil {
		return err
	}
	return r.places.read()
}

func (r *assertRun) close() {
	if r.feed != nil {
		r.places.close()
		r.feed.Close()
	}
}

// drain reads what happened before the command ended.
func (r *assertRun) drain() error {
	until := clock.Mono()
	if r.timeWaits != nil {
		if err := r.feed.LookForMoves(); err != nil {
			return err
		}
	}
	return r.feed.Drain(func(ch *conn.Change) {
		if ch.Mono <= until {
			r.apply(ch)
		}
	})
}

func (r *assertRun) look() error {
	s, err := survey.Look(survey.Config{State: tcp.CloseWait})
	if err != nil {
		return err
	}
	r.deadline.Look(&s.Found)
	r.looked, r.unread = time.Now(), s.Unreadable
	if r.places == nil {
		return nil
	}
	leaking := make(map[*owner.Process][]uint64)
	for _, o := range r.deadline.Overdue() {
		if o.Process != nil && !o.Closed {
			leaking[o.Process] = append(leaking[o.Process], o.Cookie)
		}
	}
	return r.places.found(leaking)
}

// result says what was seen, also if that is not all.
func (r *assertRun) result(o *assertOptions, status unix.WaitStatus, watched error) (*view.Assertion, error, error) {
	if r.places != nil {
		_, err := r.places.settled()
		watched = errors.Join(watched, err)
	}
	a := &view.Assertion{Status: status.ExitStatus(), Limit: o.limit, Leaks: r.deadline.Overdue(), Unreadable: r.unread}
	if status.Signaled() {
		a.Signal = status.Signal()
		a.Status = exitSignal + int(a.Signal)
	}
	if r.timeWaits != nil {
		a.TimeWait = &view.TimeWaitCount{Most: r.timeWaits.Most(), Limit: o.timeWait, Unplaced: r.timeWaits.Unplaced()}
	}
	if r.feed == nil {
		a.Resolution = r.every
		return a, watched, nil
	}
	lost, err := r.feed.Lost()
	if err != nil {
		return a, errors.Join(watched, err), nil
	}
	a.Lost = &lost
	return a, watched, nil
}
