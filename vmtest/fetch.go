// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// keyring has the keys of the archive that the kernels come from.
const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// strictUpdate is an option of apt: an update that gets nothing fails. Otherwise it
// only warns, and the error is that there is no such package.
const strictUpdate = "APT::Update::Error-Mode=any"

// image is a kernel as a guest needs it.
type image struct {
	path    string   // of the kernel itself
	release string   // as the package names it
	modules []string // files to load, in this order
}

// fetch gives the kernel's image, from the user's cache if it is there: without
// it, apt gets the newest package of the suites, with sources and state of its
// own, so that the system's stay as they are.
func fetch(ctx context.Context, k *kernel, cache string, note noter) (image, error) {
	home := filepath.Join(cache, "kernels", k.name)
	if img, err := cached(home); err == nil {
		return img, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return image{}, err
	}
	note("%s: getting %s of %s", k.name, k.pkg, k.suites[0])
	work, err := privateApt(ctx, k.suites, k.arch, filepath.Join(cache, "apt", k.name))
	if err != nil {
		return image{}, err
	}
	defer os.RemoveAll(work.debs)
	names, err := work.closure(ctx, k.pkg)
	if err != nil {
		return image{}, err
	}
	if err := work.download(ctx, names); err != nil {
		return image{}, err
	}
	if err := unpack(ctx, work.debs, home, note); err != nil {
		return image{}, fmt.Errorf("unpack %s: %w", strings.Join(names, " "), err)
	}
	return cached(home)
}

// apt is apt with sources and state in a folder of ours.
type apt struct {
	options []string
	debs    string // where packages land, empty at first
}

// privateApt is one that knows what the suites have now.
func privateApt(ctx context.Context, suites []string, arch, dir string) (*apt, error) {
	if _, err := os.Stat(keyring); err != nil {
		return nil, fmt.Errorf("check signatures of %s: install debian-archive-keyring: %w", suites[0], err)
	}
	mirrors, err := systemMirrors(ctx)
	if err != nil {
		return nil, err
	}
	var list strings.Builder
	for _, suite := range suites {
		uri := mirrors["Debian"]
		if strings.HasSuffix(suite, "-security") {
			uri = mirrors["Debian-Security"]
		}
		if uri == "" {
			continue // a mirror without the security archive: the release's kernel then
		}
		fmt.Fprintf(&list, "deb [arch=%s signed-by=%s] %s %s main\n", arch, keyring, uri, suite)
	}
	if mirrors["Debian"] == "" {
		return nil, errors.New("apt of this machine knows no Debian mirror: run apt-get update on Debian, or give a kernel with --kernel")
	}
	a := &apt{debs: filepath.Join(dir, "debs")}
	if err := os.RemoveAll(a.debs); err != nil {
		return nil, err
	}
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial", "debs"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	sources := filepath.Join(dir, "sources.list")
	if err := os.WriteFile(sources, []byte(list.String()), 0o644); err != nil {
		return nil, err
	}
	for _, option := range []string{
		"Dir::Etc::sourcelist=" + sources, "Dir::Etc::sourceparts=/dev/null",
		"Dir::Etc::preferences=/dev/null", "Dir::Etc::preferencesparts=/dev/null",
		"Dir::State=" + filepath.Join(dir, "state"), "Dir::State::status=/dev/null",
		"Dir::Cache=" + filepath.Join(dir, "cache"),
		"APT::Architecture=" + arch, "APT::Architectures::=" + arch,
		"APT::Sandbox::User=root", "Acquire::Languages=none", strictUpdate,
	} {
		a.options = append(a.options, "-o", option)
	}
	_, err = a.run(ctx, "apt-get", "update", "-qq")
	return a, err
}

func (a *apt) download(ctx context.Context, names []string) error {
	_, err := a.run(ctx, "apt-get", append([]string{"download", "-qq"}, names...)...)
	return err
}

func (a *apt) run(ctx context.Context, program string, args ...string) (string, error) {
	cmd := tool(ctx, program, append(slices.Clone(a.options), args...)...)
	cmd.Dir = a.debs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", program, args[0], explain(err))
	}
	return string(out), nil
}

// dependsOn finds the packages that have parts of a kernel. From 7.x on image and
// modules are packages of their own.
var dependsOn = regexp.MustCompile(`(?m)^ *\|?Depends: (linux-(?:image|binary|modules)-\S+)`)

// closure follows the dependencies of a package as far as they are parts of the
// kernel.
func (a *apt) closure(ctx context.Context, pkg string) ([]string, error) {
	var names []string
	for todo := []string{pkg}; len(todo) > 0; todo = todo[1:] {
		out, err := a.run(ctx, "apt-cache", "depends", todo[0])
		if err != nil {
			return nil, err
		}
		for _, m := range dependsOn.FindAllStringSubmatch(out, -1) {
			if strings.Contains(m[1], "-cloud-") && !slices.Contains(names, m[1]) && regexp.MustCompile(`\d`).MatchString(strings.SplitN(m[1], "-cloud-", 2)[0]) {
				names, todo = append(names, m[1]), append(todo, m[1])
			}
		}
	}
	if names == nil {
		return nil, fmt.Errorf("%s depends on no kernel", pkg)
	}
	return names, nil
}

// systemMirrors gives the URI that this machine's apt uses, by the label of the
// archive.
func systemMirrors(ctx context.Context) (map[string]string, error) {
	out, err := tool(ctx, "apt-get", "indextargets", "--format", "$(LABEL)\t$(REPO_URI)", "Origin: Debian").Output()
	if err != nil {
		return nil, fmt.Errorf("ask apt for its mirror: %w", explain(err))
	}
	mirrors := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		label, uri, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if mirrors[label] == "" {
			mirrors[label] = uri
		}
	}
	return mirrors, nil
}
