// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"afterfin/internal/advice"
	"afterfin/internal/clock"
	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/feed"
	"afterfin/internal/netns"
	"afterfin/internal/owner"
	"afterfin/internal/survey"
	"afterfin/internal/tcp"
	"afterfin/internal/timewait"
	"afterfin/internal/view"
)

func timewaitCommand(e env) *cobra.Command {
	var (
		filter filterFlags
		output string
		sample time.Duration
		each   bool
		socket string
	)
	cmd := &cobra.Command{
		Use:   "timewait",
		Short: "Say how many TIME_WAIT there are, how long they last, why each ends, and who makes them",
		Long: "Answers at once what is in TIME_WAIT now, against tcp_max_tw_buckets, then looks on for --sample:\n" +
			"how many come and go, whether that is steady, how long they last, what ends them, and which\n" +
			"processes and peers they are of. All is counted inside the kernel; with --each, every one that ends\n" +
			"is told too. --sample 0 only tells what is there: without BPF, and without root.",
		Example: "  afterfin timewait\n  afterfin timewait --sample 70s -o json | jq .by_cause",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if sample < 0 {
				return usage("--sample: %v is negative", sample)
			}
			if each && sample == 0 {
				return usage("--each is for what ends during --sample")
			}
			cfg, err := filter.parse()
			if err != nil {
				return err
			}
			cfg.Counts = true
			if each {
				cfg.Rows.Add(tcp.TimeWait)
			}
			if filtered := cfg.Filter.NetNS != 0 || cfg.Filter.Family != 0 || cfg.Filter.LocalPorts != nil || cfg.Filter.RemotePorts != nil; filtered ||
				each || cmd.Flags().Changed("sample") { // it has counted all
				socket = ""
			}
			return (&timewaiter{env: e, cfg: cfg, output: output, sample: sample, recorder: socket}).run()
		},
	}
	addOutput(cmd, &output)
	filter.registerNetwork(cmd.Flags())
	cmd.Flags().DurationVar(&sample, "sample", 10*time.Second, "look on for this long; 0: tell only what is there")
	addRecorder(cmd.Flags(), &socket)
	cmd.Flags().BoolVar(&each, "each", false, "tell every TIME_WAIT that ends, one by one")
	return cmd
}

// timewaiter is one run of timewait.
type timewaiter struct {
	env    env
	cfg    feed.Config
	output string
	sample time.Duration
	// recorder is the socket of the flight recorder to ask first; empty: none.
	recorder string

	rows   writer // the ends, one by one, for a person; nil: not asked for, or JSON
	report view.TimeWaits
	begin  time.Duration // CLOCK_MONOTONIC when the counting began
	each   []conn.Change // the same for the document
	more   uint64        // than it holds
}

// maxEach is how many ends a document has at most, some 200 MB of them.
const maxEach = 1 << 20

func (t *timewaiter) run() error {
	if t.sample == 0 {
		if err := t.look(); err != nil {
			return err
		}
		return t.writeNow()
	}
	var missed error // why the flight recorder was no help
	if t.recorder != "" {
		missed = t.recorded()
	}
	if t.report.Sample != nil {
		if err := t.look(); err != nil {
			return err
		}
		if t.output == "text" {
			if err := t.writeNow(); err != nil {
				return err
			}
		}
		return t.writeSample()
	}
	f, begin, err := beginCounting(t.env, t.cfg, func(*feed.Feed) error {
		unrecorded(t.env, missed, fmt.Sprintf("counting for %v", t.sample))
		return t.look()
	})
	if err != nil {
		return err
	}
	defer f.Close()
	t.begin = begin
	if t.output == "text" {
		if err := t.writeNow(); err != nil {
			return err
		}
		if t.cfg.Rows != 0 {
			t.rows = newWriter(t.env, t.output)
		}
	}
	if err := t.follow(f); err != nil {
		return err
	}
	return t.writeSample()
}

// look takes in what is there now.
func (t *timewaiter) look() error {
	now, err := survey.TimeWaits(netns.NS{Inode: t.cfg.Filter.NetNS, Path: t.cfg.NetNSPath}, &t.cfg.Filter)
	if err != nil {
		return lookFailed(err)
	}
	t.report.Before, t.report.Now = t.report.Now, now
	t.report.Advice = nil
	for i := range now.Spaces {
		f := timeWaitFacts(&now.Spaces[i])
		if s := t.report.Sample; s != nil {
			addSampled(f, t.report.Before, now, s.Counts, &now.Spaces[i], s.Took)
		}
		t.report.Advice = append(t.report.Advice, advice.For(f)...)
	}
	return nil
}

// follow lets the kernel count, and takes in the rows that --each tells.
func (t *timewaiter) follow(f *feed.Feed) error {
	for clock.Mono()-t.begin < t.sample && t.env.ctx.Err() == nil {
		changes, _, err := f.Next()
		if err != nil {
			return &failure{code: exitRuntime, err: err}
		}
		for i := range changes {
			t.take(f, &changes[i])
		}
		if t.rows == nil {
			continue
		}
		if err := t.rows.Flush(); err != nil {
			return t.written(err)
		}
	}
	if err := f.LookForMoves(); err != nil {
		return &failure{code: exitRuntime, err: err}
	}
	s, err := t.counted(f)
	if err != nil {
		return &failure{code: exitRuntime, err: err}
	}
	t.report.Sample = s
	return t.look()
}

// take is for --each: only ends are told.
func (t *timewaiter) take(f *feed.Feed, ch *conn.Change) {
	switch {
	case ch.From != tcp.TimeWait:
	case t.rows != nil:
		t.rows.Change(ch, f.Wall(ch.Mono))
	case len(t.each) < maxEach:
		t.each = append(t.each, *ch)
	default:
		t.more++
	}
}

// counted stops the counting and reads what came of it, then the rows of the same time.
func (t *timewaiter) counted(f *feed.Feed) (*view.TimeWaitSample, error) {
	tr := f.Tracer()
	if err := tr.StopCounting(); err != nil {
		return nil, err
	}
	end := clock.Mono()
	counts, err := tr.Counts()
	if err != nil {
		return nil, err
	}
	if err := f.Drain(func(ch *conn.Change) {
		if ch.Mono <= end {
			t.take(f, ch)
		}
	}); err != nil {
		return nil, err
	}
	s := &view.TimeWaitSample{Took: end - t.begin, Counts: counts, Wheel: timewait.Wheel{Tick: clock.Jiffy()}, Processes: makersAlive(counts), Records: tr.Records()}
	if t.cfg.Rows != 0 && t.rows == nil {
		s.Each, s.EachLost = append([]conn.Change{}, t.each...), t.more
	}
	if s.Lost, err = f.Lost(); err != nil {
		return nil, err
	}
	if s.Length, err = tr.TimeWaitLength(); err != nil {
		return nil, err
	}
	s.MapMemory, err = tr.MapMemory()
	s.Heap = heap()
	return s, err
}

// heap is what ours takes, in bytes.
func heap() uint64 {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	return mem.HeapSys - mem.HeapReleased
}

// namedMakers is of how many makers unit and container are looked up.
const namedMakers = 20

// makersAlive looks up those who made the most.
func makersAlive(c *event.Counts) map[uint32]*owner.Process {
	timewait.SortMakers(c.Makers)
	found := make(map[uint32]*owner.Process)
	for i := range min(namedMakers, len(c.Makers)) {
		m := &c.Makers[i]
		p, err := owner.ProcessOf(int(m.PID))
		if err == nil && (p.Start-m.Start).Abs() <= owner.ClockTick { // else it has ended, or may not be read
			found[m.PID] = p
		}
	}
	return found
}

func (t *timewaiter) writeNow() error {
	if t.output == "json" {
		return t.written(view.WriteTimeWaitJSON(t.env.stdout, &t.report, time.Now()))
	}
	return t.written(view.WriteTimeWaitNow(t.env.stdout, t.report.Now))
}

func (t *timewaiter) writeSample() error {
	if t.output == "json" {
		return t.written(view.WriteTimeWaitJSON(t.env.stdout, &t.report, time.Now()))
	}
	if t.rows != nil {
		if err := t.rows.Flush(); err != nil {
			return t.written(err)
		}
	}
	return t.written(view.WriteTimeWaitSample(t.env.stdout, &t.report))
}

// written is the error of a write to stdout, for the user.
func (t *timewaiter) written(err error) error {
	if err = pipeGone(err); err == nil {
		return nil
	}
	return &failure{code: exitRuntime, err: err}
}
