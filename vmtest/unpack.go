// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// modules that a guest needs and distributions do not build in. The second needs
// the first, and is behind it in the alphabet too.
var wantedModules = []string{"inet_diag", "tcp_diag"}

// isWanted tells by the name of a module's file, compressed or not.
func isWanted(name string) bool {
	base, _, ok := strings.Cut(name, ".ko")
	return ok && slices.Contains(wantedModules, base)
}

// unpack takes what a guest needs out of the packages in debs and leaves it in
// home, all or nothing.
func unpack(ctx context.Context, debs, home string, note noter) error {
	root, err := extract(ctx, debs)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(home), 0o755); err != nil {
		return err
	}
	part := filepath.Join(debs, "part")
	if err := os.Mkdir(part, 0o755); err != nil {
		return err
	}
	if err := collect(ctx, root, part, note); err != nil {
		return err
	}
	return os.Rename(part, home)
}

// extract gives the folder that has what is in the packages in debs.
func extract(ctx context.Context, debs string) (root string, err error) {
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return "", err
	}
	root = filepath.Join(debs, "root")
	for _, f := range files {
		if err := command(ctx, "dpkg-deb", "-x", f, root); err != nil {
			return "", err
		}
	}
	return root, nil
}

// collect copies the kernel as vmlinuz, its name as release, and the modules
// uncompressed, which is what a kernel loads from a file.
func collect(ctx context.Context, root, part string, note noter) error {
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
		case strings.Contains(path, "/kernel/") && isWanted(name):
			raw, err := readModule(ctx, path, note)
			if err != nil {
				return err
			}
			base, _, _ := strings.Cut(name, ".ko")
			return os.WriteFile(filepath.Join(part, base+".ko"), raw, 0o644)
		}
		return nil
	})
	if err == nil && !found {
		err = errors.New("no vmlinuz in them")
	}
	return err
}

// readModule gives a module as the kernel loads it, uncompressed.
func readModule(ctx context.Context, path string, note noter) ([]byte, error) {
	ext := filepath.Ext(path)
	if ext == ".ko" {
		return os.ReadFile(path)
	}
	packer, ok := map[string]struct{ program, pkg string }{
		".xz": {"xz", "xz-utils"}, ".zst": {"zstd", "zstd"}, ".gz": {"gzip", "gzip"},
	}[ext]
	if !ok {
		return nil, fmt.Errorf("module %s is compressed in a way that is not known here: %q", filepath.Base(path), ext)
	}
	if err := need(ctx, packer.program, packer.pkg, note); err != nil {
		return nil, err
	}
	raw, err := tool(ctx, packer.program, "-dc", path).Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", packer.program, filepath.Base(path), explain(err))
	}
	return raw, nil
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
