// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"afterfin/internal/specimen"
	"afterfin/vmtest/guest"
)

// builder makes the binaries that run in guests, once for each architecture.
type builder struct {
	module string // root of the source
	dir    string // for what is built
	note   noter
}

// scratch makes a folder in parent for what this run builds, and removes those
// of runs that were killed: whoever uses one holds its lock.
func scratch(parent string) (dir string, remove func(), err error) {
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", nil, err
	}
	making, err := lock(parent, unix.LOCK_EX) // nobody takes a new folder for an old one
	if err != nil {
		return "", nil, err
	}
	defer making.Close()
	old, err := filepath.Glob(filepath.Join(parent, "build-*"))
	if err != nil {
		return "", nil, err
	}
	for _, dir := range old {
		if unused, err := lock(dir, unix.LOCK_EX|unix.LOCK_NB); err == nil {
			os.RemoveAll(dir)
			unused.Close()
		}
	}
	if dir, err = os.MkdirTemp(parent, "build-"); err != nil {
		return "", nil, err
	}
	used, err := lock(dir, unix.LOCK_EX)
	if err != nil {
		return "", nil, err
	}
	return dir, func() { os.RemoveAll(dir); used.Close() }, nil
}

// lock holds a folder until the file is closed, or its process ends.
func lock(dir string, how int) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// binaries of one architecture.
type binaries struct {
	init      []byte
	tests     map[string][]byte // by package
	specimens tree              // the C programs, and what they need to run
}

// build compiles init, the tests of the packages and the C programs. The same source
// gives the same bytes.
func (b *builder) build(ctx context.Context, arch string) (*binaries, error) {
	dir := filepath.Join(b.dir, arch)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	out := &binaries{tests: make(map[string][]byte)}
	flags := []string{"-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid="}
	var err error
	if out.init, err = b.compile(ctx, arch, dir, "init", append(append([]string{"build"}, flags...), "./vmtest/init")); err != nil {
		return nil, err
	}
	for _, pkg := range packages {
		name := strings.ReplaceAll(pkg, "/", "_") + ".test"
		out.tests[pkg], err = b.compile(ctx, arch, dir, name, append(append([]string{"test", "-c"}, flags...), "./"+pkg))
		if err != nil {
			return nil, err
		}
	}
	if out.specimens, err = specimens(filepath.Join(dir, "specimen"), arch); err != nil {
		return nil, err
	}
	return out, nil
}

// specimens builds the C programs in a folder, and gives what a guest gets of them: no
// compiler is there. The loader and libc are of the machine that compiled them.
func specimens(dir, arch string) (tree, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := specimen.Build(dir, arch); err != nil {
		return nil, fmt.Errorf("build the C programs for %s: %w", arch, err)
	}
	files, err := specimen.Runtime(arch)
	if err != nil {
		return nil, fmt.Errorf("run the C programs for %s: %w", arch, err)
	}
	for _, name := range append(specimen.Programs(), specimen.Library) {
		files[path.Join(specimenDir, name)] = filepath.Join(dir, name)
	}
	content := make(tree)
	for at, file := range files {
		if content[at], err = os.ReadFile(file); err != nil {
			return nil, err
		}
	}
	return content, nil
}

func (b *builder) compile(ctx context.Context, arch, dir, name string, args []string) ([]byte, error) {
	file := filepath.Join(dir, name)
	last := len(args) - 1
	args = append(append(append([]string{}, args[:last]...), "-o", file), args[last])
	cmd := tool(ctx, "go", args...)
	cmd.Dir = b.module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOTMPDIR="+b.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build %s for %s: %w\n%s", name, arch, err, out)
	}
	return os.ReadFile(file)
}

// list gives the names of a package's tests, from the binary for this machine.
func (b *builder) list(ctx context.Context, pkg string) ([]string, error) {
	file := filepath.Join(b.dir, runtime.GOARCH, strings.ReplaceAll(pkg, "/", "_")+".test")
	cmd := tool(ctx, file, "-test.list", "^Test")
	cmd.Dir = filepath.Join(b.module, pkg)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list tests of %s: %w", pkg, explain(err))
	}
	return strings.Fields(string(out)), nil
}

// job is what one guest is to do, and the tests that it must tell of.
type job struct {
	kernel  *kernel
	lane    *lane
	image   image
	qemu    []string // and its first arguments
	initrd  []byte
	expects map[string][]string // test names by package
}

// count gives the number of tests that a guest must tell of.
func (j *job) count() (n int) {
	for _, names := range j.expects {
		n += len(names)
	}
	return n
}

// pack makes the initramfs of a job, unless no test is to run in it. pattern is the
// user's --run.
func (b *builder) pack(ctx context.Context, j *job, bin *binaries, pattern string) error {
	content := tree{"/init": bin.init}
	maps.Copy(content, bin.specimens)
	var plan guest.Plan
	for _, m := range j.image.modules {
		raw, err := readModule(ctx, m, b.note)
		if err != nil {
			return err
		}
		base, _, _ := strings.Cut(filepath.Base(m), ".ko")
		at := "/modules/" + base + ".ko"
		content[at] = raw
		plan.Modules = append(plan.Modules, at)
	}
	j.expects = make(map[string][]string)
	for _, pkg := range j.kernel.tested() {
		names, err := b.list(ctx, pkg)
		if err != nil {
			return err
		}
		patterns := []string{j.kernel.only(pkg), pattern}
		if names, err = selected(names, patterns, j.skip(pattern)); err != nil {
			return err
		}
		if len(names) == 0 {
			continue
		}
		j.expects[pkg] = names
		dir := "/tests/" + pkg
		content[dir+"/test"] = bin.tests[pkg]
		if err := addTestdata(content, filepath.Join(b.module, pkg), dir); err != nil {
			return err
		}
		plan.Runs = append(plan.Runs, guest.Run{
			Name: pkg, Dir: dir, Env: j.kernel.guestEnv(j.lane),
			// test2json marks result lines, so that a test cannot print one.
			Args: []string{"-test.v=test2json", "-test.timeout=20m", "-test.run=" + subtests(names, pattern)},
		})
	}
	if len(plan.Runs) == 0 {
		return nil
	}
	raw, err := json.Marshal(plan)
	if err != nil {
		return err
	}
	content[guest.PlanFile] = raw
	j.initrd = content.pack()
	return nil
}

// selected keeps the names that match each pattern (up to its first slash) and
// not skip.
func selected(names, patterns []string, skip string) ([]string, error) {
	var keep []string
	for _, name := range names {
		ok := skip == "" || !regexp.MustCompile(skip).MatchString(name)
		for _, p := range patterns {
			top, _, _ := strings.Cut(p, "/")
			re, err := regexp.Compile(top)
			if err != nil {
				return nil, fmt.Errorf("--run: %w", err)
			}
			ok = ok && re.MatchString(name)
		}
		if ok {
			keep = append(keep, name)
		}
	}
	return keep, nil
}

// subtests is the -test.run for exactly these tests, and the part of the user's
// pattern that is about subtests.
func subtests(names []string, pattern string) string {
	run := "^(" + strings.Join(names, "|") + ")$"
	if _, below, ok := strings.Cut(pattern, "/"); ok {
		run += "/" + below
	}
	return run
}

func addTestdata(content tree, from, to string) error {
	root := filepath.Join(from, "testdata")
	if _, err := os.Stat(root); os.IsNotExist(err) {
		return nil
	}
	return filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, file)
		content[path.Join(to, filepath.ToSlash(rel))] = raw
		return err
	})
}
