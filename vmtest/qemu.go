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
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"afterfin/vmtest/guest"
)

// machine is what QEMU needs to know for an architecture.
type machine struct {
	program, pkg string
	args         []string
	cpu          string // of the virtual lane
	console      string
}

var machines = map[string]machine{
	"amd64": {"qemu-system-x86_64", "qemu-system-x86", nil, "Nehalem", "ttyS0"},
	"arm64": {"qemu-system-aarch64", "qemu-system-arm", []string{"-M", "virt"}, "cortex-a72", "ttyAMA0"},
}

// commandLine starts the guest in its lane. In virtual time one instruction takes
// one nanosecond and idle time is skipped; with the same initramfs, no clock of
// the host, no random start addresses and a fixed seed every run is the same.
func commandLine(j *job, initrd string) []string {
	m := machines[j.kernel.arch]
	args := append([]string{m.program}, m.args...)
	args = append(args, "-m", "1G", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-seed", "1",
		"-kernel", j.image.path, "-initrd", initrd)
	kernelArgs := "console=" + m.console + " panic=-1 quiet mitigations=off nokaslr"
	if j.lane.cpus == 1 {
		args = append(args, "-accel", "tcg", "-cpu", m.cpu, "-smp", "1",
			"-icount", "shift=0,sleep=off", "-rtc", "base=2026-01-01,clock=vm")
	} else {
		args = append(args, "-accel", "tcg,thread=multi", "-cpu", j.kernel.cpu, "-smp", fmt.Sprint(j.lane.cpus))
	}
	return append(args, "-append", kernelArgs)
}

// Errors of a guest that did not get to its end. That is not a failed test.
var (
	errLost     = errors.New("the guest went away before it was done")
	errTimeout  = errors.New("the guest hangs: its time is up")
	errPanicked = errors.New("the guest's kernel panicked")
)

// boot runs the guest to its end and gives each of its lines to take. Everything
// on the console goes to the log. No QEMU stays, however this ends.
func boot(ctx context.Context, j *job, logPath string, take func(guest.Line)) error {
	dir, err := os.MkdirTemp("", "afterfin-vmtest-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	initrd := filepath.Join(dir, "initrd")
	if err := os.WriteFile(initrd, j.initrd, 0o600); err != nil {
		return err
	}
	log, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer log.Close()

	limited, cancel := context.WithTimeout(ctx, j.lane.limit)
	defer cancel()
	line := commandLine(j, initrd)
	cmd := exec.CommandContext(limited, line[0], line[1:]...)
	// A group of its own: Ctrl-C is for us, and we end it. If we are killed, the
	// kernel ends it (when the thread that started it ends, so that one waits).
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return err
	}
	seen := readConsole(io.TeeReader(out, log), take, cancel)
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case seen.panicked:
		return errPanicked
	case seen.done:
		return nil
	case limited.Err() == context.DeadlineExceeded:
		return fmt.Errorf("%w (%v)", errTimeout, j.lane.limit)
	case seen.complaint != "":
		return fmt.Errorf("%w: %s", errLost, seen.complaint)
	case complaints.Len() > 0:
		return fmt.Errorf("%w: %s", errLost, strings.TrimSpace(complaints.String()))
	case err != nil:
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return errLost
}

// ending is what the console showed of the guest's end.
type ending struct {
	done, panicked bool
	complaint      string // what init could not do
}

// readConsole reads until the guest closes its console. When all is said the guest
// gets a moment to power off: one kernel hung there, which is no matter.
func readConsole(console io.Reader, take func(guest.Line), kill func()) ending {
	var e ending
	lines := bufio.NewReader(console)
	for {
		raw, err := lines.ReadString('\n')
		l, ok := guest.Parse(raw)
		switch {
		case ok && l.Kind == guest.Done:
			e.done = true
			time.AfterFunc(10*time.Second, kill)
			take(l)
		case ok:
			if l.Kind == guest.Init && strings.HasPrefix(l.Text, "error: ") {
				e.complaint = strings.TrimPrefix(l.Text, "error: ")
			}
			take(l)
		case strings.Contains(raw, "Kernel panic - not syncing"):
			e.panicked = true
		}
		if err != nil {
			return e
		}
	}
}
