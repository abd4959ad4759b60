// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/event"
	"afterfin/internal/lab"
	"afterfin/internal/sockdiag"
	"afterfin/internal/tcp"
)

// TestTimeWaitFlatOut leaves 100,000 TIME_WAIT in one netns: all are counted, as sock_diag has
// them, in little memory, and none comes through the ring.
func TestTimeWaitFlatOut(t *testing.T) {
	ns := newNetNS(t)
	keepTimeWaits(t, ns)
	perThread, _ := load(t)
	perThread /= threads
	// A process of its own, for its memory to be seen.
	cmd := exec.Command("/proc/self/exe", "timewait", "-o", "json", "--sample", "1h", "--netns", ns.Path())
	cmd.Env = append(os.Environ(), asMain+"=1")
	stderr := &notes{ready: make(chan struct{})}
	var stdout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	t.Cleanup(func() {
		if !ended {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	select {
	case <-stderr.ready:
	case <-time.After(patience):
		t.Fatalf("timewait is not ready: %s", stderr)
	}
	connect(t, ns, perThread)
	want := threads * perThread
	listed := 0
	for begin := time.Now(); listed != want && time.Since(begin) < 10*time.Second; { // the last ones may still run in a softirq
		listed = 0
		if err := ns.Do(func() error {
			return sockdiag.Dump(1<<tcp.TimeWait, func(*event.Existing) { listed++ })
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	ended = true
	if err != nil {
		t.Fatalf("timewait: %v: %s", err, stderr)
	}
	var r timeWaitReport
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	lost := 0
	for what, n := range r.Lost {
		lost += n
		if n != 0 && what != "lost_recursion" && os.Getenv(preempts) == "" { // what the kernel skipped is counted, as in TestFlatOut
			t.Errorf("%s: %d", what, n)
		}
	}
	s := &r.Spaces[0]
	if got := s.Flow.Entered; listed != want || r.Live != want || s.LiveBySide.Connect != want || got+lost < want || got > want || s.Flow.Ended != 0 || s.Flow.BySide.Connect != got {
		t.Errorf("sock_diag has %d, live %d, %+v, lost %v; want %d", listed, r.Live, s.Flow, r.Lost, want)
	}
	if r.Records == nil || *r.Records != 0 {
		t.Errorf("%d records came through the ring", *r.Records)
	}
	const most = 64 << 20
	rss := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	if r.Heap == 0 || r.Heap > most || r.Maps == 0 {
		t.Errorf("heap %d, maps %d", r.Heap, r.Maps)
	}
	t.Logf("%d TIME_WAIT: heap %.1f MiB, BPF maps %.1f MiB, largest resident set %.1f MiB", want, float64(r.Heap)/(1<<20), float64(r.Maps)/(1<<20), float64(rss)/(1<<20))
}

// TestTimeWaitNow: what is there is told to anybody, on any kernel.
func TestTimeWaitNow(t *testing.T) {
	stdout, stderr, code := asNobody(t, nil, "timewait", "--sample", "0", "-o", "json")
	var r timeWaitReport
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || code != exitOK || len(r.Spaces) == 0 || r.Spaces[0].Max == 0 {
		t.Errorf("exit %d: %s%s (%v)", code, stdout, stderr, err)
	}
}

// TestTimeWaitUnprivileged: what comes and goes is not, and says so.
func TestTimeWaitUnprivileged(t *testing.T) {
	for _, command := range []string{"timewait", "msl"} {
		stdout, stderr, code := asNobody(t, nil, command)
		if code != exitPrivilege || stdout != "" || !strings.HasPrefix(stderr, "error: CAP_BPF") || !strings.Contains(stderr, "\nhint: ") {
			t.Errorf("%s exits %d: %s%s", command, code, stdout, stderr)
		}
	}
}

// TestTimeWaitHidden: without CAP_SYSLOG the kernel hides where its functions are, and
// TIME_WAIT cannot be seen.
func TestTimeWaitHidden(t *testing.T) {
	stdout, stderr, code := asNobody(t, []uintptr{unix.CAP_BPF, unix.CAP_PERFMON}, "timewait")
	if code != exitPrivilege || stdout != "" || !strings.HasPrefix(stderr, "error: TIME_WAIT cannot be seen here: ") || !strings.Contains(stderr, "CAP_SYSLOG") || !strings.Contains(stderr, "\nhint: ") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
}

// TestTimeWaitEach: for a person the ends come one by one, between what is there and what is
// counted.
func TestTimeWaitEach(t *testing.T) {
	ns := newNetNS(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var stdout bytes.Buffer
	stderr := &notes{ready: make(chan struct{})}
	code := make(chan int, 1)
	go func() {
		code <- run(env{ctx: ctx, stdout: &stdout, stderr: stderr, getenv: os.Getenv, types: types}, []string{"timewait", "--each", "--sample", "1h", "--netns", ns.Path()})
	}()
	select {
	case <-stderr.ready:
	case <-time.After(patience):
		t.Fatalf("timewait is not ready: %s", stderr)
	}
	err := ns.Do(func() error {
		c, err := lab.NewCloser()
		if err != nil {
			return err
		}
		defer c.Close()
		from, err := c.Leave()
		if err != nil {
			return err
		}
		for begin := lab.Mono(); miniSockets(t, ns) == 0 && lab.Mono()-begin < patience; {
		}
		return c.Retake(from)
	})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if c := <-code; c != exitOK {
		t.Fatalf("exit %d: %s", c, stderr)
	}
	out := stdout.String()
	for _, part := range []string{
		"1 netns without TIME_WAIT\n", "TIME             PID COMM", "TIME_WAIT→CLOSE", "reused_connect",
		"  side    connect 1 (hold ports)   accept 0 (hold none)\n", "  ends    reused_connect 1 (100 %)", "\ncut     min ", "\nwhy     1 connection closed from this side first",
	} {
		before, after, ok := strings.Cut(out, part)
		if !ok {
			t.Fatalf("no %q after %q in\n%s", part, before, stdout.String())
		}
		out = after
	}
}
