// SPDX-License-Identifier: Apache-2.0

// Package symbol names the functions, files and lines behind addresses in a
// process, from files only: the process is neither stopped nor read.
package symbol

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"afterfin/internal/image"
)

const (
	maxFrames     = 4096      // of one stack, inlined ones included
	maxModules    = 64        // kept open
	maxKept       = 512 << 20 // bytes of sections kept
	maxModuleTime = 5 * time.Second
)

// Quality is how much is known of a frame.
type Quality uint8

const (
	None   Quality = iota // nothing is mapped at the address
	Module                // the file and the offset in it
	Symbol                // the function; a file and a line may be those where it begins
	Line                  // the function, and the file and the line of the call
)

// Frame is one function call. Its texts come from files that may be hostile: they
// have at most 4 KiB, and may hold any bytes.
type Frame struct {
	Function string // demangled, as the language writes it; empty if not known
	File     string // of the source; empty if not known
	Line     int    // 0: not known
	Module   string // path of the mapped file as in image.Mapping; [vdso]; empty for anonymous memory
	// Offset is the ELF virtual address in Module, what addr2line takes: for shared
	// libraries and PIE the distance from where they are loaded. Without an ELF file
	// it is the offset in the file, and in anonymous memory the address itself.
	Offset  uint64
	Inlined bool // into the next frame, which has the same Offset
	Quality Quality
	Note    string // why less is known than could be, in a few words; often empty
}

// Resolver names addresses and keeps what it read of files for the next time. The
// methods may be called by several goroutines; they take turns.
type Resolver struct {
	mu     sync.Mutex
	files  image.Cache
	tables map[*image.Module]*tables
}

// New makes a Resolver. Caller closes.
func New() *Resolver { return &Resolver{tables: map[*image.Module]*tables{}} }

// Close closes the files.
func (r *Resolver) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.tables {
		t.close()
	}
	r.files.Close()
	clear(r.tables)
}

// Resolve names the addresses of a stack of a process, innermost first. The first
// is where the thread is; all others are return addresses, so the call is one byte
// before. Every address gives one frame, and one more for each call inlined there.
//
// What a frame lacks is told in it and is no error. The error wraps fs.ErrNotExist
// if the process is gone, fs.ErrPermission without CAP_SYS_PTRACE, and that of ctx.
func (r *Resolver) Resolve(ctx context.Context, pid int, addresses []uint64) ([]Frame, error) {
	img, err := image.Read(ctx, pid)
	if err != nil {
		return nil, fmt.Errorf("resolve: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.trim()
	stack := stack{resolver: r, image: img, pid: pid, limits: map[*tables]time.Time{}}
	var frames []Frame
	for i, address := range addresses {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("resolve: %w", err)
		}
		if i > 0 {
			address--
		}
		frames = append(frames, stack.frames(ctx, address)...)
		if len(frames) > maxFrames {
			return frames[:maxFrames], nil
		}
	}
	return frames, nil
}

// Forget lets go of all files and of what was read of them, some hundred MB perhaps: for one who will
// name nothing for a while.
func (r *Resolver) Forget() { r.trimTo(0, 0) }

// trim lets go of the files that were not used for longest.
func (r *Resolver) trim() { r.trimTo(maxModules, maxKept) }

func (r *Resolver) trimTo(modules int, bytes uint64) {
	for _, m := range r.files.Trim(modules, bytes) {
		if t := r.tables[m]; t != nil {
			t.close()
			delete(r.tables, m)
		}
	}
}

// stack is the work on one stack.
type stack struct {
	resolver *Resolver
	image    *image.Image
	pid      int
	limits   map[*tables]time.Time // when the time for each ends
	perf     *perfMap              // nil: not looked for yet
	perfNote string
}

// limit is ctx with the time for all that has to do with one module.
func (s *stack) limit(ctx context.Context, t *tables) (context.Context, context.CancelFunc) {
	end, begun := s.limits[t]
	if !begun {
		end = time.Now().Add(maxModuleTime)
		s.limits[t] = end
	}
	return context.WithDeadline(ctx, end)
}

func (s *stack) frames(ctx context.Context, address uint64) []Frame {
	in, ok := s.image.Find(address)
	if !ok {
		return []Frame{{Offset: address, Note: "nothing is mapped there"}}
	}
	frame := Frame{Module: in.Path, Offset: address, Quality: Module}
	if in.Inode != 0 {
		frame.Offset = address - in.Begin + in.Offset
	}
	module, err := s.resolver.files.Open(ctx, s.image, in)
	switch {
	case errors.Is(err, image.ErrNoFile):
		return []Frame{s.jitted(ctx, address, frame)}
	case errors.Is(err, image.ErrReplaced):
		frame.Note = "the file was replaced since"
		return []Frame{frame}
	case errors.Is(err, fs.ErrPermission):
		frame.Note = "the file may not be read"
		return []Frame{frame}
	case err != nil:
		frame.Note = bounded(err.Error())
		return []Frame{frame}
	}
	virtual, ok := module.Address(in, address)
	if !ok {
		frame.Note = "no segment of the file has this address"
		return []Frame{frame}
	}
	frame.Offset = virtual
	t := s.resolver.tables[module]
	if t == nil {
		t = &tables{module: module}
		s.resolver.tables[module] = t
	}
	limited, cancel := s.limit(ctx, t)
	defer cancel()
	return t.frames(ctx, limited, s.image, frame)
}

// jitted names an address in memory without a file, as far as the program that
// wrote code there tells.
func (s *stack) jitted(ctx context.Context, address uint64, frame Frame) Frame {
	if s.perf == nil {
		var err error
		if s.perf, err = readPerfMap(ctx, s.image, s.pid); err != nil {
			s.perf = &perfMap{}
			s.perfNote = bounded(err.Error())
			if errors.Is(err, fs.ErrNotExist) {
				s.perfNote = "made at run time, and there is no perf map"
			}
		}
	}
	if name, ok := s.perf.find(address); ok {
		frame.Function, frame.File, frame.Line = splitPerfName(name)
		frame.Quality = Symbol
		if frame.Line > 0 {
			frame.Note = "the line is where the function begins"
		}
		return frame
	}
	frame.Note = s.perfNote
	if frame.Note == "" {
		frame.Note = "not in the perf map"
	}
	return frame
}
