// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func quiet(string, ...any) {}

// fakeTools makes PATH a folder with these scripts alone.
func fakeTools(t *testing.T, scripts map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, script := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
	return dir
}

// A missing program is installed by root; others are told how.
func TestInstall(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	works := "echo \"$@\" >> " + log + "; for p; do :; done; if [ $p = kvm-pkg ]; then echo '#!/bin/sh' > ${0%/*}/kvm; /bin/chmod +x ${0%/*}/kvm; fi"
	env := "shift; exec \"$@\""
	for name, c := range map[string]struct {
		root bool
		apt  string
		want string // the error
		told string // part of what apt was asked
	}{
		"root":              {true, works, "", "install -y -qq --no-install-recommends kvm-pkg"},
		"not root":          {false, works, "kvm is missing: sudo apt-get install kvm-pkg", ""},
		"no network":        {true, "echo 'W: old' >&2; echo 'E: Failed to fetch x' >&2; echo 'E: more' >&2; exit 100", "kvm is missing, and kvm-pkg cannot be installed: apt-get: exit status 100: Failed to fetch x", ""},
		"not in the packet": {true, "exit 0", "kvm is missing, and kvm-pkg cannot be installed: exec: \"kvm\": executable file not found in $PATH", ""},
	} {
		t.Run(name, func(t *testing.T) {
			os.Remove(log)
			fakeTools(t, map[string]string{"apt-get": c.apt, "env": env})
			notes := 0
			got := ""
			if err := install(t.Context(), "kvm", "kvm-pkg", c.root, func(string, ...any) { notes++ }); err != nil {
				got = err.Error()
			}
			asked, _ := os.ReadFile(log)
			if got != c.want || !strings.Contains(string(asked), c.told) || c.told == "" && len(asked) > 0 || (notes == 1) != c.root {
				t.Errorf("error %q, apt-get %q, %d notes", got, asked, notes)
			}
		})
	}
}

// An interrupted tool ends what it started by itself, but not for ever.
func TestInterruptedTool(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	mark := filepath.Join(t.TempDir(), "mark")
	out, err := tool(ctx, "/bin/sh", "-c", fmt.Sprintf("trap 'echo > %s; exit 1' INT; while :; do sleep 0.01; done", mark)).CombinedOutput()
	if _, missing := os.Stat(mark); err == nil || missing != nil {
		t.Errorf("%v, %v, %s", err, missing, out)
	}
}

func TestReadModule(t *testing.T) {
	fakeTools(t, map[string]string{
		"xz": "echo from xz", "zstd": "echo zstd: unsupported format >&2; exit 1", "gzip": "[ $1 = -dc ] && echo gzip of ${2##*/}",
	})
	plain := filepath.Join(t.TempDir(), "tcp_diag.ko")
	if err := os.WriteFile(plain, []byte("plain\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for ext, want := range map[string]string{
		"": "plain\n", ".xz": "from xz\n", ".gz": "gzip of tcp_diag.ko.gz\n",
		".zst": "zstd tcp_diag.ko.zst: exit status 1: zstd: unsupported format",
		".lz4": `module tcp_diag.ko.lz4 is compressed in a way that is not known here: ".lz4"`,
	} {
		raw, err := readModule(t.Context(), plain+ext, quiet)
		if got := string(raw); got != want && (err == nil || err.Error() != want) {
			t.Errorf("%q: %q, %v", ext, got, err)
		}
	}
}

// A folder in use is left alone; one of a run that was killed goes.
func TestScratch(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "build")
	first, remove, err := scratch(parent)
	if err != nil {
		t.Fatal(err)
	}
	killed := filepath.Join(parent, "build-0")
	if err := os.MkdirAll(filepath.Join(killed, "amd64"), 0o755); err != nil {
		t.Fatal(err)
	}
	second, removeSecond, err := scratch(parent)
	if err != nil {
		t.Fatal(err)
	}
	for dir, want := range map[string]bool{first: true, second: true, killed: false} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: %v", dir, err)
		}
	}
	remove()
	removeSecond()
	if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
