// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"afterfin/vmtest/guest"
)

// outcome gathers what a guest tells and prints it as go test would, with the
// kernel and the lane before each test's name.
type outcome struct {
	job       *job
	print     func(string) // one whole line, or several
	pkg       string       // that runs now
	begin     map[string]time.Duration
	said      map[string][]string // what a running test wrote, by top-level name
	now       string              // the test that writes
	seen      map[string][]string // top-level results by package
	failed    int
	passed    int
	skips     int
	bad       []string // packages that ended with another code than their tests explain
	end       time.Duration
	told      int // number of tests with the final done
	done      bool
	hz        int                 // that the guest measured
	documents map[string][]string // by name, the lines that are for it
	digest    hash.Hash           // of all that the tests said and when: the same in every virtual run
}

func newOutcome(j *job, print func(string)) *outcome {
	return &outcome{job: j, print: print, said: map[string][]string{}, begin: map[string]time.Duration{}, seen: map[string][]string{}, documents: map[string][]string{}, digest: sha256.New()}
}

// A result line of a test binary, behind the mark that -test.v=test2json puts
// before it.
var resultLine = regexp.MustCompile(`^( *)--- (PASS|FAIL|SKIP): (\S+) \(([0-9.]+)s\)$`)

// frame is that mark.
const frame = "\x16"

// take reads one line of the guest.
func (o *outcome) take(l guest.Line) {
	if l.Kind != guest.Kernel {
		fmt.Fprintln(o.digest, l.String())
		o.end = l.At
	}
	switch l.Kind {
	case guest.Ticks:
		o.hz, _ = strconv.Atoi(l.Text)
	case guest.Begin:
		o.pkg, o.now = l.Text, ""
	case guest.Output:
		o.output(l)
	case guest.End:
		code, pkg, _ := strings.Cut(l.Text, " ")
		if code != "0" && !o.failedIn(pkg) {
			o.bad = append(o.bad, fmt.Sprintf("%s exits %s:\n%s", pkg, code, strings.Join(slices.Concat(o.said[""], o.said[o.now]), "\n")))
		}
	case guest.Done:
		o.done = true
		o.told, _ = strconv.Atoi(l.Text)
	}
}

func (o *outcome) failedIn(pkg string) bool {
	return slices.ContainsFunc(o.seen[pkg], func(r string) bool { return strings.HasPrefix(r, "FAIL ") })
}

// output splits a line where a mark is inside it: a test wrote no newline at its end.
func (o *outcome) output(l guest.Line) {
	text, marked, ok := strings.Cut(l.Text, frame)
	if text != "" {
		o.said[top(o.now)] = append(o.said[top(o.now)], text)
	}
	for name, d := range documents {
		if _, line, found := strings.Cut(text, d.mark); found && o.now == d.test {
			o.documents[name] = append(o.documents[name], line)
		}
	}
	if !ok {
		return
	}
	if name, ok := strings.CutPrefix(marked, "=== RUN   "); ok {
		o.now = name
		o.begin[name] = l.At
		return
	}
	for _, turn := range []string{"=== NAME  ", "=== CONT  "} { // a parallel test goes on
		if _, name, ok := strings.Cut(marked, turn); ok {
			o.now = name
			return
		}
	}
	m := resultLine.FindStringSubmatch(marked)
	if m == nil {
		return
	}
	verdict, name := m[2], m[3]
	took := l.At - o.begin[name]
	if strings.Contains(name, "/") {
		if verdict == "FAIL" {
			o.said[top(name)] = append(o.said[top(name)], fmt.Sprintf("--- FAIL: %s (%.2fs)", name, took.Seconds()))
		}
		return
	}
	o.result(verdict, name, took)
}

func top(name string) string {
	name, _, _ = strings.Cut(name, "/")
	return name
}

// result prints one top-level test, with all that it wrote unless it passed.
func (o *outcome) result(verdict, name string, took time.Duration) {
	o.seen[o.pkg] = append(o.seen[o.pkg], verdict+" "+name)
	line := fmt.Sprintf("--- %s: %s/%s/%s (%.2fs)", verdict, o.job.kernel.name, o.job.lane.name, name, took.Seconds())
	switch verdict {
	case "PASS":
		o.passed++
	case "SKIP":
		o.skips++
		line += indent(o.said[name])
	case "FAIL":
		o.failed++
		line += indent(o.said[name])
	}
	delete(o.said, name)
	o.print(line)
}

func indent(lines []string) string {
	out := ""
	for _, l := range lines {
		out += "\n    " + l
	}
	return out
}

// at tells which test was the last to write, for a guest that got stuck.
func (o *outcome) at() string {
	if o.now == "" {
		return ""
	}
	return fmt.Sprintf(", in %s of %s", o.now, o.pkg)
}

// verdict is nil if every expected test passed and the guest said so to its end.
func (o *outcome) verdict() error {
	var errs []error
	for _, b := range o.bad {
		errs = append(errs, errors.New(b))
	}
	want, got := 0, 0
	for pkg, names := range o.job.expects {
		for _, name := range names {
			want++
			n := 0
			for _, r := range o.seen[pkg] {
				if _, seen, _ := strings.Cut(r, " "); seen == name {
					n++
				}
			}
			got += n
			if n != 1 {
				errs = append(errs, fmt.Errorf("%s of %s has %d results, want one", name, pkg, n))
			}
		}
	}
	if !o.done || o.told != want || got != want {
		errs = append(errs, fmt.Errorf("the guest tells of %d tests (done: %v), %d were read, %d expected", o.told, o.done, got, want))
	}
	if hz := o.job.kernel.hz; hz != 0 && hz != o.hz {
		errs = append(errs, fmt.Errorf("the guest's kernel has HZ=%d, the matrix says %d", o.hz, hz))
	}
	if o.skips > 0 { // in a guest everything is there: a skip hides something
		errs = append(errs, fmt.Errorf("%d of %d tests are skipped", o.skips, want))
	}
	if o.failed > 0 {
		errs = append(errs, fmt.Errorf("%d of %d tests fail", o.failed, want))
	}
	return errors.Join(errs...)
}

// fingerprint is short enough to compare by eye.
func (o *outcome) fingerprint() string { return fmt.Sprintf("%x", o.digest.Sum(nil)[:4]) }
