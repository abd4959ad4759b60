// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"time"

	"afterfin/internal/clock"
	"afterfin/internal/feed"
	"afterfin/internal/sockdiag"
	"afterfin/internal/tracer"
)

// beginCounting attaches what counts TIME_WAIT, looks at what is there, has the counting begin (at
// begin, by CLOCK_MONOTONIC) and says that it is ready. The caller closes the feed.
func beginCounting(e env, cfg feed.Config, look func(*feed.Feed) error) (f *feed.Feed, begin time.Duration, err error) {
	if f, err = attach(e, cfg); err != nil {
		return nil, 0, err
	}
	if err = sees(f.Start(), tracer.GivesTimeWait); err == nil {
		err = look(f)
	}
	if err == nil {
		if err = f.Tracer().StartCounting(); err != nil {
			err = &failure{code: exitRuntime, err: err}
		}
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	begin = clock.Mono()
	for _, line := range append(hookNotices(f.Start()), readyLines(f.Start())...) {
		fmt.Fprintln(e.stderr, line)
	}
	return f, begin, nil
}

// sees: what a command is about must be seen.
func sees(s feed.Start, what string) error {
	for _, h := range s.Hooks {
		if h.Gives == what && h.Program == "" {
			code := exitFeature
			if errors.Is(h.Err, tracer.ErrHidden) {
				code = exitPrivilege
			}
			return &failure{code: code, err: fmt.Errorf("%s cannot be seen here: %s", what, h.Why), hint: "afterfin doctor says what is missing"}
		}
	}
	return nil
}

// lookFailed is the error of a look at sockets that failed.
func lookFailed(err error) error {
	code := exitRuntime
	if errors.Is(err, sockdiag.ErrNoInetDiag) {
		code = exitFeature
	}
	return &failure{code: code, err: err}
}
