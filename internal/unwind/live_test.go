// SPDX-License-Identifier: Apache-2.0

package unwind

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"afterfin/internal/debian"
)

// programs are built once.
var programs struct{ dir, pie, fixed, mixed, golang string }

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "afterfin-unwind-")
		if err == nil {
			defer os.RemoveAll(dir)
			err = build(dir)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// build compiles the programs as distributions do: optimized, without frame pointers.
func build(dir string) error {
	if _, err := exec.LookPath("gcc"); err != nil {
		if err := debian.Install("gcc", "libc6-dev"); err != nil {
			return err
		}
	}
	p := &programs
	p.dir, p.pie, p.fixed = dir, filepath.Join(dir, "pie"), filepath.Join(dir, "fixed")
	p.mixed, p.golang = filepath.Join(dir, "mixed"), filepath.Join(dir, "golang")
	library, without := filepath.Join(dir, "library.so"), filepath.Join(dir, "without.so")
	link := []string{"gcc", "testdata/chain.c", "-Wl,-rpath," + dir, "-Wl,-z,lazy", "-pthread"}
	for _, args := range [][]string{
		{"gcc", "-O2", "-shared", "-fPIC", "-o", library, "testdata/library.c"},
		{"gcc", "-O2", "-shared", "-fPIC", "-fno-asynchronous-unwind-tables", "-fno-omit-frame-pointer", "-o", without, "testdata/library.c"},
		append(link, library, "-O2", "-fPIE", "-pie", "-o", p.pie),
		append(link, library, "-O2", "-fno-pie", "-no-pie", "-o", p.fixed),
		append(link, without, "-O2", "-fPIE", "-pie", "-o", p.mixed),
		{"go", "build", "-o", p.golang, "testdata/sleeper.go"},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", args[0], err, out)
		}
	}
	return nil
}

// start runs a program until it blocks: its process and the blocked thread.
func start(t testing.TB, path string, args ...string) (*process, int) {
	t.Helper()
	cmd := exec.Command(path, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	tid := blocked(t, cmd.Process.Pid)
	return open(t, cmd.Process.Pid), tid
}

// chain unwinds a blocked thread.
func chain(t testing.TB, p *process, tid int) ([]Frame, Stop) {
	t.Helper()
	regs := stopped(t, tid)
	return Unwind(regs, p.stack(t, regs, slice), p.modules)
}

var outermost = []string{"main", "libc.so.6", "libc.so.6", "_start"}

func TestLive(t *testing.T) {
	for _, test := range []struct {
		argument string
		want     []string
		exact    []int // besides the innermost
		stop     Stop
	}{
		{"library", append([]string{"libc.so.6", "block_accept", "first", "second", "inner", "through_library"}, outermost...), nil, End},
		{"variable", append([]string{"libc.so.6", "block_read", "variable", "aligned"}, outermost...), nil, End},
		{"fault", append([]string{"libc.so.6", "block_read", "handler", "libc.so.6", "fault"}, outermost...), []int{4}, End},
		{"signal", append([]string{"libc.so.6", "block_read", "handler", "libc.so.6", "spin"}, outermost...), []int{4}, End},
		{"thread", []string{"libc.so.6", "block_read", "thread", "libc.so.6", "libc.so.6"}, nil, End},
	} {
		for _, program := range []string{programs.pie, programs.fixed} {
			t.Run(test.argument+"/"+filepath.Base(program), func(t *testing.T) {
				p, tid := start(t, program, test.argument)
				frames, stop := chain(t, p, tid)
				names := p.names(frames)
				if test.argument == "signal" { // raise has inner functions, more or fewer
					names = slices.Compact(names)
					test.want = slices.Compact(slices.Clone(test.want))
				}
				if !slices.Equal(names, test.want) || stop != test.stop {
					t.Fatalf("got %q, %v\nwant %q, %v", names, stop, test.want, test.stop)
				}
				for i, f := range frames {
					if want := i == 0 || slices.Contains(test.exact, i); f.Exact != want {
						t.Errorf("frame %d (%s): exact is %v, want %v", i, p.name(f.Site()), f.Exact, want)
					}
					if want := FromTable; i > 0 && f.How != want {
						t.Errorf("frame %d (%s): found by %v, want %v", i, p.name(f.Site()), f.How, want)
					}
				}
			})
		}
	}
}

// A library that keeps frame pointers and has no tables, among code that has tables and
// keeps no frame pointers.
func TestMixed(t *testing.T) {
	p, tid := start(t, programs.mixed, "library")
	frames, stop := chain(t, p, tid)
	want := append([]string{"libc.so.6", "block_accept", "first", "second", "inner", "through_library"}, outermost...)
	if names := p.names(frames); !slices.Equal(names, want) || stop != End {
		t.Fatalf("got %q, %v, want %q", names, stop, want)
	}
	for i, f := range frames[1:] {
		how := FromTable
		if i >= 4 && i < 6 { // those that inner and through_library return to
			how = FromFramePointer
		}
		if f.How != how {
			t.Errorf("%s: found by %v, want %v", want[i+1], f.How, how)
		}
	}
}

// A recursion that the copy of the stack does not hold must be said to be cut, and the
// frames that it does hold must all be there.
func TestTruncated(t *testing.T) {
	p, tid := start(t, programs.pie, "deep")
	regs := stopped(t, tid)
	for _, size := range []int{16, 512, 4096, slice} {
		stack := p.stack(t, regs, size)
		frames, stop := Unwind(regs, stack, p.modules)
		if stop != Truncated {
			t.Errorf("%d bytes: %d frames, %v", size, len(frames), stop)
		}
		// Each return address in the copy that is right behind the call in deep is a frame.
		want := 0
		for i := 2; i < len(frames); i++ {
			if name := p.name(frames[i].Site()); name != "deep" {
				t.Errorf("%d bytes: frame %d is %s", size, i, name)
			}
		}
		if size >= 4096 && len(frames) < size/512 {
			t.Errorf("%d bytes: only %d frames", size, len(frames))
		}
		if len(frames) > 3 {
			for at := stack.Base; at < stack.Base+uint64(len(stack.Bytes)); at += 8 {
				if v, ok := stack.Read8(at); ok && v == frames[3].PC {
					want++
				}
			}
			if got := len(frames) - 3; got != want {
				t.Errorf("%d bytes: %d calls of deep by itself, want %d", size, got, want)
			}
		}
	}
}

func TestLimit(t *testing.T) {
	p, tid := start(t, programs.pie, "many")
	frames, stop := chain(t, p, tid)
	if len(frames) != MaxFrames || stop != Limit {
		t.Errorf("%d frames, %v", len(frames), stop)
	}
}

func TestGo(t *testing.T) {
	p, tid := start(t, programs.golang)
	frames, stop := chain(t, p, tid)
	names := p.names(frames)
	// The frameless function around the system call instruction hides its caller.
	want := []string{"main.innermost", "main.middle", "main.main", "runtime.main"}
	at := slices.Index(names, want[0])
	if at < 0 || len(names) < at+4 || !slices.Equal(names[at:at+4], want) || stop != End {
		t.Errorf("got %q, %v", names, stop)
	}
	for i, f := range frames[1:] {
		if f.How != FromFramePointer {
			t.Errorf("frame %d: found by %v", i+1, f.How)
		}
	}
}
