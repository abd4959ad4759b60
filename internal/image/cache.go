// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// key tells files apart. A file that is written anew in place has another time.
type key struct {
	dev, inode   uint64
	mtime, ctime unix.Timespec
	size         int64
}

// vdso is the key of the vdso, which is the same for all processes.
var vdso = key{size: -1}

// Cache has the modules that were opened, each once. The zero value is ready. It is
// for one goroutine.
type Cache struct {
	modules map[key]*Module
	recent  []key // the last used at the end
}

// Open gives the module of a mapping. It is the cache's and stays open until Trim or
// Close. The error wraps ErrNoFile, ErrReplaced, ErrTooLarge, ErrMalformed or that
// of the kernel.
func (c *Cache) Open(ctx context.Context, img *Image, in Mapping) (*Module, error) {
	if in.Path == "[vdso]" {
		if m := c.used(vdso); m != nil {
			return m, nil
		}
		r, size, err := openVDSO(ctx, in)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", in.Path, err)
		}
		m, err := newModule(ctx, r, size, in.Path)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", in.Path, err)
		}
		c.add(vdso, m)
		return m, nil
	}
	if in.Inode == 0 {
		return nil, ErrNoFile
	}
	file, err := img.openFile(in)
	if err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		file.Close()
		return nil, fmt.Errorf("stat %s: %w", in.Path, err)
	}
	k := key{stat.Dev, stat.Ino, stat.Mtim, stat.Ctim, stat.Size}
	if m := c.used(k); m != nil {
		file.Close()
		return m, nil
	}
	m, err := OpenFile(ctx, file)
	if err != nil {
		return nil, err
	}
	c.add(k, m)
	return m, nil
}

func (c *Cache) add(k key, m *Module) {
	if c.modules == nil {
		c.modules = map[key]*Module{}
	}
	c.modules[k] = m
	c.recent = append(c.recent, k)
}

// used gives a module and notes its use.
func (c *Cache) used(k key) *Module {
	m := c.modules[k]
	if m != nil {
		i := slices.Index(c.recent, k)
		c.recent = append(slices.Delete(c.recent, i, i+1), k)
	}
	return m
}

// Trim closes modules, those first that were not used for longest, until there are
// at most so many and their sections have at most so many bytes. It gives those it
// closed; the caller has none of them in use.
func (c *Cache) Trim(modules int, bytes uint64) (closed []*Module) {
	sum := uint64(0)
	for _, m := range c.modules {
		sum += m.Spent()
	}
	for len(c.recent) > 0 && (len(c.recent) > modules || sum > bytes) {
		m := c.modules[c.recent[0]]
		delete(c.modules, c.recent[0])
		c.recent = c.recent[1:]
		sum -= m.Spent()
		m.Close()
		closed = append(closed, m)
	}
	return closed
}

// Close closes all modules.
func (c *Cache) Close() { c.Trim(0, 0) }
