// SPDX-License-Identifier: Apache-2.0

package symbol

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"

	"afterfin/internal/image"
)

// Where these fields are in runtime.moduledata, in words of 64 bits. Up to the text
// nothing has changed since Go 1.16; Go 1.20 put two words before go:func.*.
const (
	goDataTable   = 0
	goDataMinPC   = 20
	goDataMaxPC   = 21
	goDataText    = 22
	goDataFuncs   = 40
	goDataWords   = 41
	maxCandidates = 16
)

// goData are the sections that may hold moduledata: its own since Go 1.26, those of
// data before.
var goData = [...]string{".go.module", ".noptrdata", ".data", ".data.rel.ro"}

// place finds where the code begins. Go up to 1.25 has it in the table, though only
// the dynamic linker puts it there in PIE; moduledata always has it. Moduledata is
// told by its pointer to the table, and proven by the ends of the code.
func (t *goTable) place(ctx context.Context, m *image.Module, table uint64) error {
	relocated, err := readRelocations(ctx, m)
	if err != nil {
		return err
	}
	for _, at := range relocated.pointingTo(table) {
		if t.tryModuleData(ctx, m, relocated, at, table) {
			return nil
		}
	}
	var pointer [8]byte
	binary.LittleEndian.PutUint64(pointer[:], table)
	for _, name := range goData {
		section, ok := m.Section(name)
		if !ok {
			continue
		}
		data, err := m.Data(ctx, section)
		if err != nil {
			return err
		}
		for at, tries := 0, 0; tries < maxCandidates; tries++ {
			next := bytes.Index(data[at:], pointer[:])
			if next < 0 {
				break
			}
			at += next
			if err := ctx.Err(); err != nil {
				return err
			}
			if t.tryModuleData(ctx, m, relocated, section.Addr+uint64(at), table) {
				return nil
			}
			at++
		}
	}
	if t.text == 0 {
		return fmt.Errorf("where the code begins is not known: %w", image.ErrMalformed)
	}
	return nil
}

// tryModuleData takes the moduledata at an ELF virtual address, if it is one.
func (t *goTable) tryModuleData(ctx context.Context, m *image.Module, r relocations, at, table uint64) bool {
	var raw [8 * goDataWords]byte
	if err := m.ReadAt(ctx, raw[:], at); err != nil {
		return false
	}
	var words [goDataWords]uint64
	for i := range words {
		words[i] = binary.LittleEndian.Uint64(raw[8*i:])
	}
	r.apply(at, words[:])
	text := words[goDataText]
	if words[goDataTable] != table || text == 0 ||
		words[goDataMinPC] != text+t.start(0) || words[goDataMaxPC] != text+t.start(t.functions) {
		return false
	}
	t.text = text
	if funcs := words[goDataFuncs]; funcs != 0 {
		t.tree = func(ctx context.Context, data []byte, offset uint32) bool {
			return m.ReadAt(ctx, data, funcs+uint64(offset)) == nil
		}
	}
	return true
}

// relocations are the sections of Elf64_Rela that the dynamic linker applies.
type relocations [][]byte

// relaSize is that of an Elf64_Rela: where, what kind, and the value.
const relaSize = 24

func readRelocations(ctx context.Context, m *image.Module) (relocations, error) {
	var all relocations
	for _, s := range m.Sections {
		if s.Type != elf.SHT_RELA || s.Flags&elf.SHF_ALLOC == 0 {
			continue
		}
		data, err := m.Data(ctx, s)
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

// each calls do for the relocations that set a word to an address in the file.
func (r relocations) each(do func(at, value uint64)) {
	for _, data := range r {
		for ; len(data) >= relaSize; data = data[relaSize:] {
			switch binary.LittleEndian.Uint64(data[8:]) {
			case uint64(elf.R_X86_64_RELATIVE), uint64(elf.R_AARCH64_RELATIVE):
				do(binary.LittleEndian.Uint64(data), binary.LittleEndian.Uint64(data[16:]))
			}
		}
	}
}

// pointingTo gives the addresses of words that get a value.
func (r relocations) pointingTo(value uint64) (found []uint64) {
	r.each(func(at, v uint64) {
		if v == value && len(found) < maxCandidates {
			found = append(found, at)
		}
	})
	return found
}

// apply sets those of the words that begin at an address.
func (r relocations) apply(begin uint64, words []uint64) {
	r.each(func(at, value uint64) {
		if i := (at - begin) / 8; at >= begin && at%8 == begin%8 && i < uint64(len(words)) {
			words[i] = value
		}
	})
}
