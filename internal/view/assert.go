// SPDX-License-Identifier: Apache-2.0

package view

import (
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/event"
	"afterfin/internal/leak"
	"afterfin/internal/owner"
)

// Assertion is what came of a command that was watched.
type Assertion struct {
	Command []string
	Status  int         // its own exit code, as a shell has it: 128 and the signal if that killed it
	Signal  unix.Signal // 0: none
	Exit    int         // afterfin's
	Limit   time.Duration
	// Resolution is the time between two looks; 0: BPF has told every transition.
	Resolution time.Duration
	Leaks      []leak.Overdue
	TimeWait   *TimeWaitCount // nil: not counted
	Unreadable int            // processes whose descriptors were not shown
	Lost       *event.Lost    // nil: nothing was traced
}

// TimeWaitCount is how many sockets in TIME_WAIT the command's processes had at once.
type TimeWaitCount struct {
	Most, Limit int
	Unplaced    int // besides, whose process had ended before it was known where it belongs
}

// Leaked tells whether a limit was passed.
func (a *Assertion) Leaked() bool { return a.Reason() != "" }

// Reason says in words which limits were passed; empty if none was.
func (a *Assertion) Reason() string {
	var parts []string
	if n := len(a.Leaks); n > 0 {
		parts = append(parts, fmt.Sprintf("%s CLOSE_WAIT outlived %s", Thousands(uint64(n)), Duration(a.Limit)))
	}
	if t := a.TimeWait; t != nil && t.Most > t.Limit {
		parts = append(parts, fmt.Sprintf("%s TIME_WAIT at once, more than %s", Thousands(uint64(t.Most)), Thousands(uint64(t.Limit))))
	}
	return strings.Join(parts, "; ")
}

// sampleLeaks is how many sockets the text shows.
const sampleLeaks = 20

// WriteAssertion writes what passed its limit, for a person, and nothing if nothing did.
func WriteAssertion(w io.Writer, a *Assertion) error {
	var b strings.Builder
	for i := range a.Leaks {
		if i == sampleLeaks {
			fmt.Fprintf(&b, "and %s more (-o json has all)\n", Thousands(uint64(len(a.Leaks)-i)))
			break
		}
		writeOverdue(&b, &a.Leaks[i])
	}
	if t := a.TimeWait; t != nil && t.Unplaced > 0 {
		fmt.Fprintf(&b, "notice: %s TIME_WAIT are not counted: their processes had ended before it was known whose they were\n", Thousands(uint64(t.Unplaced)))
	}
	if a.Lost != nil && a.Lost.Ring+a.Lost.Recursion > 0 {
		fmt.Fprintf(&b, "notice: lost %s: what rests on them was not seen\n", LostText(*a.Lost))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func writeOverdue(b *strings.Builder, o *leak.Overdue) {
	holder := "held by " + overdueName(o)
	if o.Verdict == leak.NotAccepted {
		holder = "queued for " + overdueName(o)
	}
	if o.FD >= 0 {
		holder += fmt.Sprintf(" fd %d", o.FD)
	}
	end := "open to the end"
	if o.Closed {
		end = "then closed"
	}
	fmt.Fprintf(b, "LEAK %s -> %s   %s in CLOSE_WAIT, %s\n  %s\n", o.Tuple.Local, o.Tuple.Remote, overdueAge(o.Age), end, holder)
	if p := o.Process; p != nil && len(p.Cmdline) > 0 {
		fmt.Fprintf(b, "  cmd   %s\n", shorten(printable(strings.Join(p.Cmdline, " ")), 160))
	}
	if o.Site != nil {
		for i, line := range placeText(o.Site, "", true) {
			fmt.Fprintf(b, "  %-5s %s\n", first(i, "where"), line)
		}
	}
	if o.Looked {
		fmt.Fprintf(b, "  why   %s: %s\n", o.Verdict, verdictText[o.Verdict])
	}
}

func overdueName(o *leak.Overdue) string {
	if o.Process == nil && o.Named.PID != 0 {
		return processName(&owner.Process{PID: int(o.Named.PID), Comm: o.Named.Comm.String()})
	}
	return processName(o.Process)
}

func overdueAge(a leak.Age) string {
	if a.Max == leak.Forever {
		return "at least " + Duration(roundDown(a.Min))
	}
	return ageText(a)
}
