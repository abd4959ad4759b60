// SPDX-License-Identifier: Apache-2.0

package symbol

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// told is what the program in testdata/golang says of itself: the runtime's own
// answer for each address.
type told struct {
	PC       uint64
	Function string
	File     string
	Line     int
}

var goBuilds = map[string]struct {
	env   []string
	flags []string
}{
	"plain":        {[]string{"CGO_ENABLED=0"}, nil},
	"stripped":     {[]string{"CGO_ENABLED=0"}, []string{"-ldflags=-s -w"}},
	"pie":          {[]string{"CGO_ENABLED=0"}, []string{"-buildmode=pie"}},
	"pie stripped": {[]string{"CGO_ENABLED=0"}, []string{"-buildmode=pie", "-ldflags=-s -w"}},
	"external pie": {[]string{"CGO_ENABLED=1"}, []string{"-buildmode=pie", "-ldflags=-s -w -linkmode=external"}},
}

func buildGo(t *testing.T, env []string, flags ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "golang")
	run(t, env, "go", append(append([]string{"build", "-o", path}, flags...), "./testdata/golang")...)
	return path
}

// stackOf reads the stack that the program tells.
func stackOf(t *testing.T, p program) []told {
	t.Helper()
	line, err := p.output.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var stack []told
	if err := json.Unmarshal(line, &stack); err != nil {
		t.Fatal(err)
	}
	if len(stack) < 8 {
		t.Fatalf("stack %v", stack)
	}
	return stack
}

func TestGo(t *testing.T) {
	for name, build := range goBuilds {
		t.Run(name, func(t *testing.T) {
			p := start(t, "", buildGo(t, build.env, build.flags...))
			checkGo(t, p.pid, stackOf(t, p))
		})
	}
}

// checkGo compares every call, and those that it is inlined into, with what the
// runtime has for them.
func checkGo(t *testing.T, pid int, stack []told) {
	t.Helper()
	inlined := 0
	for i, want := range stack {
		frames := resolve(t, pid, 0, want.PC)[1:] // all of them are return addresses
		for j, f := range frames {
			want := stack[i+j]
			if f.Function != want.Function || f.File != want.File || f.Line != want.Line || f.Quality != Line || f.Note != "" {
				t.Errorf("frame %d.%d is %+v, want %+v", i, j, f, want)
			}
			if f.Inlined != (j < len(frames)-1) {
				t.Errorf("frame %d.%d of %d: inlined %v", i, j, len(frames), f.Inlined)
			}
			if f.Inlined {
				inlined++
			}
		}
	}
	if inlined < 3 { // two in get, and again from the call of the first one
		t.Errorf("%d inlined calls seen", inlined)
	}
}

func TestGoDeleted(t *testing.T) {
	path := buildGo(t, []string{"CGO_ENABLED=0"})
	p := start(t, "", path)
	stack := stackOf(t, p)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	checkGo(t, p.pid, stack)
	if err := os.WriteFile(path, []byte("another program"), 0o755); err != nil {
		t.Fatal(err)
	}
	checkGo(t, p.pid, stack)
}

func TestGoName(t *testing.T) {
	for name, want := range map[string]string{
		"main.main":                    "main.main",
		"main.f[go.shape.int]":         "main.f[...]",
		"main.(*t[go.shape.int]).get":  "main.(*t[...]).get",
		"main.f[go.shape.[]int].func1": "main.f[...].func1",
		"]main[":                       "]main[",
	} {
		if got := goName(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}
