// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/folklore"
)

// labRun marks all processes that one run of lab starts.
const labRun = "AFTERFIN_TEST_LAB_RUN"

// TestLabInterrupted: whichever experiment is interrupted, and however, no process, netns, route or sysctl is left
// behind.
func TestLabInterrupted(t *testing.T) {
	before := hostNetwork(t)
	for i, c := range folklore.All {
		interruptLab(t, time.Duration(i)*5*time.Millisecond, unix.SIGINT, c.Name, "--no-bpf")
	}
	interruptLab(t, 500*time.Millisecond, unix.SIGTERM, "all")
	interruptLab(t, 500*time.Millisecond, unix.SIGKILL, "all")
	for name, text := range hostNetwork(t) {
		if text != before[name] {
			t.Errorf("%s is changed from %q to %q", name, before[name], text)
		}
	}
}

// interruptLab signals all of a terminal's foreground, as Ctrl-C does, some time after the first process of an
// experiment is there.
func interruptLab(t *testing.T, after time.Duration, with syscall.Signal, args ...string) {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command("/proc/self/exe", append([]string{"lab"}, args...)...)
	mark := fmt.Sprintf("%s=%d.%s", labRun, os.Getpid(), t.Name()+args[0]+with.String())
	cmd.Env = append(os.Environ(), asMain+"=1", mark)
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	for begin := time.Now(); len(marked(t, mark)) < 2; time.Sleep(time.Millisecond) { // nothing tells
		if time.Since(begin) > patience {
			t.Fatalf("%v starts nothing: %s", args, &stderr)
		}
	}
	time.Sleep(after) // at another moment each
	if err := unix.Kill(-cmd.Process.Pid, with); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	err := cmd.Wait()
	took := time.Since(begin)
	var exit *exec.ExitError
	switch {
	case with == unix.SIGKILL:
	case err == nil: // it was through
	case !errors.As(err, &exit) || exit.ExitCode() != exitRuntime || !strings.HasPrefix(stderr.String(), "error: stopped: ") && !strings.Contains(stderr.String(), "\nerror: stopped: "):
		t.Errorf("%v ends with %v: %s", args, err, &stderr)
	}
	if took > patience/2 {
		t.Errorf("%v takes %v to end", args, took)
	}
	for begin := time.Now(); ; time.Sleep(time.Millisecond) { // those of a process that was killed end by themselves
		left := marked(t, mark)
		if len(left) == 0 {
			return
		}
		if time.Since(begin) > patience {
			t.Fatalf("%v leaves processes behind: %v", args, left)
		}
	}
}

// marked are the processes with this in their environment. A netns of theirs is in no other process, and lives no
// longer than they do, unless it is mounted, which hostNetwork would show.
func marked(t *testing.T, mark string) (found []string) {
	t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range entries {
		if env, err := os.ReadFile(dir + "/environ"); err == nil && bytes.Contains(env, []byte(mark+"\x00")) {
			found = append(found, dir)
		}
	}
	return found
}

// hostNetwork is what an experiment could leave changed: sysctls, routes and mounts of network namespaces.
func hostNetwork(t *testing.T) map[string]string {
	t.Helper()
	state := make(map[string]string)
	for _, dir := range []string{"/proc/sys/net/ipv4", "/proc/sys/net/ipv6"} {
		err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // no IPv6
				return err
			}
			if raw, err := os.ReadFile(path); err == nil { // some can only be written
				state[path] = string(raw)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for file, fields := range map[string]int{"/proc/net/route": 8, "/proc/net/ipv6_route": 5} { // what follows are counters
		raw, _ := os.ReadFile(file)
		for line := range strings.Lines(string(raw)) {
			words := strings.Fields(line)
			state[file] += strings.Join(words[:min(fields, len(words))], " ") + "\n"
		}
	}
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	state["mounts of netns"] = fmt.Sprint(strings.Count(string(raw), " nsfs "))
	return state
}
