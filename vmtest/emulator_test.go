// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Two CPUs get a QEMU that does not lose what another CPU patches: the installed one if it is
// new enough, else the one of the cache, if that is and runs.
func TestSound(t *testing.T) {
	program := machines["amd64"].program
	version := func(v string) string { return "echo 'QEMU emulator version " + v + " (Debian 1:" + v + ")'" }
	for name, c := range map[string]struct {
		arch             string
		cpus             int
		installed, later string // what they do
		want             string // part of the error; empty: none
		takes            bool   // the later one
	}{
		"one CPU":         {"amd64", 1, "exit 1", "exit 1", "", false},
		"arm64":           {"arm64", 2, "exit 1", "exit 1", "", false},
		"new enough":      {"amd64", 2, version("8.1.0"), "exit 1", "", false},
		"newer":           {"amd64", 2, version("10.0.2"), "exit 1", "", false},
		"old":             {"amd64", 2, version("8.0.4"), version("10.0.2"), "", true},
		"older":           {"amd64", 2, version("7.2.22"), version("8.1.5"), "", true},
		"both old":        {"amd64", 2, version("7.2.22"), version("8.0.0"), "is 8.0, but two CPUs need 8.1", false},
		"does not run":    {"amd64", 2, version("7.2.22"), "echo no libfoo >&2; exit 127", "no libfoo", false},
		"something else":  {"amd64", 2, "echo hello", "", "says no version", false},
		"cannot be asked": {"amd64", 2, "exit 3", "", "exit status 3", false},
	} {
		t.Run(name, func(t *testing.T) {
			fakeQEMU(t, c.installed)
			cache := t.TempDir()
			later := filepath.Join(cache, laterHome, "usr", "bin", program)
			if err := os.MkdirAll(filepath.Dir(later), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(later, []byte("#!/bin/sh\n"+c.later+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			got, err := sound(t.Context(), c.arch, c.cpus, cache, t.Logf)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want an error with %q", err, c.want)
				}
				return
			}
			if err != nil || len(got) == 0 {
				t.Fatalf("got %q, %v", got, err)
			}
			want := machines[c.arch].program
			if c.takes {
				want = later
			}
			if got[0] != want {
				t.Errorf("got %q, want %q first", got, want)
			}
		})
	}
}
