// SPDX-License-Identifier: Apache-2.0

// Command init is process 1 of a test guest: it prepares the machine, runs the
// test binaries of the plan and tells on the console what they say.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/event"
	"afterfin/internal/sockdiag"
	"afterfin/vmtest/guest"
)

func main() {
	c := &console{}
	if err := run(c); err != nil {
		c.say(guest.Init, "error: %v", err)
	}
	powerOff(c)
}

func run(c *console) error {
	if err := mounts(); err != nil {
		return err
	}
	if err := c.takeKernelMessages(); err != nil {
		return err
	}
	raw, err := os.ReadFile(guest.PlanFile)
	if err != nil {
		return err
	}
	var plan guest.Plan
	if err := json.Unmarshal(raw, &plan); err != nil {
		return fmt.Errorf("read plan: %w", err)
	}
	if err := linkUp("lo"); err != nil {
		return err
	}
	for _, path := range plan.Modules {
		if err := loadModule(path); err != nil {
			return err
		}
	}
	if err := sockDiag(); err != nil {
		return err
	}
	hz, err := ticks()
	if err != nil {
		return err
	}
	c.say(guest.Ticks, "%d", hz)
	tests := 0
	for _, r := range plan.Runs {
		n, err := test(c, r)
		if err != nil {
			return fmt.Errorf("run %s: %w", r.Name, err)
		}
		tests += n
	}
	c.say(guest.Done, "%d", tests)
	return nil
}

func mounts() error {
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
		{"tracefs", "/sys/kernel/tracing"}, {"securityfs", "/sys/kernel/security"},
	} {
		if m.kind == "securityfs" && !has(m.kind) { // a kernel without it has no lockdown to tell of
			continue
		}
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	return os.Chmod("/tmp", 0o777|os.ModeSticky)
}

// has tells whether the kernel knows a filesystem.
func has(kind string) bool {
	known, _ := os.ReadFile("/proc/filesystems") // without /proc none is told
	return slices.Contains(strings.Fields(string(known)), kind)
}

func linkUp(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load %s: %w", path, err)
	}
	return nil
}

// sockDiag finds out whether this kernel can list sockets: without that most
// tests fail, each in its own words.
func sockDiag() error {
	err := sockdiag.Dump(0, func(*event.Existing) {})
	if errors.Is(err, sockdiag.ErrNoInetDiag) {
		return errors.New("this kernel has neither built in nor got as modules: inet_diag, tcp_diag")
	}
	return err
}

// ticks gives the HZ that the kernel was built with: its coarse clocks move once
// a tick.
func ticks() (int64, error) {
	var step unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_REALTIME_COARSE, &step); err != nil {
		return 0, fmt.Errorf("measure HZ: %w", err)
	}
	return int64(time.Second) / step.Nano(), nil
}

// result is the line of a top-level test: subtests have a slash in their names.
var result = regexp.MustCompile(`\x16--- (PASS|FAIL|SKIP): [^/]+ \([0-9.]+s\)`)

// test runs one binary and counts the top-level tests that it reports.
func test(c *console, r guest.Run) (int, error) {
	c.say(guest.Begin, "%s", r.Name)
	out, in, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer out.Close()
	cmd := exec.Command(filepath.Join(r.Dir, "test"), r.Args...)
	cmd.Dir = r.Dir
	cmd.Env = append([]string{"PATH=/bin", "HOME=/tmp", "TMPDIR=/tmp"}, r.Env...)
	cmd.Stdout, cmd.Stderr = in, in
	if err := cmd.Start(); err != nil {
		in.Close()
		return 0, err
	}
	in.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait()
		// A process that a test left behind may hold the pipe open for ever.
		out.SetReadDeadline(afterGrace())
	}()
	tests := 0
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if line != "" {
			if result.MatchString(line) {
				tests++
			}
			c.say(guest.Output, "%s", strings.TrimSuffix(line, "\n"))
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			c.say(guest.Init, "%s: a process that it left holds its output open", r.Name)
			break
		}
	}
	<-ended
	c.say(guest.End, "%d %s", cmd.ProcessState.ExitCode(), r.Name)
	return tests, nil
}
