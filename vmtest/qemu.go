// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

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
	args := append(slices.Clone(j.qemu), m.args...)
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
	errSilent   = errors.New("the guest says nothing: its kernel does not get as far as our init")
	errUnfit    = errors.New("the guest cannot run the tests")
	errPanicked = errors.New("the guest's kernel panicked")
)

// boot runs the guest to its end and gives each of its lines to take. Everything
// on the console goes to the log. No QEMU stays, however this ends.
func boot(ctx context.Context, j *job, logPath string, take func(guest.Line)) error {
	initrd, err := memoryFile(j.initrd)
	if err != nil {
		return err
	}
	defer initrd.Close()
	log, err := os.Create(logPath)
	if err != nil {
		return err
	}
	defer log.Close()

	running, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	limit := time.AfterFunc(j.lane.limit, func() { stop(fmt.Errorf("%w (%v)", errTimeout, j.lane.limit)) })
	defer limit.Stop()
	silence := time.AfterFunc(j.lane.boot, func() { stop(fmt.Errorf("%w (%v)", errSilent, j.lane.boot)) })
	defer silence.Stop()
	line := commandLine(j, "/proc/self/fd/3")
	cmd := exec.CommandContext(running, line[0], line[1:]...)
	cmd.ExtraFiles = []*os.File{initrd} // its descriptor 3
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
	heard := func(l guest.Line) { silence.Stop(); take(l) }
	seen := readConsole(io.TeeReader(out, log), heard, func() { stop(nil) })
	err = cmd.Wait()
	cause := context.Cause(running)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case seen.panic != "":
		return fmt.Errorf("%w: %s", errPanicked, seen.panic)
	case seen.done:
		return nil
	case errors.Is(cause, errTimeout), errors.Is(cause, errSilent):
		return cause
	case seen.complaint != "":
		return fmt.Errorf("%w: %s", errUnfit, seen.complaint)
	case complaints.Len() > 0:
		return fmt.Errorf("%w: %s", errLost, strings.TrimSpace(complaints.String()))
	case err != nil:
		return fmt.Errorf("%w: %w", errLost, err)
	}
	return errLost
}

// memoryFile is a file without a name: nothing stays of it, even if we are killed.
func memoryFile(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("initrd", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make the initramfs: %w", err)
	}
	f := os.NewFile(uintptr(fd), "initrd")
	if _, err := f.Write(content); err != nil {
		f.Close()
		return nil, fmt.Errorf("make the initramfs: %w", err)
	}
	return f, nil
}

// ending is what the console showed of the guest's end.
type ending struct {
	done      bool
	panic     string // why the kernel gave up
	complaint string // what init could not do
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
		case e.panic == "":
			if _, why, found := strings.Cut(raw, "Kernel panic - not syncing"); found {
				e.panic = cmp.Or(strings.Trim(why, ": \r\n"), "no reason given")
			}
		}
		if err != nil {
			return e
		}
	}
}
