// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// modules that a guest needs and distributions do not build in. In this order:
// the second needs the first.
var wantedModules = []string{"inet_diag", "tcp_diag"}

// unpack takes what a guest needs out of the packages in debs and leaves it in
// home, all or nothing.
func unpack(ctx context.Context, debs, home string) error {
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	root := filepath.Join(debs, "root")
	for _, f := range files {
		if err := command(ctx, "dpkg-deb", "-x", f, root); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(home), 0o755); err != nil {
		return err
	}
	part, err := os.MkdirTemp(filepath.Dir(home), ".part-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(part)
	if err := collect(ctx, root, part); err != nil {
		return err
	}
	return os.Rename(part, home)
}

// collect copies the kernel as vmlinuz, its name as release, and the modules
// uncompressed, which is what a kernel loads from a file.
func collect(ctx context.Context, root, part string) error {
	found := false
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := d.Name()
		switch {
		case strings.HasPrefix(name, "vmlinuz"):
			found = true
			release := strings.TrimPrefix(name, "vmlinuz-")
			if release == name { // /usr/lib/modules/RELEASE/vmlinuz
				release = filepath.Base(filepath.Dir(path))
			}
			if err := os.WriteFile(filepath.Join(part, "release"), []byte(release), 0o644); err != nil {
				return err
			}
			return os.Rename(path, filepath.Join(part, "vmlinuz"))
		case strings.Contains(path, "/kernel/"):
			for i, m := range wantedModules {
				if base, _, ok := strings.Cut(name, ".ko"); ok && base == m {
					return plainModule(ctx, path, filepath.Join(part, fmt.Sprintf("%d-%s.ko", i, m)))
				}
			}
		}
		return nil
	})
	if err == nil && !found {
		err = errors.New("no vmlinuz in them")
	}
	return err
}

func plainModule(ctx context.Context, path, to string) error {
	program := ""
	switch filepath.Ext(path) {
	case ".ko":
		return os.Rename(path, to)
	case ".xz":
		program = "xz"
	case ".zst":
		program = "zstd"
	default:
		return fmt.Errorf("cannot read %s", filepath.Base(path))
	}
	if err := need(ctx, program, map[string]string{"xz": "xz-utils", "zstd": "zstd"}[program]); err != nil {
		return err
	}
	raw, err := exec.CommandContext(ctx, program, "-dc", path).Output()
	if err != nil {
		return fmt.Errorf("%s %s: %w", program, filepath.Base(path), err)
	}
	return os.WriteFile(to, raw, 0o644)
}

// cached reads what unpack left; fs.ErrNotExist if there is nothing.
func cached(home string) (image, error) {
	release, err := os.ReadFile(filepath.Join(home, "release"))
	if err != nil {
		return image{}, err
	}
	modules, err := filepath.Glob(filepath.Join(home, "*.ko"))
	return image{path: filepath.Join(home, "vmlinuz"), release: string(release), modules: modules}, err
}

// need makes sure that a program is there: apt installs it if we are root.
func need(ctx context.Context, program, pkg string) error {
	if _, err := exec.LookPath(program); err == nil {
		return nil
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s is missing: sudo apt-get install %s", program, pkg)
	}
	if err := command(ctx, "apt-get", "update", "-qq"); err != nil {
		return err
	}
	return command(ctx, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", "--no-install-recommends", pkg)
}

func command(ctx context.Context, program string, args ...string) error {
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	return nil
}
