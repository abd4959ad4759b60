// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"sync"
)

const (
	maxSegments = 1024
	maxSections = 16384
	maxNames    = 1 << 20 // bytes of the names of sections
)

// debug/elf trusts the number of sections and inflates their names without a
// bound, so the headers are read here; its constants and layouts serve.

// Section is one header of a section, with nothing checked but its place in the
// file.
type Section struct {
	Name         string
	Type         elf.SectionType
	Flags        elf.SectionFlag
	Addr         uint64 // ELF virtual address
	Offset, Size uint64 // in the file
	Link         uint32
}

// Module is an ELF file, 64 bits little-endian as on amd64 and arm64. Its methods
// may be called by several goroutines.
type Module struct {
	Path     string // as in Mapping
	Sections []Section
	Type     elf.Type

	file   io.ReaderAt
	closer *os.File // nil for what is no file
	size   uint64
	loads  []elf.Prog64

	mu   sync.Mutex
	read uint64 // bytes of sections handed out so far
}

func bytesReader(data []byte) io.ReaderAt { return bytes.NewReader(data) }

// OpenFile reads the headers of an ELF file. The module takes the file over. The
// error wraps ErrMalformed, ErrTooLarge or that of the kernel; the file is then
// closed.
func OpenFile(ctx context.Context, file *os.File) (*Module, error) {
	info, err := file.Stat()
	if err == nil {
		var m *Module
		if m, err = newModule(ctx, file, info.Size(), file.Name()); err == nil {
			m.closer = file
			return m, nil
		}
	}
	file.Close()
	return nil, fmt.Errorf("read %s: %w", file.Name(), err)
}

func newModule(ctx context.Context, r io.ReaderAt, size int64, path string) (*Module, error) {
	if size > maxFile {
		return nil, fmt.Errorf("%d bytes: %w", size, ErrTooLarge)
	}
	m := &Module{Path: path, file: r, size: uint64(size)}
	var h elf.Header64
	if err := m.decode(ctx, 0, &h); err != nil {
		return nil, err
	}
	if string(h.Ident[:4]) != elf.ELFMAG {
		return nil, fmt.Errorf("no ELF file: %w", ErrMalformed)
	}
	if elf.Class(h.Ident[elf.EI_CLASS]) != elf.ELFCLASS64 || elf.Data(h.Ident[elf.EI_DATA]) != elf.ELFDATA2LSB {
		return nil, fmt.Errorf("not 64 bits little-endian: %w", ErrMalformed)
	}
	m.Type = elf.Type(h.Type)
	if err := m.readSegments(ctx, h); err != nil {
		return nil, err
	}
	return m, m.readSections(ctx, h)
}

func (m *Module) readSegments(ctx context.Context, h elf.Header64) error {
	if h.Phnum == 0 {
		return nil
	}
	if h.Phnum > maxSegments || int(h.Phentsize) != binary.Size(elf.Prog64{}) {
		return fmt.Errorf("%d program headers of %d bytes: %w", h.Phnum, h.Phentsize, ErrMalformed)
	}
	progs := make([]elf.Prog64, h.Phnum)
	if err := m.decode(ctx, h.Phoff, progs); err != nil {
		return err
	}
	for _, p := range progs {
		if elf.ProgType(p.Type) == elf.PT_LOAD {
			m.loads = append(m.loads, p)
		}
	}
	return nil
}

// readSections takes what is there: a file may do without sections, and the
// headers of the vdso may be cut off.
func (m *Module) readSections(ctx context.Context, h elf.Header64) error {
	if h.Shnum == 0 {
		return nil
	}
	if h.Shnum > maxSections || int(h.Shentsize) != binary.Size(elf.Section64{}) || h.Shstrndx >= h.Shnum {
		return fmt.Errorf("%d section headers of %d bytes: %w", h.Shnum, h.Shentsize, ErrMalformed)
	}
	headers := make([]elf.Section64, h.Shnum)
	if err := m.decode(ctx, h.Shoff, headers); err != nil {
		return err
	}
	strings := headers[h.Shstrndx]
	if strings.Size > maxNames {
		return fmt.Errorf("%d bytes of section names: %w", strings.Size, ErrTooLarge)
	}
	names, err := m.bytes(ctx, strings.Off, strings.Size)
	if err != nil {
		return err
	}
	for _, s := range headers {
		m.Sections = append(m.Sections, Section{
			Name: cString(names, s.Name), Type: elf.SectionType(s.Type), Flags: elf.SectionFlag(s.Flags),
			Addr: s.Addr, Offset: s.Off, Size: s.Size, Link: s.Link,
		})
	}
	return nil
}

// cString is the text up to the next 0, or nothing if it is not in there or has
// more than 255 bytes.
func cString(table []byte, offset uint32) string {
	if uint64(offset) >= uint64(len(table)) {
		return ""
	}
	text := table[offset:]
	end := bytes.IndexByte(text[:min(len(text), 256)], 0)
	if end < 0 {
		return ""
	}
	return string(text[:end])
}

// Address converts an address in the process, inside a mapping of this file, to the
// ELF virtual address: what symbols, DWARF and addr2line use. ok is false if no
// segment of the file covers it.
func (m *Module) Address(in Mapping, address uint64) (virtual uint64, ok bool) {
	offset := address - in.Begin + in.Offset
	for _, p := range m.loads {
		if offset >= p.Off && offset-p.Off < p.Filesz {
			return offset - p.Off + p.Vaddr, true
		}
	}
	return 0, false
}

// FileOffset is the reverse of Address as far as the file goes.
func (m *Module) FileOffset(virtual uint64) (offset uint64, ok bool) {
	for _, p := range m.loads {
		if virtual >= p.Vaddr && virtual-p.Vaddr < p.Filesz {
			return virtual - p.Vaddr + p.Off, true
		}
	}
	return 0, false
}

// Close closes the file.
func (m *Module) Close() error {
	if m.closer == nil {
		return nil
	}
	return m.closer.Close()
}
