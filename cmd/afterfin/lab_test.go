// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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
	Error     *string
	Ring      int `json:"lost_ring"` // of the whole host
	Recursion int `json:"lost_recursion"`
}

// runLab gives the lines by name. On a kernel that cannot be traced it goes without.
func runLab(t *testing.T, args ...string) map[string]labLine {
	t.Helper()
	args = append([]string{"lab", "-o", "json"}, args...)
	if os.Getenv(wantLacks) != "" {
		args = append(args, "--no-bpf")
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
	if os.Getenv(timeWaitLength) != "" { // a kernel that was built with another one
		verdicts["2msl"] = [2]folklore.Verdict{folklore.Fails, folklore.Fails}
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
	if os.Getenv(wantLacks) != "" {
		_, stderr, code := runAs(t, nil, "", "lab", "late-fin")
		if code != exitFeature || !strings.Contains(stderr, "--no-bpf") {
			t.Errorf("without BPF, and without --no-bpf, it exits %d: %s", code, stderr)
		}
		return
	}
	// What the tracer saw is what the experiments made.
	for _, want := range []struct {
		claim, change, cause string
		count                int
	}{
		{"descriptors", "FIN_WAIT2→TIME_WAIT", "", 50},
		{"tw-reuse", "TIME_WAIT→CLOSE", "reused_connect", 8},
		{"tw-reuse", "TIME_WAIT→CLOSE", "reused_syn", 1},
		{"max-buckets", "FIN_WAIT2→TIME_WAIT", "", 20},
		{"linger", "ESTABLISHED→CLOSE", "linger", 10},
		{"emfile", "CLOSE_WAIT→LAST_ACK", "", 5},
		{"exhaustion", "SYN_SENT→CLOSE", "no_port", 1},
		{"old-segments", "TIME_WAIT→CLOSE", "reused_syn", 1},
		{"late-fin", "FIN_WAIT2→CLOSE", "overflow", 1},
		{"skipped-close", "CLOSE_WAIT→LAST_ACK", "", 20},
		{"more-ports", "SYN_SENT→CLOSE", "no_port", 3},
		{"peer-dies", "ESTABLISHED→CLOSE", "reset", 1},
	} {
		l := lines[want.claim]
		if got := l.seen(want.change, want.cause); got > want.count || got < want.count-l.Ring-l.Recursion {
			t.Errorf("%s: the tracer saw %s %s %d times, %d were made", want.claim, want.change, want.cause, got, want.count)
		}
	}
}

// seen is how often the tracer saw such a change.
func (l labLine) seen(change, cause string) int {
	for _, s := range l.Seen {
		if s.From+"→"+s.To == change && deref(s.Cause) == cause {
			return s.Count
		}
	}
	return 0
}

// TestLabUnprivileged: one error says what is missing, with BPF and without.
func TestLabUnprivileged(t *testing.T) {
	for _, args := range [][]string{{"lab", "all"}, {"lab", "all", "--no-bpf"}} {
		stdout, stderr, code := asNobody(t, nil, args...)
		if code != exitPrivilege || stdout != "" || strings.Count(stderr, "error: ") != 1 || !strings.Contains(stderr, "\nhint: ") {
			t.Errorf("%v exits %d: %s%s", args, code, stdout, stderr)
		}
	}
	if stdout, stderr, code := asNobody(t, nil, "lab"); code != exitOK || strings.Count(stdout, "given: ") != len(folklore.All) {
		t.Errorf("the list: exit %d: %s%s", code, stdout, stderr)
	}
}

// TestLabControl: with its condition the other way, each comes to another verdict.
func TestLabControl(t *testing.T) {
	t.Parallel()
	lines := runLab(t, "all", "--control")
	for name, want := range labVerdicts() {
		if want[0] == want[1] && os.Getenv(timeWaitLength) == "" {
			t.Errorf("%s: its control turns nothing", name)
		}
		checkVerdict(t, lines, name, want[1])
	}
}

// TestLabWithoutSysctls: where sysctls cannot be set, as in a container, a claim cannot be tried, and that is said.
func TestLabWithoutSysctls(t *testing.T) {
	private := &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	stdout, stderr, code := runAs(t, private, "/proc/sys/net", "lab", "late-fin", "linger", "--no-bpf")
	if code != exitRuntime || strings.Count(stdout, "NO VERDICT") != 2 || !strings.Contains(stdout, "tcp_max_tw_buckets") || !strings.Contains(stderr, "error: 2 of 2 claims could not be tried\n") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
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
