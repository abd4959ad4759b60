// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	maxFile = 1 << 30 // bytes of an ELF file
	maxVDSO = 1 << 20
)

// ErrReplaced says that the file at the path of a mapping is not the one that is
// mapped: it was replaced or deleted since.
var ErrReplaced = errors.New("the file was replaced since it was mapped")

// ErrNoFile says that a mapping has no file: memory of a JIT compiler, for one.
var ErrNoFile = errors.New("no file is mapped there")

// openFile opens the file of a mapping through the process's own root.
//
// map_files leads to the very file, also if it is deleted; it needs CAP_SYS_ADMIN
// or CAP_CHECKPOINT_RESTORE in the initial user namespace. Without it there is
// only the path, whose file is compared with the mapping.
func (img *Image) openFile(m Mapping) (*os.File, error) {
	name := fmt.Sprintf("%x-%x", m.Begin, m.End)
	fd, err := unix.Open(filepath.Join(img.dir, "map_files", name), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err == nil {
		return reopen(fd, m.Path)
	}
	return img.openPath(m)
}

func (img *Image) openPath(m Mapping) (*os.File, error) {
	if m.Deleted {
		return nil, fmt.Errorf("open %s: %w", m.Path, ErrReplaced)
	}
	file, err := img.OpenInRoot(m.Path, false)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			err = errors.Join(ErrReplaced, err)
		}
		return nil, err
	}
	var stat unix.Stat_t
	if err = unix.Fstat(int(file.Fd()), &stat); err == nil && (stat.Ino != m.Inode || stat.Dev != m.Dev) {
		err = ErrReplaced
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("open %s: %w", m.Path, err)
	}
	return file, nil
}

// openVDSO reads the vdso out of this process: the kernel maps the same one into
// all processes of an architecture, and to read it in another takes ptrace.
func openVDSO(ctx context.Context, m Mapping) (io.ReaderAt, int64, error) {
	own, err := read(ctx, "/proc/self")
	if err != nil {
		return nil, 0, err
	}
	for _, mine := range own.mappings {
		if mine.Path != m.Path || mine.End-mine.Begin != m.End-m.Begin || mine.End-mine.Begin > maxVDSO {
			continue
		}
		mem, err := os.Open("/proc/self/mem")
		if err != nil {
			return nil, 0, err
		}
		defer mem.Close()
		data := make([]byte, mine.End-mine.Begin)
		if _, err := mem.ReadAt(data, int64(mine.Begin)); err != nil {
			return nil, 0, err
		}
		return bytesReader(data), int64(len(data)), nil
	}
	return nil, 0, fmt.Errorf("%s is not that of this process: %w", m.Path, ErrNoFile)
}
