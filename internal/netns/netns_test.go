// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSelf(t *testing.T) {
	inode, err := Self()
	if want := statInode(t, "/proc/self/ns/net"); err != nil || inode != want {
		t.Errorf("Self() = %d, %v; want %d", inode, err, want)
	}
}

func TestList(t *testing.T) {
	fresh, _ := hold(t)
	own, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	found, _, err := List()
	if err != nil {
		t.Fatal(err)
	}
	for i, ns := range found {
		if i > 0 && found[i-1].Inode >= ns.Inode {
			t.Errorf("%v after %v", ns, found[i-1])
		}
		// Processes of other users may end at any time; ours do not.
		if ns.Inode == own || ns.Inode == fresh.Inode {
			if got := statInode(t, ns.Path); got != ns.Inode {
				t.Errorf("%v leads to %d", ns, got)
			}
		}
	}
	if !slices.Contains(found, fresh) || !slices.ContainsFunc(found, func(ns NS) bool { return ns.Inode == own }) {
		t.Errorf("List() = %v; lacks %v or own %d", found, fresh, own)
	}
}

// A mount names the netns better than a process. It is made in a mount
// namespace of its own, at a path with a blank.
func TestListMount(t *testing.T) {
	if !inChild(t) {
		runInChild(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS})
		return
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	want := NS{statInode(t, "/proc/self/ns/net"), filepath.Join(t.TempDir(), "a b\\c")}
	if err := os.WriteFile(want.Path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/proc/self/ns/net", want.Path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(want.Path, 0) })
	found, _, err := List()
	if err != nil || !slices.Contains(found, want) {
		t.Errorf("List() = %v, %v; want %v in it", found, err, want)
	}
	for _, spec := range []string{want.Path, strconv.Itoa(int(want.Inode))} {
		if ns, err := Resolve(spec); err != nil || ns != want {
			t.Errorf("Resolve(%q) = %v, %v; want %v", spec, ns, err, want)
		}
	}
}

func TestParseMount(t *testing.T) {
	const tail = " rw shared:7 - nsfs nsfs rw\n"
	for line, want := range map[string]NS{
		"611 26 0:4 net:[4026532281] /run/netns/web" + tail:                          {4026532281, "/run/netns/web"},
		"611 26 0:4 net:[4026532281] /run/netns/web rw - nsfs nsfs rw":               {4026532281, "/run/netns/web"},
		"611 26 0:4 net:[4026532281] /run/netns/web rw master:1 shared:2 - nsfs x y": {4026532281, "/run/netns/web"},
		`611 26 0:4 net:[4026532281] /mnt/a\040b\011c\012d\134e` + tail:              {4026532281, "/mnt/a b\tc\nd\\e"},
		`611 26 0:4 net:[4026532281] /mnt/\303\244` + tail:                           {4026532281, "/mnt/ä"},
		"611 26 0:4 net:[4026532281] /mnt/a\u00a0b" + tail:                           {4026532281, "/mnt/a\u00a0b"},
		`611 26 0:4 net:[4026532281] /mnt/\04\999\400\` + tail:                       {4026532281, `/mnt/\04\999\400\`},
		"611 26 0:4 mnt:[4026532281] /run/mnt" + tail:                                {},
		"611 26 0:4 net:[x] /run/netns/web" + tail:                                   {},
		"611 26 0:4 net:[4294967296] /run/netns/web" + tail:                          {},
		"611 26 0:4 net:[4026532281 /run/netns/web" + tail:                           {},
		"611 26 0:4 net:[4026532281] /run/netns/web rw - ext4 nsfs rw":               {},
		"611 26 0:4 net:[4026532281] /run/netns/web rw -":                            {},
		"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw":                    {},
		"- nsfs": {},
		"":       {},
	} {
		if ns, ok := parseMount(line); ns != want || ok != (want != NS{}) {
			t.Errorf("parseMount(%q) = %v, %v; want %v", line, ns, ok, want)
		}
	}
}

func TestResolve(t *testing.T) {
	want, _ := hold(t)
	for _, spec := range []string{want.Path, strconv.Itoa(int(want.Inode))} {
		if ns, err := Resolve(spec); err != nil || ns != want {
			t.Errorf("Resolve(%q) = %v, %v; want %v", spec, ns, err, want)
		}
	}
	first, second := t.TempDir(), t.TempDir()
	name := filepath.Join(second, "web")
	if err := os.Symlink(want.Path, name); err != nil {
		t.Fatal(err)
	}
	if ns, err := fromName("web", first, second); err != nil || ns != (NS{want.Inode, name}) {
		t.Errorf("fromName = %v, %v; want %s", ns, err, name)
	}
}

func TestResolveErrors(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for spec, want := range map[string]error{
		"/proc/self/ns/mnt":     ErrNotNetNS,
		"/proc/self/ns/uts":     ErrNotNetNS,
		"/proc/self/status":     ErrNotNetNS,
		"/":                     ErrNotNetNS,
		pipe:                    ErrNotNetNS,
		"/nonexistent/web":      fs.ErrNotExist,
		"no-such-netns":         fs.ErrNotExist,
		"7":                     fs.ErrNotExist,
		"99999999999999999999":  fs.ErrNotExist,
		"/proc/4294967295/ns/x": fs.ErrNotExist,
	} {
		ns, err := Resolve(spec)
		if !errors.Is(err, want) || ns != (NS{}) {
			t.Errorf("Resolve(%q) = %v, %v; want %v", spec, ns, err, want)
			continue
		}
		if text := err.Error(); strings.Contains(text, "\n") || !strings.HasPrefix(text, `netns "`+spec+`": `) {
			t.Errorf("Resolve(%q): %s", spec, text)
		}
	}
}
