// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
)

// QEMU before 8.1 can keep a translation of code that another CPU changed while it was being
// translated; "accel/tcg: Always lock pages before translation" ended that. amd64 Linux patches
// its code over a breakpoint, for every tracepoint that is attached to, and a CPU that is left
// with the breakpoint dies of "int3", or runs into it for ever (soft lockup): under 7.2 that
// befell up to every second guest in which traffic ran while tracers came and went. It takes two
// CPUs; arm64 is patched without a breakpoint.
var soundQEMU = [2]int{8, 1}

// Debian 12 has 7.2, and with its libraries this one runs.
const (
	laterSuite = "bookworm-backports"
	laterHome  = "qemu"
)

var laterPackages = []string{"qemu-system-x86", "qemu-system-data", "seabios"}

// sound gives the QEMU for guests with so many CPUs, and its first arguments: the one that is
// installed, if it is good for them, or a later one, out of the cache or from apt, which the
// system does not see.
func sound(ctx context.Context, arch string, cpus int, cache string, note noter) ([]string, error) {
	m := machines[arch]
	if cpus == 1 || arch != "amd64" {
		return []string{m.program}, nil
	}
	installed, err := qemuVersion(ctx, m.program)
	if err != nil {
		return nil, err
	}
	if !older(installed, soundQEMU) {
		return []string{m.program}, nil
	}
	home := filepath.Join(cache, laterHome)
	share := filepath.Join(home, "usr", "share")
	later := []string{filepath.Join(home, "usr", "bin", m.program), "-L", filepath.Join(share, "qemu"), "-L", filepath.Join(share, "seabios")}
	_, err = os.Stat(home)
	if errors.Is(err, os.ErrNotExist) {
		note("QEMU %d.%d loses code that another CPU patches: getting the one of %s", installed[0], installed[1], laterSuite)
		err = fetchLater(ctx, cache, home)
	}
	if err != nil {
		return nil, fmt.Errorf("get a QEMU of %d.%d or later (--lane virtual needs none): %w", soundQEMU[0], soundQEMU[1], err)
	}
	got, err := qemuVersion(ctx, later[0])
	if err != nil {
		return nil, err
	}
	if older(got, soundQEMU) {
		return nil, fmt.Errorf("QEMU of %s is %d.%d, but two CPUs need %d.%d", laterSuite, got[0], got[1], soundQEMU[0], soundQEMU[1])
	}
	return later, nil
}

// fetchLater leaves the later QEMU in home, all or nothing.
func fetchLater(ctx context.Context, cache, home string) error {
	work, err := privateApt(ctx, []string{laterSuite}, runtime.GOARCH, filepath.Join(cache, "apt", laterHome))
	if err != nil {
		return err
	}
	defer os.RemoveAll(work.debs)
	if err := work.download(ctx, laterPackages); err != nil {
		return err
	}
	root, err := extract(ctx, work.debs)
	if err != nil {
		return err
	}
	return os.Rename(root, home)
}

var versionLine = regexp.MustCompile(`^QEMU emulator version (\d+)\.(\d+)`)

// qemuVersion runs a QEMU to ask it, which also shows that it finds its libraries.
func qemuVersion(ctx context.Context, program string) ([2]int, error) {
	out, err := tool(ctx, program, "--version").Output()
	if err != nil {
		return [2]int{}, fmt.Errorf("%s: %w", filepath.Base(program), explain(err))
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return [2]int{}, fmt.Errorf("%s --version says no version: %q", filepath.Base(program), out)
	}
	var v [2]int
	for i := range v {
		if v[i], err = strconv.Atoi(string(m[i+1])); err != nil {
			return v, err
		}
	}
	return v, nil
}

func older(a, b [2]int) bool { return a[0] < b[0] || a[0] == b[0] && a[1] < b[1] }
