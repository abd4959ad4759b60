// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// noter tells the user what goes on and may take a while.
type noter = func(format string, args ...any)

// tool makes a command that ends with ctx as if the user had pressed Ctrl-C, and
// so does what it started. If we are killed, the kernel interrupts it.
func tool(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	// The group is its own: the terminal's Ctrl-C comes to it through us, once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// command runs a tool that has nothing to say unless it fails.
func command(ctx context.Context, program string, args ...string) error {
	if _, err := tool(ctx, program, args...).Output(); err != nil {
		return fmt.Errorf("%s: %w", program, explain(err))
	}
	return nil
}

// explain adds what a program wrote on its standard error. What apt marks as its
// first error is enough: the others come of it.
func explain(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) || len(exit.Stderr) == 0 {
		return err
	}
	text := strings.TrimSpace(string(exit.Stderr))
	for line := range strings.Lines(text) {
		if first, ok := strings.CutPrefix(line, "E: "); ok {
			text = strings.TrimSpace(first)
			break
		}
	}
	return fmt.Errorf("%w: %s", err, text)
}

// need makes sure that a program is there: apt installs it if we are root.
func need(ctx context.Context, program, pkg string, note noter) error {
	if _, err := exec.LookPath(program); err == nil {
		return nil
	}
	return install(ctx, program, pkg, os.Geteuid() == 0, note)
}

func install(ctx context.Context, program, pkg string, root bool, note noter) error {
	if !root {
		return fmt.Errorf("%s is missing: sudo apt-get install %s", program, pkg)
	}
	note("%s is missing: installing %s", program, pkg)
	err := command(ctx, "apt-get", "-o", strictUpdate, "update", "-qq")
	if err == nil {
		err = command(ctx, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", "--no-install-recommends", pkg)
	}
	if err == nil {
		_, err = exec.LookPath(program)
	}
	if err != nil {
		return fmt.Errorf("%s is missing, and %s cannot be installed: %w", program, pkg, err)
	}
	return nil
}
