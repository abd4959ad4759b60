// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// source is a file that is known to the line.
type source struct {
	*testing.T
	path  string // absolute
	lines []string
}

func open(t *testing.T, path string) *source {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if path, err = filepath.Abs(path); err != nil {
		t.Fatal(err)
	}
	return &source{t, path, strings.Split(string(raw), "\n")}
}

// line is the number of the only line that has this in it.
func (s *source) line(marker string) (number int) {
	s.Helper()
	for i, line := range s.lines {
		if strings.Contains(line, marker) {
			if number != 0 {
				s.Fatalf("%q is in lines %d and %d of %s", marker, number, i+1, s.path)
			}
			number = i + 1
		}
	}
	if number == 0 {
		s.Fatalf("%q is not in %s", marker, s.path)
	}
	return number
}

// at is a call, as a frame names it.
func (s *source) at(function, marker string) frame {
	s.Helper()
	return frame{Function: function, File: s.path, Line: s.line(marker)}
}

// check wants these callers, from the named frame on; frames of others may lie between.
func (m *madeAt) check(t *testing.T, call string, want ...frame) {
	t.Helper()
	if m.Call != call || !m.Sure || m.Named == nil {
		t.Fatalf("%s, sure %v, named %v; want a %s that is sure: %+v", m.Call, m.Sure, m.Named, call, m.Frames)
	}
	rest := m.Frames[*m.Named:]
	for i, w := range want {
		for {
			if len(rest) == 0 {
				t.Fatalf("no %+v in its place in %+v", w, m.Frames[*m.Named:])
			}
			f := rest[0]
			rest = rest[1:]
			if f.Function == w.Function && f.File == w.File && f.Line == w.Line {
				break
			}
			if i == 0 {
				t.Fatalf("%+v is named, want %+v", f, w)
			}
		}
	}
}

// hasFile: is a file of such a name among the frames?
func (m *madeAt) hasFile(like func(file string) bool) bool {
	for _, f := range m.Frames {
		if like(f.File) {
			return true
		}
	}
	return false
}
