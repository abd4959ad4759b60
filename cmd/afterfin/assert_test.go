// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// In these tests a leak lasts six times as long as is allowed, for machines where a look takes
// half a second; and nothing that is closed in time gets anywhere near the other limit.
const (
	shortLimit = "400ms"
	longLimit  = "60s"
	hold       = "hold:2400ms"
)

// assertCase is a command and what must come of it.
type assertCase struct {
	limit   string
	flags   []string
	steps   []string
	exit    int
	status  int // of the command
	leaks   int
	verdict string // of the leak
	closed  bool
}

var assertCases = map[string]assertCase{
	"leak":                         {limit: shortLimit, steps: []string{"leak", hold}, exit: 3, leaks: 1, verdict: "eof_unread"},
	"leak of a command that fails": {limit: shortLimit, steps: []string{"leak", hold, "exit:7"}, exit: 3, status: 7, leaks: 1, verdict: "eof_unread"},
	"another code":                 {limit: shortLimit, flags: []string{"--leak-exit", "9"}, steps: []string{"leak", hold}, exit: 9, leaks: 1, verdict: "eof_unread"},
	"closed in time":               {limit: longLimit, steps: []string{"leak", "close"}},
	"closed in time, and fails":    {limit: longLimit, steps: []string{"leak", "close", "exit:7"}, exit: 7, status: 7},
	"open, but not for too long":   {limit: longLimit, steps: []string{"leak", "exit:7"}, exit: 7, status: 7},
	"too late, and closed":         {limit: shortLimit, steps: []string{"leak", hold, "close", hold}, exit: 3, leaks: 1, verdict: "eof_unread", closed: true},
	"in a child":                   {limit: shortLimit, steps: []string{"child", "child", "leak", hold, "exit:5"}, exit: 3, status: 5, leaks: 1, verdict: "eof_unread"},
	"in an orphan":                 {limit: shortLimit, steps: []string{"daemon", "leak", hold}, exit: 3, leaks: 1, verdict: "eof_unread"},
	"inherited":                    {limit: shortLimit, steps: []string{"leak", "pass", hold}, exit: 3, leaks: 1, verdict: "eof_unread"},
	"never accepted":               {limit: shortLimit, steps: []string{"queue", hold}, exit: 3, leaks: 1, verdict: "not_accepted"},
	"killed":                       {limit: longLimit, steps: []string{"leak", "kill"}, exit: 128 + 9, status: 128 + 9},
	"killed after a leak":          {limit: shortLimit, steps: []string{"leak", hold, "kill"}, exit: 3, status: 128 + 9, leaks: 1, verdict: "eof_unread"},
}

// With BPF every age is exact.
func TestAssertTracing(t *testing.T) { assertAll(t) }

// Without it a leak is seen all the same, and what is closed in time is none.
func TestAssertPolling(t *testing.T) { assertAll(t, "--no-bpf") }

func assertAll(t *testing.T, flags ...string) {
	for name, c := range assertCases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := newNetNS(t)
			a := startAssert(t, ns, nil, nil, slices.Concat([]string{"--max-close-wait-age", c.limit}, c.flags, flags), append([]string{"say:hello"}, c.steps...)...)
			v := a.wait(t)
			if v.Exit != c.exit || v.Status != c.status || len(v.Leaks) != c.leaks || v.Leaked != (c.leaks > 0) || v.Leaked != (v.Reason != "") {
				t.Fatalf("exit %d, the command's %d, %+v: %s", v.Exit, v.Status, v, a.stderr)
			}
			if got := a.stdout.String(); got != "hello\n" {
				t.Errorf("stdout is the command's, and it says %q", got)
			}
			if polling := len(flags) > 0; polling != (v.Resolution != nil) || polling != strings.HasPrefix(a.stderr.String(), "notice: no BPF (--no-bpf): polling every ") {
				t.Errorf("resolution %v: %s", v.Resolution, a.stderr)
			}
			for _, l := range v.Leaks {
				limit, _ := time.ParseDuration(c.limit)
				if l.Verdict != c.verdict || l.Closed != c.closed || l.NetNS != ns.Inode() || l.Side == nil || *l.Side != "accept" {
					t.Errorf("leak %+v", l)
				}
				if l.PID == nil || l.Comm == nil || len(l.Cmdline) < 2 || l.Cmdline[1] != asCommand || (l.FD == nil) != (c.verdict == "not_accepted") {
					t.Errorf("the holder is not told: %+v", l)
				}
				if l.AgeMin == nil || time.Duration(*l.AgeMin) < limit {
					t.Errorf("an age below the limit: %+v", l)
				}
				if len(flags) == 0 && (l.Quality != "exact" || time.Duration(*l.Age) < 2400*time.Millisecond) {
					t.Errorf("age %v ns (%s), held for 2.4 s at least", *l.Age, l.Quality)
				}
			}
		})
	}
}

// assertModes are the two ways to watch.
var assertModes = map[string][]string{"tracing": nil, "polling": {"--no-bpf"}}

// A leak of somebody else is none of the command's.
func TestAssertOutside(t *testing.T) {
	for mode, flags := range assertModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			ns := newNetNS(t)
			leaker := exec.Command("/proc/self/exe", asCommand, "leak", "say:leaking", "await")
			stdin, err := leaker.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			stdout, err := leaker.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			a := startAssert(t, ns, nil, nil, append([]string{"--max-close-wait-age", shortLimit}, flags...), hold)
			if err := ns.Do(leaker.Start); err != nil {
				t.Fatal(err)
			}
			if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "leaking\n" {
				t.Fatalf("the leaker says %q: %v", line, err)
			}
			if v := a.wait(t); v.Exit != exitOK || v.Leaked || len(v.Leaks) != 0 {
				t.Errorf("%+v: %s", v, a.stderr)
			}
			stdin.Close()
			if err := leaker.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// What the command leaves behind counts as it is then, is not waited for, and lives on.
func TestAssertLeftBehind(t *testing.T) {
	for mode, flags := range assertModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			ns := newNetNS(t)
			out, in, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			said, stdout, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			a := startAssert(t, ns, out, stdout, append([]string{"--max-close-wait-age", shortLimit}, flags...),
				"abandon:2400ms", "leak", "await", "say:still here")
			out.Close()
			stdout.Close()
			v := a.wait(t)
			if v.Exit != exitThreshold || len(v.Leaks) != 1 || v.Leaks[0].Closed {
				t.Errorf("%+v: %s", v, a.stderr)
			}
			in.Close()
			if text, err := io.ReadAll(said); string(text) != "still here\n" {
				t.Errorf("what was left behind says %q: %v", text, err)
			}
			said.Close()
		})
	}
}

// Signals reach the command once each, and its own answer counts.
func TestAssertSignals(t *testing.T) {
	for mode, flags := range assertModes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			said, stdout, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			a := startAssert(t, newNetNS(t), nil, stdout, append([]string{"--max-close-wait-age", longLimit}, flags...), "signals", "exit:5")
			stdout.Close()
			lines := bufio.NewReader(said)
			expect := func(want string) {
				t.Helper()
				if line, err := lines.ReadString('\n'); line != want+"\n" {
					t.Fatalf("the command says %q, want %q: %v", line, want, err)
				}
			}
			expect("ready")
			a.Process.Signal(syscall.SIGINT)
			expect("interrupt")
			a.Process.Signal(syscall.SIGINT)
			a.Process.Signal(syscall.SIGTERM)
			expect("terminated")
			if v := a.wait(t); v.Exit != 5 {
				t.Errorf("%+v: %s", v, a.stderr)
			}
			said.Close()
		})
	}
}

// TIME_WAIT of the connecting side, all at once. 5 are 5, not 10 as with both ends counted.
func TestAssertTimeWait(t *testing.T) {
	for limit, code := range map[string]int{"4": exitThreshold, "5": exitOK} {
		t.Run(limit, func(t *testing.T) {
			t.Parallel()
			a := startAssert(t, newNetNS(t), nil, nil, []string{"--max-close-wait-age", longLimit, "--max-time-wait", limit}, "child", "timewait:5", hold)
			v := a.wait(t)
			if v.Exit != code || v.TimeWait == nil || *v.TimeWait != 5 || len(v.Leaks) != 0 {
				t.Errorf("%+v: %s", v, a.stderr)
			}
		})
	}
}

// Without privileges, as any user: by looks, without being asked.
func TestAssertUnprivileged(t *testing.T) {
	ns := newNetNS(t)
	nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	try := func(flags []string, steps ...string) (stdout, stderr string, code int) {
		err := ns.Do(func() error {
			stdout, stderr, code = runAs(t, nobody, "", slices.Concat([]string{"assert"}, flags, []string{"--", "/proc/self/exe", asCommand}, steps)...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return stdout, stderr, code
	}
	stdout, stderr, code := try([]string{"--max-close-wait-age", shortLimit}, "say:hello", "leak", hold)
	if code != exitThreshold || stdout != "hello\n" || !strings.HasPrefix(stderr, "notice: no BPF (CAP_BPF: missing): polling every 100 ms") ||
		!strings.Contains(stderr, "\nerror: 1 CLOSE_WAIT outlived 400 ms; exit code 3, the command's own is 0\n") {
		t.Errorf("exit %d, stdout %q, stderr %s", code, stdout, stderr)
	}
	if _, stderr, code := try([]string{"--max-close-wait-age", longLimit}, "leak", "exit:7"); code != 7 {
		t.Errorf("exit %d: %s", code, stderr)
	}
	_, stderr, code = try([]string{"--max-close-wait-age", longLimit, "--max-time-wait", "1"}, "say:started")
	if code != exitPrivilege || !strings.HasPrefix(stderr, "error: CAP_BPF: missing\nhint: ") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}
