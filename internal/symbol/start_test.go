// SPDX-License-Identifier: Apache-2.0

package symbol

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// program is a process that has told its addresses and waits until the test ends.
type program struct {
	pid    int
	output *bufio.Reader
}

// start runs a program; if a root is given, below that and in a pid namespace of its
// own, as in a container.
func start(t *testing.T, root, path string) program {
	t.Helper()
	cmd := exec.Command(path)
	cmd.Stderr = os.Stderr
	if root != "" {
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Cloneflags: syscall.CLONE_NEWPID}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	})
	return program{cmd.Process.Pid, bufio.NewReader(out)}
}

// resolve names addresses of a process with a fresh Resolver.
func resolve(t *testing.T, pid int, addresses ...uint64) []Frame {
	t.Helper()
	r := New()
	defer r.Close()
	return resolveWith(t, r, pid, addresses...)
}

func resolveWith(t *testing.T, r *Resolver, pid int, addresses ...uint64) []Frame {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	frames, err := r.Resolve(ctx, pid, addresses)
	if err != nil {
		t.Fatal(err)
	}
	return frames
}

// run runs a tool of the build.
func run(t testing.TB, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// gcc compiles the C program.
func gcc(t testing.TB, flags ...string) string {
	t.Helper()
	return compile(t, "site.c", flags...)
}

func compile(t testing.TB, source string, flags ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "site")
	run(t, nil, "gcc", append(flags, "-O2", "-o", path, "testdata/"+source)...)
	return path
}
