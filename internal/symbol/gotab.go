// SPDX-License-Identifier: Apache-2.0

package symbol

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"sort"
	"strings"

	"afterfin/internal/image"
)

// The runtime's own table of functions, which stripping leaves in place. It is read
// in place, a function at a time: debug/gosym takes every function of the file
// first, knows no inlined calls, and since Go 1.26 the table no longer tells where
// the code begins.
const (
	goMagic118 = 0xfffffff0 // Go 1.18 and 1.19
	goMagic120 = 0xfffffff1 // since Go 1.20
	goHeader   = 72         // bytes

	maxGoSteps   = 1 << 18 // of one table of values by address
	maxGoInlined = 64      // calls inlined into each other
)

// goTable is .gopclntab. All offsets in it come from the file and are checked where
// they are used.
type goTable struct {
	magic     uint32
	quantum   uint64 // the smallest size of an instruction
	functions uint64
	text      uint64 // ELF virtual address that functions are relative to

	names, units, files, values, funcs []byte

	// tree reads the inlined calls, from an offset on; nil: they are not known.
	tree func(ctx context.Context, data []byte, offset uint32) bool
}

// readGoTable reads the table of a Go program; nil if the module is none.
func readGoTable(ctx context.Context, m *image.Module) (*goTable, error) {
	section, ok := m.Section(".gopclntab")
	if !ok {
		section, ok = m.Section(".data.rel.ro.gopclntab") // PIE that an external linker made
	}
	if !ok {
		return nil, nil
	}
	data, err := m.Data(ctx, section)
	if err != nil {
		return nil, err
	}
	t, err := parseGoTable(data)
	if err != nil {
		return nil, fmt.Errorf("section %s: %w", section.Name, err)
	}
	if err := t.place(ctx, m, section.Addr); err != nil {
		return nil, fmt.Errorf("section %s: %w", section.Name, err)
	}
	return t, nil
}

func parseGoTable(data []byte) (*goTable, error) {
	if len(data) < goHeader {
		return nil, fmt.Errorf("%d bytes: %w", len(data), image.ErrMalformed)
	}
	t := &goTable{magic: binary.LittleEndian.Uint32(data), quantum: uint64(data[6])}
	if t.magic != goMagic118 && t.magic != goMagic120 || data[7] != 8 || t.quantum == 0 {
		return nil, fmt.Errorf("not of Go 1.18 or later, or not of 64 bits (%#x): %w", t.magic, image.ErrMalformed)
	}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(data[8*i:]) }
	t.functions, t.text = word(1), word(3)
	for i, part := range []*[]byte{&t.names, &t.units, &t.files, &t.values, &t.funcs} {
		offset := word(4 + i)
		if offset > uint64(len(data)) {
			return nil, fmt.Errorf("part %d begins at %d of %d: %w", i, offset, len(data), image.ErrMalformed)
		}
		*part = data[offset:]
	}
	// An entry is two numbers of 32 bits; one more begins after the last one.
	if t.functions == 0 || t.functions > uint64(len(t.funcs))/8 || t.functions*8+4 > uint64(len(t.funcs)) {
		return nil, fmt.Errorf("%d functions in %d bytes: %w", t.functions, len(t.funcs), image.ErrMalformed)
	}
	return t, nil
}

// start is where function i begins, relative to the text; that of the number of
// functions is the end of the last one.
func (t *goTable) start(i uint64) uint64 {
	return uint64(binary.LittleEndian.Uint32(t.funcs[8*i:]))
}

// goFunc is one function, runtime._func and what follows it.
type goFunc struct {
	entry uint64 // ELF virtual address
	data  []byte
	fixed int // bytes of data before the arrays
}

// find gives the function that has an address.
func (t *goTable) find(address uint64) (f goFunc, ok bool) {
	offset := address - t.text
	if address < t.text || offset >= t.start(t.functions) || offset < t.start(0) {
		return goFunc{}, false
	}
	i := uint64(sort.Search(int(t.functions), func(i int) bool { return t.start(uint64(i)) > offset }))
	if i == 0 { // not by rising address
		return goFunc{}, false
	}
	i--
	at := uint64(binary.LittleEndian.Uint32(t.funcs[8*i+4:]))
	f = goFunc{entry: t.text + t.start(i), fixed: 44}
	if t.magic == goMagic118 {
		f.fixed = 40 // no line of the beginning
	}
	if at > uint64(len(t.funcs)) || len(t.funcs)-int(at) < f.fixed {
		return goFunc{}, false
	}
	f.data = t.funcs[at:]
	return f, true
}

// The fields of runtime._func that are read here, in words of 32 bits.
const (
	goFuncName    = 1
	goFuncFile    = 5
	goFuncLine    = 6
	goFuncPCData  = 7 // their number
	goFuncUnit    = 8
	goInlineIndex = 2 // PCDATA_InlTreeIndex
	goInlineTree  = 3 // FUNCDATA_InlTree
)

func (f goFunc) word(i int) uint32 { return binary.LittleEndian.Uint32(f.data[4*i:]) }

// pcdata is where the values of an index begin; 0 if there are none.
func (f goFunc) pcdata(index uint32) uint32 {
	at := uint64(f.fixed) + 4*uint64(index)
	if index >= f.word(goFuncPCData) || at+4 > uint64(len(f.data)) {
		return 0
	}
	return binary.LittleEndian.Uint32(f.data[at:])
}

// funcdata is an offset from go:func.*; all bits set if there is none.
func (f goFunc) funcdata(index uint8) uint32 {
	at := uint64(f.fixed) + 4*(uint64(f.word(goFuncPCData))+uint64(index))
	if index >= f.data[f.fixed-1] || at+4 > uint64(len(f.data)) {
		return math.MaxUint32
	}
	return binary.LittleEndian.Uint32(f.data[at:])
}

// value looks an address up in a table that begins at an offset in values: pairs of
// differences, of the value (zigzag) and of the address. A value of 0 ends it,
// except in the first pair.
func (t *goTable) value(f goFunc, offset uint32, address uint64) (int32, bool) {
	if offset == 0 || uint64(offset) >= uint64(len(t.values)) {
		return 0, false
	}
	rest := t.values[offset:]
	pc, value := f.entry, int32(-1)
	for step := range maxGoSteps {
		up, n := binary.Uvarint(rest)
		if n <= 0 || up == 0 && step > 0 {
			return 0, false
		}
		forward, k := binary.Uvarint(rest[n:])
		if k <= 0 {
			return 0, false
		}
		rest = rest[n+k:]
		value += int32(uint32(up>>1) ^ -uint32(up&1))
		pc += forward * t.quantum
		if address < pc {
			return value, true
		}
	}
	return 0, false
}

// position gives the source file and line of an address.
func (t *goTable) position(f goFunc, address uint64) (file string, line int) {
	number, ok := t.value(f, f.word(goFuncFile), address)
	if !ok || number < 0 {
		return "", 0
	}
	at := 4 * (uint64(f.word(goFuncUnit)) + uint64(number))
	if at+4 > uint64(len(t.units)) {
		return "", 0
	}
	name := binary.LittleEndian.Uint32(t.units[at:])
	if name == math.MaxUint32 { // the linker left it out
		return "", 0
	}
	found, ok := t.value(f, f.word(goFuncLine), address)
	if !ok || found < 0 {
		return "", 0
	}
	return textAt(t.files, uint64(name)), int(found)
}

// goName writes the arguments of a generic function as [...], as the runtime does.
func goName(name string) string {
	begin, end := strings.IndexByte(name, '['), strings.LastIndexByte(name, ']')
	if begin < 0 || end <= begin {
		return name
	}
	return name[:begin] + "[...]" + name[end+1:]
}
