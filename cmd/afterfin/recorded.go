// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/spf13/pflag"

	"afterfin/internal/clock"
	"afterfin/internal/leak"
	"afterfin/internal/netns"
	"afterfin/internal/recorder"
	"afterfin/internal/tcp"
	"afterfin/internal/timewait"
	"afterfin/internal/view"
)

func addRecorder(flags *pflag.FlagSet, socket *string) {
	flags.StringVar(socket, "recorder", recorder.Socket, "ask the serve that listens here; empty: do not")
}

// unrecorded says what is missing for want of a flight recorder; nothing without an error.
func unrecorded(e env, err error, missing string) {
	if err != nil {
		fmt.Fprintf(e.stderr, "notice: %v: %s\n", err, missing)
	}
}

// errJustBegun: the flight recorder is there, and has no two looks yet.
var errJustBegun = errors.New("the flight recorder has just begun")

// recorded is the completer of leaks: it asks the flight recorder after the look, so that this knows of
// all that was found.
func (o *leaksOptions) recorded(e env) completer {
	if o.recorder == "" || o.state != tcp.CloseWait {
		return nil
	}
	return func(f *leak.Found) (leak.Seen, error) {
		var got recorder.Leaks
		if err := recorder.Ask(e.ctx, o.recorder, recorder.AskLeaks, nil, &got); err != nil {
			if !errors.Is(err, recorder.ErrNone) { // of that the report itself speaks
				unrecorded(e, err, "ages are bounds, and where the sockets were made is not known")
			}
			return leak.Seen{}, nil
		}
		got.Complete(f)
		o.lost = &got.Lost
		return got.Seen, nil
	}
}

// recordedWhile is what timewait asks for: of the TIME_WAIT that begin in it some end in it.
const recordedWhile = 2 * time.Minute

// recorded has the report from the flight recorder.
func (t *timewaiter) recorded() error {
	var got recorder.TimeWait
	err := recorder.Ask(t.env.ctx, t.recorder, recorder.AskTimeWait, url.Values{"since": {recordedWhile.String()}}, &got)
	if err == nil && got.Window == nil {
		err = errJustBegun
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(t.env.stderr, "notice: what the flight recorder counted in the last %s; --sample counts anew\n", view.Duration(got.Took))
	t.report.Now = got.Before // until look
	t.report.Sample = &view.TimeWaitSample{Took: got.Took, Counts: got.Counts, Wheel: timewait.Wheel{Tick: clock.Jiffy()},
		Length: got.Length, Processes: makersAlive(got.Counts), Lost: got.Lost, MapMemory: got.MapMemory, Heap: heap()}
	return nil
}

// recorded likewise.
func (p *porter) recorded() error {
	var got recorder.Ports
	err := recorder.Ask(p.env.ctx, p.recorder, recorder.AskPorts, nil, &got)
	if err == nil && got.Took == 0 {
		err = errJustBegun
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(p.env.stderr, "notice: connect() as the flight recorder counted it in %s; --sample counts anew\n", view.Duration(got.Took))
	p.report.Took, p.report.Lost, p.report.Length, p.report.Measured = got.Took, got.Lost, got.Length, got.Measured
	p.report.Wheel = timewait.Wheel{Tick: clock.Jiffy()}
	own, _ := netns.Self() // not known: then it is named by its number, as any other
	for _, s := range got.Spaces {
		if s.NetNS == own {
			s.Path = "" // serve may be in another one
		}
		if only := p.cfg.Filter.NetNS; only == 0 || only == s.NetNS {
			p.report.Spaces = append(p.report.Spaces, s)
		}
	}
	p.take(p.report.Spaces, got.Unreachable)
	return nil
}
