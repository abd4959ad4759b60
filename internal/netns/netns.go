// SPDX-License-Identifier: Apache-2.0

// Package netns finds network namespaces and runs code inside them. A netns is
// known by its inode number, the one in the link text net:[4026531840].
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// NS is a network namespace and a way into it.
type NS struct {
	Inode uint32
	Path  string // opening it gives the netns, as long as its process or mount lives
}

// Self gives the inode number of the netns that the calling thread is in. A
// caller in a netns other than the process's own has its thread locked, or the
// answer is that of any thread.
func Self() (uint32, error) {
	const link = "/proc/thread-self/ns/net"
	text, err := os.Readlink(link)
	if err != nil {
		return 0, fmt.Errorf("read own netns: %w", err)
	}
	inode, ok := parseInode(text)
	if !ok {
		return 0, fmt.Errorf("read own netns: %s is %q", link, text)
	}
	return inode, nil
}

// List gives every netns that a process is in or that is mounted somewhere
// (ip netns, container runtimes), sorted by inode number. unreadable counts the
// processes whose netns may not be read (CAP_SYS_PTRACE). A netns that only a
// thread or an open descriptor keeps alive is not found.
func List() (found []NS, unreadable int, err error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, 0, fmt.Errorf("list netns: %w", err)
	}
	// Mounts come first: where both lead to a netns, the mount has the name
	// that people know, and does not end with a process.
	paths := map[uint32]string{}
	for line := range strings.Lines(string(mounts)) {
		if ns, ok := parseMount(line); ok {
			addPath(paths, ns)
		}
	}
	unreadable, err = addProcesses(paths)
	if err != nil {
		return nil, 0, fmt.Errorf("list netns: %w", err)
	}
	found = make([]NS, 0, len(paths))
	for inode, path := range paths {
		found = append(found, NS{inode, path})
	}
	slices.SortFunc(found, func(a, b NS) int { return int(int64(a.Inode) - int64(b.Inode)) })
	return found, unreadable, nil
}

// addPath keeps the first path of each netns.
func addPath(paths map[uint32]string, ns NS) {
	if _, known := paths[ns.Inode]; !known {
		paths[ns.Inode] = ns.Path
	}
}

func addProcesses(paths map[uint32]string) (unreadable int, err error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return 0, err
	}
	defer proc.Close()
	// The kernel lists processes by rising pid. Of those in one netns the first
	// counts: the oldest in general, so the one that will be there longest.
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		if _, err := strconv.ParseUint(name, 10, 32); err != nil {
			continue
		}
		path := "/proc/" + name + "/ns/net"
		text, err := os.Readlink(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // the process has ended
		}
		inode, ok := parseInode(text)
		if err != nil || !ok {
			unreadable++
			continue
		}
		addPath(paths, NS{inode, path})
	}
	return unreadable, nil
}

// parseInode reads the text of a netns link, net:[4026531840].
func parseInode(text string) (uint32, bool) {
	number, ok := strings.CutPrefix(text, "net:[")
	if !ok {
		return 0, false
	}
	if number, ok = strings.CutSuffix(number, "]"); !ok {
		return 0, false
	}
	inode, err := strconv.ParseUint(number, 10, 32)
	return uint32(inode), err == nil
}

// parseMount reads one line of mountinfo; ok is false if no netns is mounted.
// See proc_pid_mountinfo(5):
//
//	id parent major:minor root mountpoint options [optional...] - fstype source superoptions
func parseMount(line string) (ns NS, ok bool) {
	fields := strings.Split(strings.TrimSuffix(line, "\n"), " ")
	dash := slices.Index(fields, "-")
	if dash < 6 || dash+1 == len(fields) || fields[dash+1] != "nsfs" {
		return NS{}, false
	}
	inode, ok := parseInode(fields[3])
	if !ok {
		return NS{}, false // another kind of namespace
	}
	return NS{inode, unescape(fields[4])}, true
}

// unescape undoes the kernel's escapes in a path: blanks and backslashes are
// written as a backslash and three octal digits.
func unescape(text string) string {
	var plain strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+4 <= len(text) {
			if char, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				plain.WriteByte(byte(char))
				i += 3
				continue
			}
		}
		plain.WriteByte(text[i])
	}
	return plain.String()
}
