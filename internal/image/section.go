// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"compress/zlib"
	"context"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/xi2/xz"
)

const (
	maxRead     = 256 << 20 // bytes of a module's sections, in sum
	maxInflated = 128 << 20 // bytes of one section, decompressed
	maxXZDict   = 64 << 20  // that of xz -9
	maxBuildID  = 64
	chunk       = 1 << 20 // bytes read between two looks at the deadline
)

// Section gives the first section of a name that has bytes in the file.
func (m *Module) Section(name string) (Section, bool) {
	for _, s := range m.Sections {
		if s.Name == name && s.Type != elf.SHT_NOBITS && s.Size > 0 {
			return s, true
		}
	}
	return Section{}, false
}

// Data reads a section, decompressed if it is (SHF_COMPRESSED with zlib). The bytes
// are the caller's. What a module gives is bounded in sum, so sections are read once
// and kept. The error wraps ErrTooLarge, ErrMalformed, that of ctx or of the kernel.
func (m *Module) Data(ctx context.Context, s Section) ([]byte, error) {
	data, err := m.data(ctx, s)
	if err != nil {
		return nil, fmt.Errorf("section %s: %w", s.Name, err)
	}
	return data, nil
}

func (m *Module) data(ctx context.Context, s Section) ([]byte, error) {
	if s.Type == elf.SHT_NOBITS {
		return nil, nil
	}
	if s.Flags&elf.SHF_COMPRESSED == 0 {
		if err := m.spend(s.Size); err != nil {
			return nil, err
		}
		return m.bytes(ctx, s.Offset, s.Size)
	}
	var header elf.Chdr64
	length := uint64(binary.Size(header))
	if s.Size < length || !m.inside(s.Offset, s.Size) {
		return nil, fmt.Errorf("no header of a compressed section: %w", ErrMalformed)
	}
	if err := m.decode(ctx, s.Offset, &header); err != nil {
		return nil, err
	}
	if elf.CompressionType(header.Type) != elf.COMPRESS_ZLIB {
		return nil, fmt.Errorf("compressed in a way not known here (%v)", elf.CompressionType(header.Type))
	}
	if header.Size > maxInflated {
		return nil, fmt.Errorf("%d bytes decompressed: %w", header.Size, ErrTooLarge)
	}
	if err := m.spend(header.Size); err != nil {
		return nil, err
	}
	inflater, err := zlib.NewReader(io.NewSectionReader(m.file, int64(s.Offset+length), int64(s.Size-length)))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return readAll(ctx, inflater, int64(header.Size))
}

// MiniDebug opens the ELF file inside .gnu_debugdata: an xz-compressed symbol table
// of what a stripped file does not export. ok is false if there is none.
func (m *Module) MiniDebug(ctx context.Context) (mini *Module, ok bool, err error) {
	s, ok := m.Section(".gnu_debugdata")
	if !ok {
		return nil, false, nil
	}
	mini, err = m.miniDebug(ctx, s)
	if err != nil {
		return nil, true, fmt.Errorf("section %s: %w", s.Name, err)
	}
	return mini, true, nil
}

func (m *Module) miniDebug(ctx context.Context, s Section) (*Module, error) {
	packed, err := m.data(ctx, s)
	if err != nil {
		return nil, err
	}
	inflater, err := xz.NewReader(bytes.NewReader(packed), maxXZDict)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	data, err := readAll(ctx, inflater, maxInflated)
	if err != nil {
		return nil, err
	}
	return newModule(ctx, bytesReader(data), int64(len(data)), m.Path)
}

// BuildID is the id of the build in hexadecimal digits, empty if the file has none.
func (m *Module) BuildID(ctx context.Context) string {
	s, ok := m.Section(".note.gnu.build-id")
	const header = 16 // name size, description size, type, GNU\0
	if !ok || s.Size < header || s.Size > header+maxBuildID {
		return ""
	}
	note, err := m.bytes(ctx, s.Offset, s.Size)
	if err != nil || string(note[12:header]) != "GNU\x00" {
		return ""
	}
	length := binary.LittleEndian.Uint32(note[4:])
	if uint64(length) > uint64(len(note)-header) {
		return ""
	}
	return hex.EncodeToString(note[header : header+length])
}

// ReadAt fills data from an ELF virtual address on.
func (m *Module) ReadAt(ctx context.Context, data []byte, virtual uint64) error {
	offset, ok := m.FileOffset(virtual)
	if !ok {
		return fmt.Errorf("address %#x is not in the file: %w", virtual, ErrMalformed)
	}
	read, err := m.bytes(ctx, offset, uint64(len(data)))
	copy(data, read)
	return err
}

// spend counts what is read of a module.
func (m *Module) spend(n uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n > maxRead-m.read {
		return fmt.Errorf("%d bytes after %d: %w", n, m.read, ErrTooLarge)
	}
	m.read += n
	return nil
}

// Spent is how many bytes of sections were read: what a holder of them keeps.
func (m *Module) Spent() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.read
}

func (m *Module) inside(offset, size uint64) bool {
	return offset <= m.size && size <= m.size-offset
}

// bytes reads a part of the file, all of it or an error.
func (m *Module) bytes(ctx context.Context, offset, size uint64) ([]byte, error) {
	if !m.inside(offset, size) {
		return nil, fmt.Errorf("%d bytes at %d of %d: %w", size, offset, m.size, ErrMalformed)
	}
	data := make([]byte, size)
	for done := uint64(0); done < size; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		part := data[done:min(done+chunk, size)]
		if _, err := m.file.ReadAt(part, int64(offset+done)); err != nil {
			return nil, err
		}
		done += uint64(len(part))
	}
	return data, nil
}

// decode reads a structure, or a slice of them, of the file.
func (m *Module) decode(ctx context.Context, offset uint64, into any) error {
	data, err := m.bytes(ctx, offset, uint64(binary.Size(into)))
	if err != nil {
		return err
	}
	_, err = binary.Decode(data, binary.LittleEndian, into)
	return err
}
