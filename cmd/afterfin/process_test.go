// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"afterfin/internal/lab"
)

// asRoot starts afterfin as a process of its own and waits for its ready line.
func asRoot(t *testing.T, stdout io.Writer, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	cmd.Stdout = stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "ready ") {
			go io.Copy(io.Discard, stderr)
			return cmd
		}
	}
	t.Fatalf("afterfin %v never got ready", args)
	return nil
}

// attached lists the links of all programs with our names, by id.
func attached(t *testing.T) map[link.ID]string {
	t.Helper()
	found := make(map[link.ID]string)
	it := new(link.Iterator)
	defer it.Close()
	for it.Next() {
		info, err := it.Link.Info()
		if err != nil {
			continue // it went away meanwhile
		}
		prog, err := ebpf.NewProgramFromID(info.Program)
		if err != nil {
			continue
		}
		if p, err := prog.Info(); err == nil && (strings.HasPrefix(p.Name, "set_state") || p.Name == "sys_exit" || p.Name == "holders") {
			found[info.ID] = p.Name
		}
		prog.Close()
	}
	if err := it.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}

// Links go with the process, even if it has no time to take them away.
func TestKilledLeavesNothingAttached(t *testing.T) {
	before := attached(t)
	cmd := asRoot(t, io.Discard, "watch", "--exact-owner")
	mine := attached(t)
	for id := range before {
		delete(mine, id)
	}
	if len(mine) < 3 {
		t.Fatalf("attached: %v", mine)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	// The kernel frees the last reference of a descriptor from a worker, so this may take a moment.
	for begin := time.Now(); ; runtime.Gosched() {
		left := attached(t)
		for id := range left {
			if mine[id] == "" {
				delete(left, id)
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Since(begin) > patience {
			t.Fatalf("still attached after SIGKILL: %v", left)
		}
	}
}

// A reader that has seen enough ends the stream, and that is no error.
func TestReaderGoesAway(t *testing.T) {
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := asRoot(t, in, "watch", "-o", "json")
	in.Close()
	out.Close()
	ns := newNetNS(t)
	if err := ns.Do(func() error { return connections(1, 1) }); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("afterfin ends with %v", err)
	}
}

// Ctrl-C ends with the summary, and exit code 0.
func TestInterrupted(t *testing.T) {
	var out strings.Builder
	cmd := asRoot(t, &out, "watch", "-o", "json")
	for range 5 { // who sends it through a shell or timeout(1) sends more than one
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("afterfin ends with %v", err)
	}
	if !strings.Contains(out.String(), `"event":"summary"`) {
		t.Errorf("no summary: %s", out.String())
	}
}

// A reader that neither reads nor goes away cannot keep afterfin from ending.
func TestBlockedReader(t *testing.T) {
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := asRoot(t, in, "watch", "-o", "json", "--duration", "1s")
	in.Close()
	ns := newNetNS(t)
	if err := ns.Do(func() error { return connections(1000, 1) }); err != nil { // 4 MB of rows
		t.Fatal(err)
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitRuntime {
		t.Errorf("afterfin ends with %v, want exit code %d", err, exitRuntime)
	}
}

// Rows from before the stop come out, however many others the filter drops in
// Go: a listener's owner is only a guess about its children, so these cross the ring.
func TestStopWithBacklog(t *testing.T) {
	s := &scene{T: t, begin: lab.Mono(), ns: newNetNS(t), family: families[0], sock: make(map[uint64]*expected)}
	client, srv := s.actor("client"), s.actor("server")
	l := s.server(srv, 8)
	wanted := s.connect(client, l)
	w := startWatch(t, "-p", fmt.Sprint(client.PID()))
	if err := s.ns.Do(func() error { return connections(5000, 1) }); err != nil {
		t.Fatal(err)
	}
	s.step(client.CloseFD(wanted.fd))
	w.stop(t)
	rows := w.wait(t, 3, func(r *row) bool { return r.Cookie == wanted.cookie })
	if len(rows) < 1 || rows[0].change() != "ESTABLISHED→FIN_WAIT1" {
		t.Errorf("the client's rows: %s", changes(rows))
	}
}

// TestStopUnderTraffic: a stream ends in time also where the ring is never empty for long.
func TestStopUnderTraffic(t *testing.T) {
	ns := newNetNS(t)
	ctx, cancel := context.WithCancel(context.Background())
	over, made := make(chan error, 1), make(chan int)
	go func() {
		over <- ns.Do(func() error {
			c, err := lab.NewCloser()
			if err != nil {
				return err
			}
			defer c.Close()
			for ctx.Err() == nil {
				if err := c.Spread(1, 5*time.Millisecond); err != nil {
					return err
				}
				select {
				case made <- 1:
				default: // nobody waits for it
				}
			}
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
	for _, args := range [][]string{
		{"watch", "-o", "json"}, {"timewait", "-o", "json", "--sample", "1h", "--each"}, {"leaks", "-o", "json", "--follow", "--every", "1h"},
	} {
		stopped, stop := context.WithCancel(context.Background())
		stderr := &notes{ready: make(chan struct{})}
		code := make(chan int, 1)
		go func() {
			e := env{ctx: stopped, stdout: io.Discard, stderr: stderr, getenv: os.Getenv, types: types, abort: func() { panic("stdout is blocked") }}
			code <- run(e, append(args, "--netns", ns.Path()))
		}()
		select {
		case <-stderr.ready:
		case <-time.After(patience):
			t.Fatalf("%v is not ready: %s", args, stderr)
		}
		for range 20 { // some traffic
			select {
			case <-made:
			case <-time.After(patience):
				t.Fatal("no traffic")
			}
		}
		stop()
		select {
		case got := <-code:
			if got != exitOK {
				t.Errorf("%v exits %d: %s", args, got, stderr)
			}
		case <-time.After(patience):
			t.Fatalf("%v does not end", args)
		}
	}
}

// What a run opens it closes: descriptors and goroutines are as before.
func TestNothingLeaks(t *testing.T) {
	once := func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		var stderr strings.Builder
		if code := run(env{ctx: ctx, stdout: io.Discard, stderr: &stderr, getenv: os.Getenv, types: types, abort: func() { panic("stdout is blocked") }}, []string{"watch", "--exact-owner"}); code != exitOK {
			t.Fatalf("exit %d: %s", code, &stderr)
		}
	}
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	once() // what is cached for good is there after the first run
	fds, goroutines := count(), runtime.NumGoroutine()
	for range 5 {
		once()
	}
	if got := count(); got > fds {
		t.Errorf("%d descriptors, %d before", got, fds)
	}
	if got := runtime.NumGoroutine(); got > goroutines {
		t.Errorf("%d goroutines, %d before", got, goroutines)
	}
}
