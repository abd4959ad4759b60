// SPDX-License-Identifier: Apache-2.0

package site

import (
	"path"
	"strings"

	"afterfin/internal/symbol"
)

// interpreters are programs that run scripts, and the libraries that they consist of; a
// version may follow.
var interpreters = map[string]string{"python": "Python", "ruby": "Ruby", "perl": "Perl", "php": "PHP", "node": "JavaScript"}

// interpreter names the language that a file interprets, empty if it is none that is known.
func interpreter(module string) string {
	name := strings.TrimPrefix(path.Base(module), "lib")
	end := strings.IndexAny(name, "0123456789.-")
	if end < 0 {
		end = len(name)
	}
	return interpreters[name[:end]]
}

// Interpreted names the language whose own lines these frames do not show: the program is an
// interpreter, and nothing tells where in the script it was. Empty for others. running: a
// perf map has named functions of the language's own library. So there is one, and the
// script's functions are not among the callers: Node connects when they have returned.
func (s *Site) Interpreted() (language string, running bool) {
	for i := range s.Frames {
		f := &s.Frames[i]
		if mapped := f.Module == "" && f.Quality >= symbol.Symbol; mapped {
			if !ofRuntime(f) {
				return "", true
			}
			running = true
		}
		if name := interpreter(f.Module); name != "" {
			language = name
		}
	}
	return language, running
}

// ofPython: Python's own library, in Python or in C. What is installed besides is in
// site-packages or dist-packages.
func ofPython(file string) bool {
	_, in, ok := strings.Cut(file, "/lib/python3")
	return ok && !strings.Contains(in, "-packages/")
}
