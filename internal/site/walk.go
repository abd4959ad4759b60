// SPDX-License-Identifier: Apache-2.0

package site

import (
	"context"
	"runtime"

	"afterfin/internal/event"
	"afterfin/internal/image"
	"afterfin/internal/unwind"
)

const (
	maxFiles     = 32        // kept open
	maxFileBytes = 128 << 20 // of their call frame information
)

// signBits are those of a code address on arm64 where pointer authentication puts its
// signature; no address in user space has any of them set.
const signBits = ^uint64(0) &^ (1<<48 - 1)

// walker unwinds slices. It keeps the tables of files for the next one.
type walker struct {
	files  image.Cache
	tables map[*image.Module]*unwind.Table // nil: it has none
}

func newWalker() *walker { return &walker{tables: make(map[*image.Module]*unwind.Table)} }

func (w *walker) close() { w.files.Close() }

// walk gives the addresses of a slice's stack, innermost first, and why they end. The
// error is that of image.Read.
func (w *walker) walk(ctx context.Context, s *event.Slice) ([]uint64, unwind.Stop, error) {
	img, err := image.Read(ctx, int(s.PID))
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		for _, m := range w.files.Trim(maxFiles, maxFileBytes) {
			delete(w.tables, m)
		}
	}()
	frames, stop := unwind.Unwind(registers(s), unwind.Stack{Base: s.Base, Bytes: s.Stack}, func(address uint64) (*unwind.Table, uint64, bool) {
		return w.table(ctx, img, address)
	})
	stack := make([]uint64, len(frames))
	for i := range frames {
		stack[i] = frames[i].PC
	}
	return stack, stop, nil
}

// table finds the call frame information for an address. Code without a file, such as a
// compiler at run time makes, has none, and keeps frame pointers.
func (w *walker) table(ctx context.Context, img *image.Image, address uint64) (*unwind.Table, uint64, bool) {
	in, ok := img.Find(address)
	if !ok || !in.Executable {
		return nil, 0, false
	}
	m, err := w.files.Open(ctx, img, in)
	if err != nil {
		return nil, 0, true
	}
	virtual, ok := m.Address(in, address)
	if !ok {
		return nil, 0, false
	}
	t, known := w.tables[m]
	if !known {
		t = readTable(ctx, m)
		w.tables[m] = t
	}
	return t, address - virtual, true
}

func readTable(ctx context.Context, m *image.Module) *unwind.Table {
	var frames, header unwind.Section
	for name, to := range map[string]*unwind.Section{".eh_frame": &frames, ".eh_frame_hdr": &header} {
		s, ok := m.Section(name)
		if !ok {
			continue
		}
		data, err := m.Data(ctx, s)
		if err != nil { // as if it had none: frame pointers may do
			return nil
		}
		*to = unwind.Section{Data: data, Addr: s.Addr}
	}
	t, err := unwind.NewTable(frames, header)
	if err != nil {
		return nil
	}
	return t
}

func registers(s *event.Slice) unwind.Registers {
	r, n := unwind.Registers{Arch: unwind.AMD64, PC: s.PC, SP: s.Regs[7]}, 16
	if runtime.GOARCH == "arm64" {
		r, n = unwind.Registers{Arch: unwind.ARM64, PC: s.PC, SP: s.Regs[31], SignBits: signBits}, 32
	}
	for i, v := range s.Regs[:n] {
		r.Set(i, v)
	}
	return r
}
