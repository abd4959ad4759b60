// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"afterfin/internal/clock"
	"afterfin/internal/conn"
	"afterfin/internal/doctor"
	"afterfin/internal/event"
	"afterfin/internal/feed"
	"afterfin/internal/netns"
	"afterfin/internal/tracer"
	"afterfin/internal/view"
)

func watchCommand(e env) *cobra.Command {
	var (
		filter   filterFlags
		output   string
		duration time.Duration
		exact    bool
		noTW     bool
	)
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Show every TCP state change, live, with the owner of the socket",
		Long: "Shows every TCP state change of this host, in all network namespaces, with the process that\n" +
			"owns the socket and how that was learnt (HOW): connect, accept, close, fd (seen holding it), or\n" +
			"listen (the owner of the listener that it came in on). IN OLD is the time spent in the old state;\n" +
			"\"-\" means its beginning was not seen, \">\" that it began before afterfin did. A TIME_WAIT\n" +
			"that does not end by its timer, and a socket that closes without it, say why.",
		Example: "  afterfin watch -L 443 --state close-wait\n  afterfin watch -o json --duration 10s | jq .",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := checkOutput(output); err != nil {
				return err
			}
			if duration < 0 {
				return usage("--duration: %v is negative", duration)
			}
			cfg, err := filter.parse()
			if err != nil {
				return err
			}
			cfg.ExactOwner, cfg.NoTimeWait = exact, noTW
			return watch(e, cfg, output, duration)
		},
	}
	addOutput(cmd, &output)
	filter.register(cmd.Flags())
	cmd.Flags().DurationVar(&duration, "duration", 0, "stop after this long (0: until Ctrl-C)")
	cmd.Flags().BoolVar(&exact, "exact-owner", false, "see accept() even where fexit is refused; slows every system call of the host, by how much is printed")
	cmd.Flags().BoolVar(&noTW, "no-timewait", false, "leave out TIME_WAIT, and what seeing it costs where fentry is refused: some 50 ns for each kernel timer")
	return cmd
}

// writer is what text and JSON have in common.
type writer interface {
	Change(*conn.Change, time.Time)
	Lost(event.Lost, time.Duration, time.Time)
	Summary(view.Summary, time.Duration, time.Time)
	Flush() error
}

// attach says nothing but in its error, which names what is missing and the remedy. The
// caller closes the feed.
func attach(e env, cfg feed.Config) (*feed.Feed, error) {
	if err := refuse(doctor.Quick()); err != nil {
		return nil, err
	}
	cfg.Types = e.types
	f, err := feed.Open(cfg)
	if errors.Is(err, tracer.ErrNoRegisters) {
		return nil, &failure{code: exitFeature, err: fmt.Errorf("to look closely at a process (--deep): %w", err)}
	}
	if err != nil {
		// What failed has a name and a remedy, if doctor can find it.
		if known := refuse(doctor.Run()); known != nil {
			return nil, known
		}
		return nil, &failure{code: exitRuntime, err: err}
	}
	go giveBack()
	return f, nil
}

func watch(e env, cfg feed.Config, output string, duration time.Duration) error {
	f, err := attach(e, cfg)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, line := range append(hookNotices(f.Start()), readyLines(f.Start())...) {
		fmt.Fprintln(e.stderr, line)
	}
	ctx, cancel := e.ctx, context.CancelFunc(func() {})
	if duration > 0 {
		ctx, cancel = context.WithTimeout(ctx, duration)
	}
	defer cancel()
	defer abortLate(ctx, e)()
	if err := stream(ctx, e, f, newWriter(e, output)); err != nil {
		return &failure{code: exitRuntime, err: err}
	}
	return nil
}

// abortLate gives up when the stream has not ended some time after it should:
// then stdout is blocked, and no write to it returns. Call what it returns once the
// stream has ended.
func abortLate(ctx context.Context, e env) (ended func()) {
	const grace = 3 * time.Second
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		select {
		case <-done:
		case <-time.After(grace):
			fmt.Fprintln(e.stderr, "error: nobody reads stdout; what waits there is lost")
			e.abort()
		}
	})
	return func() {
		stop()
		close(done)
	}
}

func newWriter(e env, output string) writer {
	if output == "json" {
		return view.NewJSON(e.stdout)
	}
	own, _ := netns.Self() // unknown: then the first row names its netns
	return view.NewText(e.stdout, view.TextOptions{
		Terminal: e.terminal,
		Color:    e.terminal && e.getenv("NO_COLOR") == "",
		NetNS:    own,
	})
}

// stream runs until the time is up, the user stops it, or the reader of stdout
// goes away.
func stream(ctx context.Context, e env, f *feed.Feed, w writer) error {
	var (
		begin   = time.Now()
		checked = begin
		sum     view.Summary
		stopAt  time.Duration // CLOCK_MONOTONIC when asked to stop, 0 before

		lateReads int // records read since then
	)
	for {
		changes, read, err := f.Next()
		if err != nil {
			return err
		}
		// What happened before the stop may still be in the ring: read on until its end was
		// come to, or as much as it holds was read. On a busy host it is never empty for long.
		last := stopAt != 0 && (read < feed.Batch || lateReads > tracer.RingRecords)
		for i := range changes {
			if stopAt != 0 && changes[i].Mono > stopAt {
				continue
			}
			w.Change(&changes[i], f.Wall(changes[i].Mono))
			sum.Transitions++
		}
		if stopAt != 0 {
			lateReads += read
		}
		if now := time.Now(); last || now.Sub(checked) >= time.Second {
			checked = now
			if err := tellLost(f, w, &sum.Lost); err != nil {
				return err
			}
		}
		if last {
			break
		}
		if err := w.Flush(); err != nil {
			return pipeGone(err)
		}
		if stopAt == 0 && ctx.Err() != nil {
			stopAt = clock.Mono()
			if err := f.LookForMoves(); err != nil {
				return err
			}
		}
	}
	sum.Elapsed, sum.CPU = time.Since(begin), ownCPU()
	now := time.Now()
	w.Summary(sum, clock.Mono(), now)
	if t, ok := w.(*view.Text); ok {
		sum.Hidden = t.Hidden()
	}
	err := w.Flush()
	fmt.Fprintln(e.stderr, sum.Text())
	return pipeGone(err)
}

func tellLost(f *feed.Feed, w writer, told *event.Lost) error {
	lost, err := f.Lost()
	if err != nil {
		return err
	}
	if lost != *told {
		*told = lost
		w.Lost(lost, clock.Mono(), time.Now())
	}
	return nil
}

// pipeGone: whoever read stdout has seen enough; that is no error.
func pipeGone(err error) error {
	if errors.Is(err, syscall.EPIPE) {
		return nil
	}
	return err
}

func ownCPU() time.Duration {
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
