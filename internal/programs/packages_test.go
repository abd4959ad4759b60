// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"afterfin/internal/debian"
)

// needed is a program and the packages of Debian that it takes.
type needed struct {
	program  string
	packages []string
}

// tools are installed where they are missing.
var tools = []needed{
	{"/usr/bin/python3", []string{"python3"}},
	{"/usr/bin/node", []string{"nodejs"}},
	{"/usr/bin/gcc", []string{"gcc", "libc6-dev"}},
	{"/usr/bin/ss", []string{"iproute2"}},
	{"/usr/bin/curl", []string{"curl"}},
	{"/usr/bin/systemd-analyze", []string{"systemd"}}, // which does not become the init of this machine by that
}

// servers are not installed where they are missing, for that would also start them,
// now and at every boot. Their packages are unpacked into a folder in the user's cache.
var servers = []needed{
	{"/usr/bin/redis-server", []string{"redis-server"}},
	{"/usr/sbin/nginx", []string{"nginx"}},
	{"/usr/bin/prometheus", []string{"prometheus"}},
	{"/usr/bin/promtool", []string{"prometheus"}},
}

// fromDebian finds or fetches all of them: where they are, and the environment that
// the servers run in.
func fromDebian() (paths map[string]string, env []string, err error) {
	paths = make(map[string]string)
	if missing := find(tools, "/", paths); missing != nil {
		note("installing %s", strings.Join(missing, " "))
		if err := debian.Install(missing...); err != nil {
			return nil, nil, err
		}
	}
	if find(servers, "/", paths) == nil {
		return paths, os.Environ(), nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, nil, err
	}
	root := filepath.Join(cache, "afterfin", "programs")
	if find(servers, root, paths) != nil {
		all := find(servers, "/nowhere", make(map[string]string)) // what is there goes first
		note("unpacking %s into %s", strings.Join(all, " "), root)
		if err := unpack(all, root); err != nil {
			return nil, nil, err
		}
	}
	libraries, err := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu"))
	return paths, append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(libraries, ":")), err
}

// find notes where programs are and gives the packages of those that are not there.
func find(list []needed, root string, paths map[string]string) (missing []string) {
	for _, n := range list {
		path := filepath.Join(root, n.program)
		if _, err := os.Stat(path); err != nil {
			missing = append(missing, n.packages...)
		}
		paths[filepath.Base(path)] = path
	}
	return missing
}

// unpack fetches packages, and those that they depend on and this machine lacks, and
// puts their files into root, all or nothing. No script of theirs is run.
func unpack(packages []string, root string) error {
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(root), 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(root), "debs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Mkdir(filepath.Join(dir, "partial"), 0o755); err != nil {
		return err
	}
	args := append(packages, "-y", "--download-only", "-o", "Dir::Cache::archives="+dir, "-o", "APT::Sandbox::User=root")
	if err := debian.Apt("install", args...); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	part := filepath.Join(dir, "root")
	for _, deb := range debs {
		if err := debian.Run("dpkg-deb", "-x", deb, part); err != nil {
			return err
		}
	}
	return os.Rename(part, root)
}

// note says what takes a while.
func note(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
