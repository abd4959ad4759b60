// SPDX-License-Identifier: Apache-2.0

package symbol

import (
	"bytes"
	"cmp"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sort"

	"afterfin/internal/image"
)

const maxSymbols = 1 << 21 // functions in one table

// symbolTable has the functions of .symtab or .dynsym, by address.
type symbolTable struct {
	symbols []elfSymbol
	longest uint64 // the greatest size
	names   []byte
}

type elfSymbol struct {
	addr, size uint64
	name       uint32 // where it begins in names
	binding    elf.SymBind
}

// readSymbols reads the first symbol table of a kind; nil if there is none.
func readSymbols(ctx context.Context, m *image.Module, kind elf.SectionType) (*symbolTable, error) {
	i := slices.IndexFunc(m.Sections, func(s image.Section) bool { return s.Type == kind && s.Size > 0 })
	if i < 0 {
		return nil, nil
	}
	section := m.Sections[i]
	if uint64(section.Link) >= uint64(len(m.Sections)) {
		return nil, fmt.Errorf("section %s has no names: %w", section.Name, image.ErrMalformed)
	}
	data, err := m.Data(ctx, section)
	if err != nil {
		return nil, err
	}
	names, err := m.Data(ctx, m.Sections[section.Link])
	if err != nil {
		return nil, err
	}
	t := &symbolTable{names: names}
	if err := t.parse(ctx, data); err != nil {
		return nil, fmt.Errorf("section %s: %w", section.Name, err)
	}
	return t, nil
}

// parse takes the functions out of an array of Elf64_Sym.
func (t *symbolTable) parse(ctx context.Context, data []byte) error {
	for ; len(data) >= elf.Sym64Size; data = data[elf.Sym64Size:] {
		info := data[4]
		kind := elf.ST_TYPE(info)
		if kind != elf.STT_FUNC && kind != elf.STT_GNU_IFUNC && kind != elf.STT_NOTYPE {
			continue
		}
		if elf.SectionIndex(binary.LittleEndian.Uint16(data[6:])) == elf.SHN_UNDEF {
			continue
		}
		s := elfSymbol{
			addr:    binary.LittleEndian.Uint64(data[8:]),
			size:    binary.LittleEndian.Uint64(data[16:]),
			name:    binary.LittleEndian.Uint32(data),
			binding: elf.ST_BIND(info),
		}
		// What has no size covers nothing for sure: labels in assembly, and the
		// marks that the linker puts at the ends of sections.
		if s.size == 0 || s.addr > math.MaxUint64-s.size {
			continue
		}
		if len(t.symbols) == maxSymbols {
			return fmt.Errorf("more than %d functions: %w", maxSymbols, image.ErrTooLarge)
		}
		t.longest = max(t.longest, s.size)
		t.symbols = append(t.symbols, s)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	slices.SortFunc(t.symbols, func(a, b elfSymbol) int { return cmp.Or(cmp.Compare(a.addr, b.addr), cmp.Compare(a.name, b.name)) })
	return nil
}

// find gives the name of the function that covers an address, and where it begins. Of
// several the one that begins last counts, then the one a person would use.
func (t *symbolTable) find(address uint64) (name string, begin uint64, ok bool) {
	const maxBack = 4096 // symbols to look at: one that covers far more than its own code may hide others
	i := sort.Search(len(t.symbols), func(i int) bool { return t.symbols[i].addr > address }) - 1
	var best elfSymbol
	for back := 0; i >= 0 && back < maxBack; i, back = i-1, back+1 {
		s := t.symbols[i]
		if ok && s.addr != best.addr || address-s.addr >= t.longest {
			break
		}
		if address-s.addr >= s.size {
			continue
		}
		text := t.name(s)
		if text != "" && (!ok || better(s, text, best, name)) {
			best, name, ok = s, text, true
		}
	}
	return name, best.addr, ok
}

// better tells which of two names for the same code is the public one: accept, not
// __libc_accept.
func better(s elfSymbol, name string, than elfSymbol, thanName string) bool {
	if a, b := underscores(name), underscores(thanName); a != b {
		return a < b
	}
	if a, b := s.binding == elf.STB_LOCAL, than.binding == elf.STB_LOCAL; a != b {
		return b
	}
	return cmp.Or(cmp.Compare(len(name), len(thanName)), cmp.Compare(name, thanName)) < 0
}

func underscores(name string) int { return len(name) - len(bytes.TrimLeft([]byte(name), "_")) }

func (t *symbolTable) name(s elfSymbol) string { return textAt(t.names, uint64(s.name)) }
