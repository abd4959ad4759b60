// SPDX-License-Identifier: Apache-2.0

// Package specimen builds C programs whose sockets are made through a chain of
// callers that is known, across a shared library and a callback. Tests compare
// with it the stack that a tracer reports.
package specimen

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed src
var sources embed.FS

// Library is the file name, and the soname, of the shared library.
const Library = "libours.so"

// CXX is the program that BuildCXX makes. Like leak-debug it has lines.
const CXX = "leak-cc"

// SourceDir is where the sources are by what the programs with lines say, wherever
// they were built: that is what makes them the same everywhere.
const SourceDir = "/specimen"

// programs are the C programs: name → how they are compiled.
var programs = map[string][]string{
	"leak-pie":   {"-fPIE", "-pie"},
	"leak-nopie": {"-fno-pie", "-no-pie"},
	"leak-debug": {"-g", "-fPIE", "-pie"},
	"leak-nofp":  {"-fomit-frame-pointer", "-fPIE", "-pie"}, // on arm64 -O2 keeps them
}

// Programs gives the file names of the C programs: one for each way to compile them.
func Programs() []string { return []string{"leak-pie", "leak-nopie", "leak-debug", "leak-nofp"} }

// Source is that of the C programs, without their library.
func Source() []byte {
	source, err := sources.ReadFile("src/leak.c")
	if err != nil {
		panic(err) // it is embedded
	}
	return source
}

// Chain gives the functions that call connect or accept (that is call) in a C program,
// innermost first.
func Chain(call string) []string {
	return []string{"ours_socket_" + call, "open_one", "ours_inner", "ours_repeat", "serve", "main"}
}

// InLibrary says whether a function of a Chain is in the Library, not in the program.
func InLibrary(function string) bool { return strings.HasPrefix(function, "ours_") }

// ChainCXX gives the functions that call connect in the C++ program, innermost first,
// without their parameters. All are in the program.
func ChainCXX() []string {
	return []string{"billing::Client::dial", "billing::Client::get", "billing::serve", "main"}
}

// Build compiles the C programs and their library into a folder, for this machine's or
// the other architecture. The same sources give the same bytes, in any folder. It takes
// root if the compiler has to be installed.
func Build(dir, goarch string) error {
	t, err := find(goarch)
	if err != nil {
		return err
	}
	if err := t.install(t.cc, t.packages...); err != nil {
		return err
	}
	if err := unpack(dir); err != nil {
		return err
	}
	if err := compile(dir, t.cc, "-shared", "-fPIC", "-Wl,-soname,"+Library, "-o", Library, "ours.c"); err != nil {
		return err
	}
	for _, name := range Programs() {
		args := append([]string{"-o", name, "leak.c", Library, "-Wl,-rpath,$ORIGIN"}, programs[name]...)
		if err := compile(dir, t.cc, args...); err != nil {
			return err
		}
	}
	return nil
}

// BuildCXX compiles the C++ program into a folder, for this machine only.
func BuildCXX(dir string) error {
	if err := native.install(native.cxx, "g++", "libc6-dev"); err != nil {
		return err
	}
	if err := unpack(dir); err != nil {
		return err
	}
	return compile(dir, native.cxx, "-g", "-o", CXX, "leak.cc")
}

// unpack writes the sources into a folder.
func unpack(dir string) error {
	src, err := fs.Sub(sources, "src")
	if err != nil {
		return err
	}
	return fs.WalkDir(src, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := fs.ReadFile(src, name)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name), raw, 0o644)
	})
}

// compile runs a compiler in a folder, as distributions do: optimized.
func compile(dir, compiler string, args ...string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	cmd := exec.Command(compiler, append([]string{"-O2", "-Wall", "-Wextra", "-Werror", "-ffile-prefix-map=" + dir + "=" + SourceDir}, args...)...)
	cmd.Dir = dir // the names in the programs are short then
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", compiler, strings.Join(args, " "), err, out)
	}
	return nil
}
