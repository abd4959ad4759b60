// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"afterfin/vmtest/guest"
)

// told makes the lines of a guest, a second apart; each begins with its kind.
func told(lines ...string) []guest.Line {
	var out []guest.Line
	for i, l := range lines {
		out = append(out, guest.Line{Kind: guest.Kind(l[0]), At: time.Duration(i) * time.Second, Text: l[2:]})
	}
	return out
}

func read(lines []guest.Line) (*outcome, []string) {
	var printed []string
	j := &job{kernel: &kernel{name: "6.1", hz: 250}, lane: &lane{name: "virtual"}, expects: map[string][]string{"cmd/a": {"TestA", "TestB"}}}
	o := newOutcome(j, func(s string) { printed = append(printed, s) })
	for _, l := range lines {
		o.take(l)
	}
	return o, printed
}

const m = frame

func TestOutcome(t *testing.T) {
	passes := []string{
		"T 250", "B cmd/a",
		"O " + m + "=== RUN   TestA", "O " + m + "=== RUN   TestA/sub", "O no newline" + m + "    --- PASS: TestA/sub (0.00s)", "O " + m + "--- PASS: TestA (0.00s)",
		"O " + m + "=== RUN   TestB", "O --- FAIL: TestA (0.00s)", "O " + m + "--- PASS: TestB (0.00s)",
		"O " + m + "PASS", "E 0 cmd/a", "D 2",
	}
	change := func(from, to string) []string {
		out := slices.Clone(passes)
		out[slices.Index(out, from)] = to
		return out
	}
	for name, c := range map[string]struct {
		lines []string
		err   string // part of it; empty for none
	}{
		"passes":        {passes, ""},
		"fails":         {change("O "+m+"--- PASS: TestB (0.00s)", "O "+m+"--- FAIL: TestB (0.00s)"), "1 of 2 tests fail"},
		"skips":         {change("O "+m+"--- PASS: TestB (0.00s)", "O "+m+"--- SKIP: TestB (0.00s)"), "1 of 2 tests are skipped"},
		"a test less":   {change("O "+m+"--- PASS: TestB (0.00s)", "O nothing"), "TestB of cmd/a has 0 results"},
		"another test":  {change("O "+m+"--- PASS: TestB (0.00s)", "O "+m+"--- PASS: TestC (0.00s)"), "TestB of cmd/a has 0 results"},
		"twice":         {change("O "+m+"=== RUN   TestB", "O "+m+"--- PASS: TestA (0.00s)"), "TestA of cmd/a has 2 results"},
		"not done":      {passes[:len(passes)-1], "done: false"},
		"wrong count":   {change("D 2", "D 3"), "tells of 3 tests"},
		"another HZ":    {change("T 250", "T 1000"), "HZ=1000, the matrix says 250"},
		"crashes after": {change("E 0 cmd/a", "E 2 cmd/a"), "cmd/a exits 2"},
	} {
		t.Run(name, func(t *testing.T) {
			o, _ := read(told(c.lines...))
			err := o.verdict()
			if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("got %v, want %q", err, c.err)
			}
		})
	}
}

// A test has the guest's time, and its words only if it fails.
func TestPrinted(t *testing.T) {
	_, printed := read(told("B cmd/a",
		"O "+m+"=== RUN   TestA", "O quiet", "O "+m+"--- PASS: TestA (0.00s)",
		"O "+m+"=== RUN   TestB", "O loud", "O "+m+"--- FAIL: TestB (9.99s)"))
	want := []string{"--- PASS: 6.1/virtual/TestA (2.00s)", "--- FAIL: 6.1/virtual/TestB (2.00s)\n    loud"}
	if !slices.Equal(printed, want) {
		t.Errorf("got %q, want %q", printed, want)
	}
}

// The digest tells runs apart by a nanosecond, but not by when the kernel says what.
func TestDigest(t *testing.T) {
	lines := told("B cmd/a", "K 1 hello", "E 0 cmd/a")
	digest := func() string { o, _ := read(lines); return o.fingerprint() }
	first := digest()
	if lines[1].At++; digest() != first {
		t.Error("a kernel message counts")
	}
	if lines[2].At++; digest() == first {
		t.Error("a nanosecond does not count")
	}
}

func TestProtocol(t *testing.T) {
	l := guest.Line{Kind: guest.Output, At: 1234567890123, Text: "  a \x16--- PASS: b  "}
	for _, raw := range []string{l.String() + "\r\n", "[    0.5] firmware" + l.String() + "\n"} {
		if got, ok := guest.Parse(raw); !ok || got != l {
			t.Errorf("%q is read as %+v, %v", raw, got, ok)
		}
	}
	for _, raw := range []string{"", "\n", "O 1 text", "\x1e@", "\x1e@X 1 text", "\x1e@O one text", "Kernel panic - not syncing: O 1 x"} {
		if got, ok := guest.Parse(raw); ok {
			t.Errorf("%q is read as %+v", raw, got)
		}
	}
}

func TestConsole(t *testing.T) {
	for name, c := range map[string]struct {
		console string
		want    ending
	}{
		"done":                   {guest.Line{Kind: guest.Done, Text: "1"}.String() + "\r\n", ending{done: true}},
		"panic":                  {"[ 1.0] Kernel panic - not syncing: Attempted to kill init!\r\n", ending{panic: "Attempted to kill init!"}},
		"a test that says panic": {guest.Line{Kind: guest.Output, Text: "Kernel panic - not syncing"}.String() + "\n", ending{}},
		"init":                   {guest.Line{Kind: guest.Init, Text: "error: load x"}.String(), ending{complaint: "load x"}},
		"cut":                    {"Boot", ending{}},
	} {
		if got := readConsole(strings.NewReader(c.console), func(guest.Line) {}, func() {}); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
