// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"afterfin/internal/folklore"
)

// labLine is a line of lab -o json, read as a script would.
type labLine struct {
	Name, Claim string
	Verdict     *string
	Since       *string
	Figures     map[string]any
	Why         string
	Control     bool
	Seen        []struct {
		From, To string
		Cause    *string
		Count    int
	}
	Error *string
}

// runLab gives the lines by name. On a kernel that cannot be traced it goes without.
func runLab(t *testing.T, args ...string) map[string]labLine {
	t.Helper()
	args = append([]string{"lab", "-o", "json"}, args...)
	if os.Getenv(wantLacks) != "" {
		args = append(args, "--no-trace")
	}
	var stdout, stderr bytes.Buffer
	e := env{ctx: context.Background(), stdout: &stdout, stderr: &stderr, getenv: os.Getenv, types: types}
	code := run(e, args)
	lines := make(map[string]labLine)
	for raw := range strings.Lines(stdout.String()) {
		var l labLine
		if err := json.Unmarshal([]byte(raw), &l); err != nil {
			t.Fatal(err)
		}
		lines[l.Name] = l
		t.Logf("LAB %s", raw)
	}
	if code != exitOK {
		t.Fatalf("lab exits %d: %s", code, &stderr)
	}
	return lines
}

// labVerdicts are the verdicts on this kernel, and those of the controls.
func labVerdicts() map[string][2]folklore.Verdict {
	verdicts := map[string][2]folklore.Verdict{
		"2msl":          {folklore.Holds, folklore.Fails},
		"restart":       {folklore.Holds, folklore.Fails},
		"descriptors":   {folklore.Fails, folklore.Holds},
		"tw-reuse":      {folklore.Changed, folklore.Fails},
		"max-buckets":   {folklore.Fails, folklore.Holds},
		"fixed-2msl":    {folklore.Holds, folklore.Fails},
		"rebind":        {folklore.Depends, folklore.Fails},
		"linger":        {folklore.Holds, folklore.Fails},
		"emfile":        {folklore.Holds, folklore.Fails},
		"exhaustion":    {folklore.Holds, folklore.Fails},
		"old-segments":  {folklore.Holds, folklore.Fails},
		"late-fin":      {folklore.Holds, folklore.Fails},
		"skipped-close": {folklore.Holds, folklore.Fails},
		"more-ports":    {folklore.Holds, folklore.Fails},
		"half-close":    {folklore.Depends, folklore.Fails},
		"peer-dies":     {folklore.Holds, folklore.Fails},
	}
	if _, err := os.Stat("/proc/sys/net/ipv4/tcp_tw_reuse_delay"); err == nil { // since 6.14
		verdicts["tw-reuse"] = [2]folklore.Verdict{folklore.Holds, folklore.Fails}
	}
	return verdicts
}

// TestLab: every claim has its verdict on this kernel, within the four minutes that it may take.
func TestLab(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	lines := runLab(t, "all")
	if took := time.Since(begin); took > 4*time.Minute {
		t.Errorf("took %v", took)
	}
	for name, want := range labVerdicts() {
		checkVerdict(t, lines, name, want[0])
	}
	if len(lines) != len(folklore.All) {
		t.Errorf("%d verdicts of %d claims", len(lines), len(folklore.All))
	}
}

// TestLabControl: with its condition the other way, each comes to another verdict.
func TestLabControl(t *testing.T) {
	t.Parallel()
	lines := runLab(t, "all", "--control")
	for name, want := range labVerdicts() {
		if want[0] == want[1] {
			t.Errorf("%s: its control turns nothing", name)
		}
		checkVerdict(t, lines, name, want[1])
	}
}

func checkVerdict(t *testing.T, lines map[string]labLine, name string, want folklore.Verdict) {
	t.Helper()
	l := lines[name]
	if deref(l.Verdict) != string(want) || (want == folklore.Changed) != (l.Since != nil) {
		t.Errorf("%s: %q since %q, want %q: %v", name, deref(l.Verdict), deref(l.Since), want, l.Figures)
	}
	if os.Getenv(wantLacks) == "" && len(l.Seen) == 0 {
		t.Errorf("%s: the tracer saw nothing", name)
	}
}
