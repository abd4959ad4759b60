// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotNetNS says that a path leads to something else, such as a plain file or
// a namespace of another kind.
var ErrNotNetNS = errors.New("not a network namespace")

// Resolve finds the netns a user means: an inode number, a path (with a slash),
// or a name of ip netns. A number that is no inode number may still be a name.
// The error wraps ErrNotNetNS, fs.ErrNotExist or fs.ErrPermission where that is
// the cause.
func Resolve(spec string) (NS, error) {
	ns, err := resolve(spec)
	if err != nil {
		return NS{}, fmt.Errorf("netns %q: %w", spec, err)
	}
	return ns, nil
}

func resolve(spec string) (NS, error) {
	if strings.Contains(spec, "/") {
		return fromPath(spec)
	}
	var noInode error
	if inode, err := strconv.ParseUint(spec, 10, 32); err == nil {
		ns, err := fromInode(uint32(inode))
		if !errors.Is(err, fs.ErrNotExist) {
			return ns, err
		}
		noInode = err
	}
	// Where /var/run is not a link to /run, ip netns may use either.
	ns, err := fromName(spec, "/run/netns", "/var/run/netns")
	if noInode != nil && errors.Is(err, fs.ErrNotExist) {
		return NS{}, noInode
	}
	return ns, err
}

func fromInode(inode uint32) (NS, error) {
	found, unreadable, err := List()
	if err != nil {
		return NS{}, err
	}
	for _, ns := range found {
		if ns.Inode == inode {
			return ns, nil
		}
	}
	return NS{}, fmt.Errorf("no such netns in reach (%d processes unreadable): %w", unreadable, fs.ErrNotExist)
}

// fromName takes the first of dirs that has the name.
func fromName(name string, dirs ...string) (NS, error) {
	for _, dir := range dirs {
		ns, err := fromPath(filepath.Join(dir, name))
		if !errors.Is(err, fs.ErrNotExist) {
			return ns, err
		}
	}
	return NS{}, fmt.Errorf("no such name in %s: %w", strings.Join(dirs, " or "), fs.ErrNotExist)
}

// fromPath looks at the file system before it opens anything: opening a named
// pipe or a device can block or do harm.
func fromPath(path string) (NS, error) {
	var fsys unix.Statfs_t
	if err := unix.Statfs(path, &fsys); err != nil {
		return NS{}, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	if int64(fsys.Type) != unix.NSFS_MAGIC {
		if !followed(path) {
			return NS{}, &fs.PathError{Op: "readlink", Path: path, Err: unix.EACCES}
		}
		return NS{}, ErrNotNetNS
	}
	file, err := os.Open(path)
	if err != nil {
		return NS{}, err
	}
	defer file.Close()
	kind, err := unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_NSTYPE)
	if err != nil {
		return NS{}, fmt.Errorf("ioctl NS_GET_NSTYPE on %s: %w", path, err)
	}
	if kind != unix.CLONE_NEWNET {
		return NS{}, ErrNotNetNS
	}
	inode, err := inodeOf(file)
	return NS{inode, path}, err
}

// followed is false if path leads to a link of /proc/PID/ns that the kernel did
// not follow for want of permission. Some say so with EACCES. Others (seen on
// Debian's 5.10.262) report success: to them the link is empty, which no other link
// can be, and ends in the folder that it is in.
func followed(path string) bool {
	for range 40 { // as many links as the kernel follows
		text, err := os.Readlink(path)
		switch {
		case err != nil: // no link
			return true
		case text == "":
			return false
		case filepath.IsAbs(text):
			path = text
		default: // not Join, which would take "link/.." for nothing
			path = path[:strings.LastIndexByte(path, '/')+1] + text
		}
	}
	return true
}

func inodeOf(file *os.File) (uint32, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return 0, &fs.PathError{Op: "fstat", Path: file.Name(), Err: err}
	}
	return uint32(stat.Ino), nil
}
