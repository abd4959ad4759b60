// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"afterfin/internal/specimen"
)

var deep = []string{"--deep"}

// Go keeps frame pointers, and its own table of lines: no closer look is needed to know the
// place of a connection, and no debug information.
func TestWhereGo(t *testing.T) {
	from := open(t, "testdata/where/where.go")
	for name, flags := range map[string]string{"where-go": "", "where-go-stripped": "-s -w"} {
		if err := goBuild(name, from.path, "-ldflags="+flags); err != nil {
			t.Fatal(err)
		}
		t.Run(name+"/connect", func(t *testing.T) {
			s := newWhereScene(t, "connect", nil, filepath.Join(built, name))
			s.leak()
			s.leak()
			at := s.place(func(at *madeAt) bool { return at.Count == 2 })
			at.check(t, "connect", from.at("main.dialOne", "// connects here"), from.at("main.main", "dialOne(address)"))
			if at.How != "frame_pointers" {
				t.Errorf("by %s", at.How)
			}
			s.textHas("where", "main.dialOne", "where/where.go:", "(2 of 2, connect)")
		})
		// Listeners of Go are MPTCP's where the kernel has that.
		t.Run(name+"/accept", func(t *testing.T) {
			s := newWhereScene(t, "accept", deep, filepath.Join(built, name))
			s.leakDeep().check(t, "accept", from.at("main.takeOne", "// accepts here"), from.at("main.main", "takeOne(l)"))
			s.textHas("where", "main.takeOne", "where/where.go:", "accept)")
		})
	}
}

// The names of C++ are written as in the source.
func TestWhereCXX(t *testing.T) {
	dir := t.TempDir()
	if err := specimen.BuildCXX(dir); err != nil {
		t.Fatal(err)
	}
	from := open(t, "../specimen/src/leak.cc")
	calls := []string{"connect(fd, ", "int fd = dial();", "client.get(line)", "billing::serve(client)"}
	var want []frame
	for i, function := range specimen.ChainCXX() {
		want = append(want, frame{Function: function, File: path.Join(specimen.SourceDir, "leak.cc"), Line: from.line(calls[i])})
	}
	s := newWhereScene(t, "connect", deep, filepath.Join(dir, specimen.CXX))
	at := s.leakDeep()
	at.check(t, "connect", want...)
	for i, w := range want {
		if f := at.Frames[*at.Named+i]; f.Function != w.Function || path.Base(f.Module) != specimen.CXX {
			t.Errorf("caller %d is %+v, want %+v", i, f, w)
		}
	}
	s.textHas("where", want[0].Function, "specimen/leak.cc:")
	s.textHas("←", want[1].Function, want[2].Function, want[3].Function)
}

// What Node needs to be told to name the functions of its script, those that are not
// compiled, too.
var nodeNames = []string{"--perf-basic-prof", "--interpreted-frames-native-stack"}

// node is started in a folder that is removed: told to name functions it writes a log there.
func node(t *testing.T, do string, flags ...string) *whereScene {
	t.Helper()
	command := append([]string{"env", "-C", t.TempDir(), installed["node"]}, flags...)
	return newWhereScene(t, do, deep, append(command, open(t, "testdata/where/where.js").path)...)
}

func ofScript(file string) bool { return strings.Contains(file, "testdata/where/") }

// A function of a script is named if it is among the callers, and Node is told to.
func TestWhereNode(t *testing.T) {
	t.Run("named", func(t *testing.T) {
		s := node(t, "lookup", nodeNames...)
		from := open(t, "testdata/where/where.js")
		s.leakDeep().check(t, "connect", from.at("lookup", "const lookup"), from.at("dialOne", "function dialOne"), from.at("serve", "function serve"))
		s.textHas("where", "lookup", "begins at where/where.js:")
	})
	t.Run("later", func(t *testing.T) {
		s := node(t, "connect", nodeNames...)
		if at := s.leakDeep(); at.Sure || at.hasFile(ofScript) || !at.hasFile(func(file string) bool { return strings.HasPrefix(file, "node:") }) {
			t.Errorf("not only node's own functions, or sure: %+v", at)
		}
		s.textHas("where", "no line of the JavaScript program called this")
	})
	t.Run("not told", func(t *testing.T) {
		s := node(t, "lookup")
		if at := s.leakDeep(); at.Sure || at.hasFile(func(file string) bool { return ofScript(file) || strings.HasPrefix(file, "node:") }) {
			t.Errorf("not only native functions, or sure: %+v", at)
		}
		s.textHas("where", "the line of the JavaScript program is not to be seen from outside")
	})
}

// Python's own frames are seen, and it is said that those of its program are not. Since 3.12
// it names the functions of its program, if it is told to; not their lines. Such a one is tried
// where it is at hand.
func TestWherePython(t *testing.T) {
	s := newWhereScene(t, "connect", deep, installed["python3"], "testdata/where/where.py")
	if at := s.leakDeep(); at.Sure || at.hasFile(func(file string) bool { return strings.HasSuffix(file, ".py") }) {
		t.Errorf("not only native functions, or sure: %+v", at)
	}
	s.textHas("where", "the line of the Python program is not to be seen from outside")

	python := withPerf()
	if python == "" {
		return
	}
	from := open(t, "testdata/where/where.py")
	s = newWhereScene(t, "connect", deep, python, "-X", "perf", from.path)
	s.leakDeep().check(t, "connect", frame{Function: "dial_one", File: from.path})
	s.textHas("where", "dial_one", "where/where.py")
}

// withPerf finds a Python that writes a perf map; empty if there is none.
func withPerf() string {
	for _, name := range []string{"python3", "python3.12", "python3.13", "python3.14"} {
		probe := exec.Command(name, "-c", `import sys; sys.activate_stack_trampoline("perf")`)
		if probe.Run() == nil {
			os.Remove(fmt.Sprintf("/tmp/perf-%d.map", probe.Process.Pid))
			return name
		}
	}
	return ""
}
