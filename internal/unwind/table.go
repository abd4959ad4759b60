// SPDX-License-Identifier: Apache-2.0

package unwind

import (
	"cmp"
	"errors"
	"slices"
	"sort"
)

// MaxSize is the largest .eh_frame that is read, in bytes. That of the largest browsers is
// a third of it.
const MaxSize = 64 << 20

// maxFunctions is how many FDEs are sorted where the file has no sorted table.
const maxFunctions = 1 << 20

// ErrNoTable tells that a file has no call frame information, such as one made by Go.
var ErrNoTable = errors.New("no call frame information")

// ErrTooLarge says that the call frame information is beyond MaxSize.
var ErrTooLarge = errors.New("call frame information is too large")

// Table is the call frame information of one ELF file. It does not change, and may be used
// by several goroutines.
type Table struct {
	section section
	// header is .eh_frame_hdr, which holds pairs of a function's address and that of its
	// FDE, both 32 bits from the header's own start and sorted by function.
	header section
	pairs  []byte
	// Without that: the functions, sorted.
	functions []function
}

type function struct {
	pc  uint64
	pos int // of the FDE
}

// Section is the content of one section and the address that the file has for it.
type Section struct {
	Data []byte
	Addr uint64
}

// NewTable takes .eh_frame and, where it is there, .eh_frame_hdr of a little-endian 64-bit
// file. It keeps both; where there is no second one it takes 16 bytes per function
// instead. The file may be hostile.
//
// The error is ErrNoTable if there is nothing to read, ErrTooLarge beyond MaxSize.
func NewTable(frames, header Section) (*Table, error) {
	if len(frames.Data) == 0 {
		return nil, ErrNoTable
	}
	if len(frames.Data) > MaxSize || len(header.Data) > MaxSize {
		return nil, ErrTooLarge
	}
	return newTable(section{frames.Data, frames.Addr}, section{header.Data, header.Addr}), nil
}

func newTable(frames, header section) *Table {
	t := &Table{section: frames, header: header}
	if t.pairs = header.sorted(frames.addr); t.pairs == nil {
		t.functions = frames.functions()
	}
	return t
}

// sorted finds the pairs in .eh_frame_hdr; nil if they are not there, are not of the form
// that every linker gives them or belong to another .eh_frame.
func (s *section) sorted(frames uint64) []byte {
	const relative4 = relativeToData | 0x0b
	c := cursor{data: s.data}
	version, ofFrames, ofCount, ofPairs := c.u8(), c.u8(), c.u8(), c.u8()
	if version != 1 || ofFrames == encodingOmit || ofCount == encodingOmit || ofPairs != relative4 {
		return nil
	}
	at := c.pointer(ofFrames, s.addr)
	count := c.pointer(ofCount, s.addr)
	if c.bad || at != frames || count == 0 || count > MaxSize {
		return nil
	}
	return c.take(count * 8)
}

// functions reads all of .eh_frame.
func (s *section) functions() (found []function) {
	var last lastCIE
	for pos := 0; len(found) < maxFunctions; {
		body, id, ok := s.entry(pos)
		if !ok {
			break // nothing behind it can be found
		}
		if id != 0 {
			if e, ok := s.fde(pos, &last); ok && e.size != 0 {
				found = append(found, function{e.pc, pos})
			}
		}
		pos = len(body.data)
	}
	slices.SortStableFunc(found, func(a, b function) int { return cmp.Compare(a.pc, b.pc) })
	return found
}

// find finds the FDE for an address as the file has it.
func (t *Table) find(pc uint64) (fde, bool) {
	pos, ok := t.position(pc)
	if !ok {
		return fde{}, false
	}
	e, ok := t.section.fde(pos, &lastCIE{})
	return e, ok && e.covers(pc)
}

// position finds the FDE of the last function that does not begin after pc.
func (t *Table) position(pc uint64) (int, bool) {
	if t.pairs == nil {
		n := sort.Search(len(t.functions), func(i int) bool { return t.functions[i].pc > pc })
		if n == 0 {
			return 0, false
		}
		return t.functions[n-1].pos, true
	}
	n := sort.Search(len(t.pairs)/8, func(i int) bool { return t.pair(i*2) > pc })
	if n == 0 {
		return 0, false
	}
	at := t.pair(n*2-1) - t.section.addr
	if at >= uint64(len(t.section.data)) {
		return 0, false
	}
	return int(at), true
}

// pair reads one of the numbers in the pairs.
func (t *Table) pair(n int) uint64 {
	c := cursor{data: t.pairs, pos: n * 4}
	return t.header.addr + uint64(int32(c.u32()))
}
