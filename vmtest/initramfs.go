// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// tree is the content of an initramfs: absolute path → content. Folders come by
// themselves.
type tree map[string][]byte

// Modes of a cpio entry: a file type and permissions.
const (
	modeDir  = 0o040755
	modeFile = 0o100755
	modeChar = 0o020600
)

// pack writes the tree as a cpio archive of the newc format. The same tree gives
// the same bytes: in virtual time even the place of a file in memory would show.
func (t tree) pack() []byte {
	a := &archive{dirs: map[string]bool{"/": true, ".": true}}
	// The kernel opens it for process 1 before anything is mounted.
	a.dir("/dev")
	a.entry("/dev/console", modeChar, nil, 5, 1)
	for _, name := range slices.Sorted(maps.Keys(t)) {
		a.dir(path.Dir(name))
		a.entry(name, modeFile, t[name], 0, 0)
	}
	a.entry("TRAILER!!!", 0, nil, 0, 0)
	return a.out.Bytes()
}

type archive struct {
	out   bytes.Buffer
	inode int
	dirs  map[string]bool
}

func (a *archive) dir(name string) {
	if a.dirs[name] {
		return
	}
	a.dir(path.Dir(name))
	a.dirs[name] = true
	a.entry(name, modeDir, nil, 0, 0)
}

// entry writes one header, name and content. Owner, times and the device that it
// is on stay 0.
func (a *archive) entry(name string, mode uint32, content []byte, major, minor int) {
	name = strings.TrimPrefix(name, "/")
	a.inode++
	links := 1
	fmt.Fprintf(&a.out, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.inode, mode, 0, 0, links, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
	a.out.WriteString(name)
	a.out.WriteByte(0)
	a.pad()
	a.out.Write(content)
	a.pad()
}

func (a *archive) pad() {
	for a.out.Len()%4 != 0 {
		a.out.WriteByte(0)
	}
}
