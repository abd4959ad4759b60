// SPDX-License-Identifier: Apache-2.0

// Package folklore has what is commonly said about TIME_WAIT and CLOSE_WAIT, each claim as an
// experiment on the running kernel: real processes and sockets in a network namespace of its own,
// a verdict and the figures that it rests on.
//
// A verdict rests on what the processes of the experiment were told by their system calls, on
// what sock_diag lists and, where time is measured, on what the tracer saw. Each experiment has a
// control, which turns the one condition that the verdict rests on the other way: then the same
// measurement must come to another verdict, or it would show nothing.
package folklore

import (
	"slices"
	"strings"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

// Verdict is what an experiment says of a claim on this kernel.
type Verdict string

// Holds: all of the claim was seen. Fails: a part of it was seen to be otherwise. Changed: it is
// otherwise here, and as the claim says on the other side of the kernel Finding.Since. Depends:
// both was seen, by a condition that the claim does not name.
const (
	Holds   Verdict = "holds"
	Fails   Verdict = "fails"
	Changed Verdict = "changed"
	Depends Verdict = "depends"
)

// Claim is something that is said, and how it is tried.
type Claim struct {
	Name  string
	Text  string
	Given string        // the condition that a control turns the other way
	Takes time.Duration // about; the same for the control at most
	Why   string        // why the kernel does as it does, with the function that does it
	try   func(*stage) judged
}

// judged is what the try of a claim comes to.
type judged struct {
	Verdict Verdict
	Since   string
	Figures []Figure
}

// Finding is what an experiment has found.
type Finding struct {
	*Claim
	Control bool
	Verdict Verdict
	Since   string   // the kernel, as in "6.14", of Changed
	Did     []string // what the experiment did, in order
	Seen    []Seen   // what the tracer saw of it
	Traced  bool     // false: there was no tracer
	Figures []Figure
	Took    time.Duration
	Lost    event.Lost // rows of the whole host that did not arrive
	Err     error      // it could not be carried out: no verdict
}

// Figure is something measured. Its name says the unit: _ns (Value is a time.Duration), _bytes.
// Value is a time.Duration, an int, a bool, a string or a []string; nil: not known.
type Figure struct {
	Name  string
	Value any
}

// known is the value of a figure that is not known where it is 0.
func known[N int | time.Duration](n N) any {
	if n == 0 {
		return nil
	}
	return n
}

// Seen counts changes of state of one kind.
type Seen struct {
	From, To tcp.State
	Cause    event.Cause
	Count    int
}

// Find gives the claims of these names, in their own order; "all" is all of them. unknown is the
// first name that is none.
func Find(names []string) (claims []*Claim, unknown string) {
	for _, name := range names {
		if name != "all" && !slices.ContainsFunc(All, func(c *Claim) bool { return c.Name == name }) {
			return nil, name
		}
	}
	for _, c := range All {
		if slices.Contains(names, c.Name) || slices.Contains(names, "all") {
			claims = append(claims, c)
		}
	}
	return claims, ""
}

// All are the claims, in the order of the article that brings them up.
var All = []*Claim{
	&twoMSL, &restart, &descriptors, &reuse, &buckets, &fixedLength, &rebind, &linger,
	&emfile, &exhaustion, &oldSegments, &lateFIN, &skippedClose, &morePorts, &halfClose, &peerDies,
}

// prose joins the lines of a text.
func prose(text string) string { return strings.Join(strings.Fields(text), " ") }
