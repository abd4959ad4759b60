// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/leak"
	"afterfin/internal/tcp"
)

// followLeaks reports again and again, completed by the transitions since the start.
// Ctrl-C ends it with a last report.
func followLeaks(e env, o *leaksOptions, every time.Duration) error {
	cfg := o.feed
	cfg.Filter = event.Filter{NetNS: cfg.Filter.NetNS}
	cfg.Filter.States.Add(o.state)
	cfg.Filter.States.Add(tcp.Close) // descriptors die in any state
	cfg.NoTimeWait = true
	f, err := attach(e, cfg)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, line := range readyLines(f.Start()) {
		fmt.Fprintln(e.stderr, line)
	}
	memory := leak.NewMemory(o.state)
	var before []leak.Group
	var reported time.Time
	for {
		changes, _, err := f.Next()
		if err != nil {
			return &failure{code: exitRuntime, err: err}
		}
		for i := range changes {
			memory.Apply(&changes[i])
		}
		last := e.ctx.Err() != nil
		apart := time.Since(reported)
		if !last && apart < every {
			continue
		}
		r, foot, err := o.look(memory, f)
		if err != nil {
			return err
		}
		if !reported.IsZero() {
			leak.Sample(r.Groups, before, apart)
		}
		before, reported = r.Groups, time.Now()
		lost, err := f.Lost()
		if err != nil {
			return &failure{code: exitRuntime, err: err}
		}
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
