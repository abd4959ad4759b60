// SPDX-License-Identifier: Apache-2.0

// Package guest is what the host and the init of a test guest say to each other:
// a plan on the way in, lines on the console on the way out.
package guest

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// PlanFile is where init finds the Plan, as JSON.
const PlanFile = "/plan.json"

// Plan is everything a guest does.
type Plan struct {
	Modules []string // paths of kernel modules, in the order to load them
	Runs    []Run
}

// Run is one test binary.
type Run struct {
	Name string   // of the package, e.g. cmd/afterfin
	Dir  string   // working directory; the binary is "test" in it
	Args []string // to the binary
	Env  []string // beside the few that init sets
}

// Kind is the first word of a line.
type Kind byte

// What a line is about. Kernel messages pass through init as well, so that there
// is one writer and no message can end up inside a result.
const (
	Kernel Kind = 'K' // a kernel message
	Init   Kind = 'I' // init has something to say
	Ticks  Kind = 'T' // ticks of its kernel in a second: what HZ is
	Begin  Kind = 'B' // a Run begins: its name
	Output Kind = 'O' // a line that it wrote
	End    Kind = 'E' // it ended: exit code, name
	Done   Kind = 'D' // all runs ended: number of top-level tests seen
)

// Line is one line of the protocol.
type Line struct {
	Kind Kind
	At   time.Duration // CLOCK_MONOTONIC of the guest
	Text string
}

// mark begins every line of ours. Firmware and a panicking kernel write to the
// same console, but not this.
const mark = "\x1e@"

// String is the line as it goes over the console, without the newline.
func (l Line) String() string {
	return fmt.Sprintf("%s%c %d %s", mark, l.Kind, int64(l.At), l.Text)
}

// Parse reads a console line. ok is false if it is not one of ours: firmware, or
// a kernel that speaks for itself.
func Parse(raw string) (l Line, ok bool) {
	raw = strings.TrimRight(raw, "\r\n")
	i := strings.Index(raw, mark)
	if i < 0 {
		return l, false
	}
	kind, rest, _ := strings.Cut(raw[i+len(mark):], " ")
	at, text, _ := strings.Cut(rest, " ")
	ns, err := strconv.ParseInt(at, 10, 64)
	if len(kind) != 1 || err != nil || !strings.ContainsRune("KITBOED", rune(kind[0])) {
		return l, false
	}
	return Line{Kind: Kind(kind[0]), At: time.Duration(ns), Text: text}, true
}
