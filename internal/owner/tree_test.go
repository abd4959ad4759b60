// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// fakeProc has only what Tree reads.
type fakeProc struct {
	t   *testing.T
	dir string
}

func (f fakeProc) set(pid, parent int, start time.Duration, state string) {
	f.t.Helper()
	dir := filepath.Join(f.dir, fmt.Sprint(pid))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		f.t.Fatal(err)
	}
	text := fmt.Sprintf("%d (a) b (c) %s %d 1 1 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 %d 0 0\n", pid, state, parent, start/ClockTick)
	if err := os.WriteFile(filepath.Join(dir, "stat"), []byte(text), 0o644); err != nil {
		f.t.Fatal(err)
	}
}

func (f fakeProc) end(pid int) {
	f.t.Helper()
	if err := os.RemoveAll(filepath.Join(f.dir, fmt.Sprint(pid))); err != nil {
		f.t.Fatal(err)
	}
}

func TestTree(t *testing.T) {
	f := fakeProc{t, t.TempDir()}
	const s = time.Second
	for _, p := range []struct {
		pid, parent int
		start       time.Duration
	}{{1, 0, 0}, {50, 1, 1 * s}, {100, 50, 2 * s}, {101, 100, 3 * s}, {102, 101, 4 * s}, {103, 102, 5 * s}, {200, 50, 6 * s}, {201, 1, 7 * s}} {
		f.set(p.pid, p.parent, p.start, "S")
	}
	tree := newTree(100, newFinder(f.dir, "/"))
	expect := func(pid int, start time.Duration, want Place) {
		t.Helper()
		if got, _ := tree.Place(pid, start); got != want {
			t.Errorf("process %d from %v: %d, want %d", pid, start, got, want)
		}
	}
	expect(103, 5*s+ClockTick-1, Inside) // in ns, as BPF tells it
	expect(101, 3*s, Inside)
	expect(100, 2*s, Outside) // the root itself
	expect(50, 1*s, Outside)
	expect(1, 0, Outside)
	expect(200, 6*s, Outside)
	expect(201, 7*s, Outside)
	expect(103, 9*s, Gone) // the number was given away, or will be
	expect(999, 1*s, Gone)

	// What was seen once is known for good, under its own start only.
	f.end(103)
	expect(103, 5*s, Inside)
	f.set(103, 50, 20*s, "S")
	expect(103, 5*s, Inside)
	expect(103, 20*s, Outside)

	// Adopted by the root; ended, and not reaped.
	f.set(104, 100, 8*s, "Z")
	if err := tree.Note(104); err != nil {
		t.Error(err)
	}
	if tree.Alive(104, 8*s) {
		t.Error("a zombie is alive")
	}
	f.end(104)
	expect(104, 8*s, Inside)
	if err := tree.Note(104); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a process that is gone: %v", err)
	}
	if !tree.Alive(101, 3*s+1) || tree.Alive(101, 4*s) || tree.Alive(999, 1*s) {
		t.Error("Alive goes by pid and start")
	}

	// An ancestor that is gone for good leaves nothing to say.
	f.set(301, 300, 9*s, "S")
	expect(301, 9*s, Gone)
}

// The real /proc: this process descends from its parent.
func TestTreeOfTheLiving(t *testing.T) {
	own, err := ProcessOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	place, p := NewTree(os.Getppid()).Place(own.PID, own.Start)
	if place != Inside || p == nil || p.PID != own.PID || p.Comm != own.Comm {
		t.Errorf("%d %+v", place, p)
	}
	if place, _ := NewTree(own.PID).Place(own.PID, own.Start); place != Outside {
		t.Errorf("the root is %d of itself", place)
	}
}
