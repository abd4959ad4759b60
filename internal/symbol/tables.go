// SPDX-License-Identifier: Apache-2.0

package symbol

import (
	"context"
	"debug/elf"
	"fmt"
	"path/filepath"

	"afterfin/internal/image"
)

// tables are what is known of one module, each read when it is first needed and
// once: what failed is not tried again.
type tables struct {
	module *image.Module
	debug  *image.Module // its separate debug file, nil if none

	golang  *goTable // nil: no Go, or not read yet
	symbols []*symbolTable
	lines   []*lineTable

	triedGo, triedSymbols bool
	note                  string // the first thing that went wrong
}

func (t *tables) close() {
	if t.debug != nil {
		t.debug.Close()
	}
}

// frames completes a frame that has Module and Offset, until limited ends. ctx is the
// caller's: if that ends, nothing is known of the module.
func (t *tables) frames(ctx, limited context.Context, img *image.Image, frame Frame) []Frame {
	if limited.Err() != nil {
		frame.Note = "its file takes too long to read"
		return []Frame{frame}
	}
	if !t.triedGo {
		var err error
		t.golang, err = readGoTable(limited, t.module)
		t.failed(err)
		t.triedGo = ctx.Err() == nil // a caller in a hurry says nothing about the file
	}
	if t.golang != nil {
		if frames := t.golang.frames(limited, frame); len(frames) > 0 {
			return frames
		}
	}
	if !t.triedSymbols {
		t.readSymbols(limited, img)
		t.triedSymbols = ctx.Err() == nil
	}
	var begin uint64
	for _, table := range t.symbols {
		if name, at, ok := table.find(frame.Offset); ok {
			frame.Function, frame.Quality, begin = demangled(name), Symbol, at
			break
		}
	}
	for _, table := range t.lines {
		if file, line, ok := table.find(limited, frame.Offset); ok {
			frame.File, frame.Line = file, line
			if own, first, ok := table.find(limited, begin); ok && frame.Function != "" && own != file {
				return []Frame{inlined(frame, own, first)}
			}
			break
		}
	}
	switch {
	case frame.Function != "" && frame.Line > 0:
		frame.Quality = Line
	case t.note != "":
		frame.Note = t.note
	case frame.Function == "":
		frame.Note = "no symbol covers it"
	}
	return []Frame{frame}
}

// inlined is for a line that is in another file than the beginning of its function: the
// compiler has put some other function in there, whose line it is. Which line of the
// function that stands for is in .debug_info, which is not read.
func inlined(frame Frame, file string, line int) Frame {
	frame.Note = bounded(fmt.Sprintf("the line is where the function begins; %s:%d is inlined there", frame.File, frame.Line))
	frame.File, frame.Line = file, line
	return frame
}

func (t *tables) failed(err error) {
	if err != nil && t.note == "" {
		t.note = bounded(err.Error())
	}
}

// readSymbols reads symbols and lines of the module, of its separate debug file and
// of its .gnu_debugdata.
func (t *tables) readSymbols(ctx context.Context, img *image.Image) {
	t.symbols, t.lines = nil, nil
	t.openDebug(ctx, img)
	found := t.addSymbols(ctx, t.module, elf.SHT_SYMTAB)
	if !found && t.debug != nil {
		found = t.addSymbols(ctx, t.debug, elf.SHT_SYMTAB)
	}
	if !found {
		// .gnu_debugdata has only what .dynsym lacks.
		t.addSymbols(ctx, t.module, elf.SHT_DYNSYM)
		mini, ok, err := t.module.MiniDebug(ctx)
		t.failed(err)
		if ok && err == nil {
			t.addSymbols(ctx, mini, elf.SHT_SYMTAB)
		}
	}
	for _, m := range []*image.Module{t.module, t.debug} {
		if m == nil {
			continue
		}
		lines, err := readLines(ctx, m)
		t.failed(err)
		if lines != nil {
			t.lines = append(t.lines, lines)
		}
	}
}

func (t *tables) addSymbols(ctx context.Context, m *image.Module, kind elf.SectionType) (found bool) {
	table, err := readSymbols(ctx, m, kind)
	t.failed(err)
	if table == nil {
		return false
	}
	t.symbols = append(t.symbols, table)
	return true
}

// openDebug opens the separate debug file where distributions install it, within
// the process's root. It counts only if it is of the same build.
func (t *tables) openDebug(ctx context.Context, img *image.Image) {
	id := t.module.BuildID(ctx)
	if t.debug != nil || len(id) < 4 {
		return
	}
	file, err := img.OpenInRoot(filepath.Join("/usr/lib/debug/.build-id", id[:2], id[2:]+".debug"), false)
	if err != nil {
		return // most programs have none
	}
	debug, err := image.OpenFile(ctx, file)
	if err != nil {
		t.failed(err)
		return
	}
	if debug.BuildID(ctx) != id {
		debug.Close()
		return
	}
	t.debug = debug
}
