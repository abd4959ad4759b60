// SPDX-License-Identifier: Apache-2.0

// Package image tells what is mapped into a process and reads the ELF files
// behind it. The files are those of a stranger and may be hostile: every size is
// bounded and every offset checked.
package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	maxMaps     = 16 << 20 // bytes of /proc/PID/maps
	maxMappings = 65536    // the default of vm.max_map_count is 65530
)

// ErrTooLarge says that something is beyond the bounds of this package.
var ErrTooLarge = errors.New("too large")

// Mapping is one line of /proc/PID/maps.
type Mapping struct {
	Begin, End uint64 // addresses in the process, End is the first one after
	Offset     uint64 // of Begin, in the file
	// Path begins at the root of the process's mount namespace, or at the reader's
	// own where that is the same. It is [vdso] and the like for what is no file, and
	// empty for anonymous memory. It may hold any bytes.
	Path       string
	Dev, Inode uint64 // of the file, Dev as unix.Mkdev gives it; Inode 0: no file
	Executable bool
	Deleted    bool // the file is no longer at Path
}

// Image is what was mapped into a process at one moment.
type Image struct {
	dir      string // /proc/PID
	mappings []Mapping
}

// Read takes the mappings of a process. The error wraps fs.ErrNotExist if there
// is none, fs.ErrPermission without CAP_SYS_PTRACE, and ErrTooLarge. A kernel
// thread and a process that is just ending have no mappings.
func Read(ctx context.Context, pid int) (*Image, error) {
	img, err := read(ctx, filepath.Join("/proc", strconv.Itoa(pid)))
	if errors.Is(err, unix.ESRCH) { // it ended between open and read
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("read the mappings of process %d: %w", pid, err)
	}
	return img, nil
}

func read(ctx context.Context, dir string) (*Image, error) {
	file, err := os.Open(filepath.Join(dir, "maps"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := readAll(ctx, file, maxMaps)
	if err != nil {
		return nil, err
	}
	mappings, err := parseMaps(text)
	if err != nil {
		return nil, err
	}
	return &Image{dir, mappings}, nil
}

// Find gives the mapping that has an address.
func (img *Image) Find(address uint64) (Mapping, bool) {
	i := sort.Search(len(img.mappings), func(i int) bool { return address < img.mappings[i].End })
	if i == len(img.mappings) || address < img.mappings[i].Begin {
		return Mapping{}, false
	}
	return img.mappings[i], true
}

// Mappings are all of them, by rising address. They are the image's own.
func (img *Image) Mappings() []Mapping { return img.mappings }

// OpenInRoot opens a regular file for reading as the process would find it: below
// its root, links included. A link in the last place is not followed if noFollow is
// set. Caller closes. The error wraps that of the kernel, or says that it is no
// regular file.
func (img *Image) OpenInRoot(path string, noFollow bool) (*os.File, error) {
	root, err := unix.Open(filepath.Join(img.dir, "root"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the root of the process: %w", err)
	}
	defer unix.Close(root)
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	if noFollow {
		how.Flags |= unix.O_NOFOLLOW
	}
	fd, err := unix.Openat2(root, path, &how)
	if err != nil {
		return nil, fmt.Errorf("open %s in the root of the process: %w", path, err)
	}
	return reopen(fd, path)
}

// reopen makes an O_PATH descriptor one to read from, and closes it. Nothing but
// regular files is opened: a device may act on it, and a pipe would block.
func reopen(fd int, name string) (*os.File, error) {
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return nil, fmt.Errorf("stat %s: %w", name, err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	readable, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return os.NewFile(uintptr(readable), name), nil
}
