// SPDX-License-Identifier: Apache-2.0

package specimen

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"afterfin/internal/debian"
)

// toolchain compiles for one architecture.
type toolchain struct {
	cc, cxx  string   // cxx: of this machine's own only
	packages []string // of Debian: cc, and what it links with
	loader   string   // what the programs name as their interpreter
	libc     string   // where that looks for libc without any configuration
}

// native is the toolchain for this machine's architecture.
var native = toolchain{cc: "gcc", cxx: "g++", packages: []string{"gcc", "libc6-dev"}}

// cross are the toolchains for another architecture than this machine's.
var cross = map[string]toolchain{
	"amd64": {cc: "x86_64-linux-gnu-gcc", packages: []string{"gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"}},
	"arm64": {cc: "aarch64-linux-gnu-gcc", packages: []string{"gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"}},
}

// find gives the toolchain for an architecture.
func find(goarch string) (toolchain, error) {
	t, ok := cross[goarch]
	if !ok {
		return toolchain{}, fmt.Errorf("no programs for %s", goarch)
	}
	if goarch == runtime.GOARCH {
		t = native
	}
	switch goarch {
	case "amd64":
		t.loader, t.libc = "/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"
	case "arm64":
		t.loader, t.libc = "/lib/ld-linux-aarch64.so.1", "/lib/aarch64-linux-gnu/libc.so.6"
	}
	return t, nil
}

// install makes sure of a compiler, and of the C library that it links with.
func (t *toolchain) install(compiler string, packages ...string) error {
	if _, err := exec.LookPath(compiler); err == nil {
		if _, err := fileOf(compiler, "crt1.o"); err == nil {
			return nil
		}
	}
	if err := debian.Install(packages...); err != nil {
		return fmt.Errorf("install %s: %w", strings.Join(packages, " "), err)
	}
	return nil
}

// fileOf gives where a compiler has a file that it links with, without symbolic links.
func fileOf(compiler, name string) (string, error) {
	out, err := exec.Command(compiler, "-print-file-name="+name).Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for %s: %w", compiler, name, err)
	}
	file := strings.TrimSpace(string(out))
	if !filepath.IsAbs(file) { // it repeats the name of what it does not have
		return "", fmt.Errorf("%s has no %s", compiler, name)
	}
	return filepath.EvalSymlinks(file)
}

// Runtime gives what a machine needs beside the C programs and their library to run
// them: path there → file here. It takes root if the compiler has to be installed.
func Runtime(goarch string) (map[string]string, error) {
	t, err := find(goarch)
	if err != nil {
		return nil, err
	}
	if err := t.install(t.cc, t.packages...); err != nil {
		return nil, err
	}
	files := make(map[string]string)
	for _, target := range []string{t.loader, t.libc} {
		// They come from where the linker takes them, so that the versions fit.
		if files[target], err = fileOf(t.cc, filepath.Base(target)); err != nil {
			return nil, err
		}
	}
	return files, nil
}
