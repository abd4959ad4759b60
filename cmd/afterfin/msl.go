// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"afterfin/internal/clock"
	"afterfin/internal/conn"
	"afterfin/internal/doctor"
	"afterfin/internal/event"
	"afterfin/internal/feed"
	"afterfin/internal/lab"
	"afterfin/internal/netns"
	"afterfin/internal/tcp"
	"afterfin/internal/timewait"
	"afterfin/internal/tracer"
	"afterfin/internal/view"
)

// maxConnections is what one port has room for, of the default ip_local_port_range, and some.
const maxConnections = 10_000

// overdue is how long after its predicted end a TIME_WAIT is given up.
const overdue = 10 * time.Second

func mslCommand(e env) *cobra.Command {
	var (
		output string
		n      int
		chart  string
	)
	cmd := &cobra.Command{
		Use:   "msl",
		Short: "Measure how long TIME_WAIT (2MSL) lasts on this kernel, against its timer wheel",
		Long: "Makes connections in a network namespace of its own and measures how long each stays in\n" +
			"TIME_WAIT: about a minute. Next to it stands what the kernel's timer wheel lets expect, which\n" +
			"rounds the 60 s of TCP_TIMEWAIT_LEN up by as much as 2 s (HZ=250) or 5 s (HZ=100). The kernel's\n" +
			"HZ is counted and its length of TIME_WAIT read from its timers: neither is assumed.",
		Example: "  afterfin msl\n  afterfin msl --connections 512 --chart 2msl.svg",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if n < 1 || n > maxConnections {
				return usage("--connections: %d is not from 1 to %d", n, maxConnections)
			}
			return msl(e, n, output, chart)
		},
	}
	addOutput(cmd, &output)
	cmd.Flags().IntVarP(&n, "connections", "n", 64, "measure so many, their timers spread over a bucket of the wheel")
	cmd.Flags().StringVar(&chart, "chart", "", "draw them into this SVG file")
	return cmd
}

func msl(e env, n int, output, chart string) error {
	var picture *os.File
	if chart != "" { // a file that cannot be written is to be known before the minute
		var err error
		if picture, err = os.OpenFile(chart, os.O_WRONLY|os.O_CREATE, 0o644); err != nil {
			return &failure{code: exitRuntime, err: fmt.Errorf("--chart: %w", err)}
		}
		defer leave(picture)
	}
	if err := refuse(doctor.Quick()); err != nil {
		return err
	}
	ns, err := lab.NewNetNS()
	if err != nil {
		code, hint := exitRuntime, ""
		if errors.Is(err, unix.EPERM) {
			code, hint = exitPrivilege, "run as root (sudo), or with CAP_SYS_ADMIN and CAP_NET_ADMIN"
		}
		return &failure{code: code, err: err, hint: hint}
	}
	defer ns.Close()
	cfg := feed.Config{Filter: event.Filter{NetNS: ns.Inode()}, NetNSPath: ns.Path(), Timers: true}
	cfg.Filter.States.Add(tcp.TimeWait)
	f, err := attach(e, cfg)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := sees(f.Start(), tracer.GivesTimeWait); err != nil {
		return err
	}
	if why := f.Start().LengthUnknown; why != nil { // by it, where there are only timers, beginnings are dated
		return &failure{code: exitRuntime, err: why}
	}
	m := &measurement{env: e, ns: netns.NS{Inode: ns.Inode(), Path: ns.Path()}, feed: f, wheel: timewait.Wheel{Tick: clock.Jiffy()}, made: make(map[uint64]*making)}
	report, err := m.run(n)
	if err != nil {
		return &failure{code: exitRuntime, err: err}
	}
	if picture != nil {
		if err := errors.Join(picture.Truncate(0), view.WriteChart(picture, []timewait.Run{report.Run})); err != nil {
			return &failure{code: exitRuntime, err: fmt.Errorf("--chart: %w", err)}
		}
	}
	write := view.WriteMSL
	if output == "json" {
		write = view.WriteMSLJSON
	}
	if err := pipeGone(write(e.stdout, report)); err != nil {
		return &failure{code: exitRuntime, err: err}
	}
	return nil
}

// leave closes a file, and removes it if nothing was written into it.
func leave(f *os.File) {
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Size() == 0 {
		os.Remove(f.Name())
	}
	f.Close()
}

// measurement is one run of msl.
type measurement struct {
	env    env
	ns     netns.NS
	feed   *feed.Feed
	wheel  timewait.Wheel
	made   map[uint64]*making // by cookie
	order  []*making
	ended  int
	unseen int           // of these: they are gone, and nobody told of it
	drawn  time.Duration // when the progress was shown last
}

// making is one TIME_WAIT: its beginning and its end come through the ring, what its timer is
// set to is read in between.
type making struct {
	timewait.Made // 0: not yet
	cause         event.Cause
}

func (m *measurement) run(n int) (*view.MSL, error) {
	begin, err := m.tick()
	if err != nil {
		return nil, err
	}
	if err := netns.Do(m.ns, func() error { return m.leave(n) }); err != nil {
		return nil, err
	}
	if err := m.read(n); err != nil {
		return nil, err
	}
	if err := m.await(begin); err != nil {
		return nil, err
	}
	end, err := m.tick()
	if err != nil {
		return nil, err
	}
	return m.report(begin, end)
}

// leave makes n connections. The first one tells how long TIME_WAIT is here, and so how wide
// the bucket of the wheel is that the others are spread over.
func (m *measurement) leave(n int) error {
	c, err := lab.NewCloser()
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Leave(); err != nil {
		return err
	}
	var ahead uint64
	for begin := clock.Mono(); ahead == 0; {
		if clock.Mono()-begin > overdue {
			return errors.New("no TIME_WAIT came of a connection that was closed")
		}
		err := m.feed.Tracer().Timers(func(t event.MiniTimer) {
			if t.Cookie != 0 && !t.Halfway {
				ahead = t.Expires - t.Jiffies
			}
		})
		if err != nil {
			return err
		}
	}
	return c.Spread(n-1, m.wheel.Bucket(time.Duration(ahead)*m.wheel.Tick)/time.Duration(n))
}

// read takes in the beginnings from the ring, then the timers.
func (m *measurement) read(n int) error {
	for begin := clock.Mono(); len(m.order) < n; {
		if clock.Mono()-begin > overdue {
			return fmt.Errorf("%d of %d connections came to TIME_WAIT", len(m.order), n)
		}
		if err := m.next(); err != nil {
			return err
		}
	}
	return m.timers(func(t event.MiniTimer) {
		if x := m.made[t.Cookie]; x != nil {
			x.Expires = t.Expires
		}
	})
}

// timers is Tracer.Timers in our netns.
func (m *measurement) timers(fn func(event.MiniTimer)) error {
	return netns.Do(m.ns, func() error { return m.feed.Tracer().Timers(fn) })
}

func (m *measurement) next() error {
	changes, _, err := m.feed.Next()
	if err != nil {
		return err
	}
	for i := range changes {
		m.take(&changes[i])
	}
	if m.env.ctx.Err() != nil {
		return fmt.Errorf("stopped when %d of %d TIME_WAIT had ended: nothing is measured before", m.ended, len(m.order))
	}
	return nil
}

func (m *measurement) take(ch *conn.Change) {
	switch {
	case ch.To == tcp.TimeWait:
		x := &making{Made: timewait.Made{Entered: ch.Mono}}
		m.made[ch.Cookie] = x
		m.order = append(m.order, x)
	case m.made[ch.Cookie] != nil:
		x := m.made[ch.Cookie]
		x.Ended, x.cause = ch.Mono, ch.Cause
		m.ended++
	}
}

// await takes in the ends. Where a timer is late by more than its bucket allows, something
// else is wrong.
func (m *measurement) await(at timewait.Tick) error {
	var last time.Duration
	for _, x := range m.order {
		if x.Expires == 0 { // something ended it before its timer was read
			continue
		}
		ahead := x.Expires - at.Jiffy(x.Entered, m.wheel.Tick)
		last = max(last, at.Begin(timewait.Runs(x.Expires, ahead), m.wheel.Tick))
	}
	fmt.Fprintf(m.env.stderr, "%d connections are in TIME_WAIT; the last one is to end in %s\n", len(m.order), view.Duration(last-clock.Mono()))
	for m.ended < len(m.order) {
		now := clock.Mono()
		if now > last+overdue {
			if err := m.giveUp(); err != nil {
				return err
			}
		}
		m.progress(now, last)
		if err := m.next(); err != nil {
			return err
		}
	}
	m.progress(last, last)
	return nil
}

// giveUp is for those whose end is overdue: it was not seen, or they are still there, which is
// an error.
func (m *measurement) giveUp() error {
	there := 0
	err := m.timers(func(t event.MiniTimer) {
		if t.Cookie != 0 {
			there++
		}
	})
	if err != nil {
		return err
	}
	if there > 0 {
		return fmt.Errorf("%d of %d TIME_WAIT are still there, %s after the last one was due", there, len(m.order), view.Duration(overdue))
	}
	m.unseen = len(m.order) - m.ended
	m.ended = len(m.order)
	return nil
}

const progressWidth = 40

// progress draws a bar, where somebody watches.
func (m *measurement) progress(now, last time.Duration) {
	if !m.env.watched || now-m.drawn < 200*time.Millisecond && now != last {
		return
	}
	m.drawn = now
	first := m.order[0].Entered
	done := int(progressWidth * float64(now-first) / float64(last-first))
	done = min(max(done, 0), progressWidth)
	fmt.Fprintf(m.env.stderr, "\r%s%s %d of %d ended, %d s to go ", strings.Repeat("█", done), strings.Repeat("░", progressWidth-done),
		m.ended, len(m.order), max(0, int((last-now+time.Second-1)/time.Second)))
	if now == last {
		fmt.Fprintln(m.env.stderr)
	}
}

func (m *measurement) report(begin, end timewait.Tick) (*view.MSL, error) {
	r := &view.MSL{Counted: end.Rate(begin), ByCause: make(map[string]uint64)}
	hz := int(r.Counted + 0.5)
	if claimed := int((time.Second + m.wheel.Tick/2) / m.wheel.Tick); hz != claimed {
		return nil, fmt.Errorf("%.2f ticks a second were counted, and the kernel's coarse clock claims %d", r.Counted, claimed)
	}
	var made []timewait.Made
	r.Unseen = m.unseen
	for _, x := range m.order {
		if x.Ended == 0 {
			continue
		}
		r.ByCause[x.cause.String()]++
		if x.cause == event.CauseExpired && x.Expires != 0 { // what else ended one says nothing about its length
			made = append(made, x.Made)
		}
	}
	r.Run = timewait.NewRun(made, begin.Earlier(end, m.wheel.Tick), m.wheel)
	r.HZ = hz
	r.Kernel, r.Arch = view.Kernel()
	var err error
	r.Lost, err = m.feed.Lost()
	return r, err
}

// edges are how many ticks are waited for: a reading takes a fraction of a millisecond, of
// which the tick may have come at any time.
const edges = 8

// tick waits for some, reading the kernel's clock without a break, and gives the one that was
// seen soonest.
func (m *measurement) tick() (at timewait.Tick, err error) {
	err = netns.Do(m.ns, func() error {
		var before, now timewait.Tick
		for seen := 0; seen < edges; before = now {
			err := m.feed.Tracer().Timers(func(t event.MiniTimer) { now = timewait.Tick{Jiffies: t.Jiffies, Mono: t.Mono} })
			if err != nil {
				return err
			}
			switch {
			case before.Jiffies == 0 || before.Jiffies == now.Jiffies:
			case at.Jiffies == 0:
				at = now
				seen++
			default:
				at = at.Earlier(now, m.wheel.Tick)
				seen++
			}
		}
		return nil
	})
	return at, err
}
