// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"compress/zlib"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"
)

// tinyELF has one section of a name, in one segment that is mapped at 0x1000.
func tinyELF(name string, flags elf.SectionFlag, data []byte) []byte {
	const header, segment, section = 64, 56, 64
	names := "\x00" + name + "\x00.shstrtab\x00"
	begin := uint64(header + segment + 3*section)
	var file bytes.Buffer
	write := func(v any) { binary.Write(&file, binary.LittleEndian, v) }
	write(elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1},
		Type:  uint16(elf.ET_DYN), Phoff: header, Phentsize: segment, Phnum: 1,
		Shoff: header + segment, Shentsize: section, Shnum: 3, Shstrndx: 2,
	})
	write(elf.Prog64{Type: uint32(elf.PT_LOAD), Off: begin, Vaddr: 0x1000, Filesz: uint64(len(data))})
	write([]elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Flags: uint64(flags), Addr: 0x1000, Off: begin, Size: uint64(len(data))},
		{Name: uint32(len(name) + 2), Type: uint32(elf.SHT_STRTAB), Off: begin + uint64(len(data)), Size: uint64(len(names))},
	})
	file.Write(data)
	file.WriteString(names)
	return file.Bytes()
}

func open(t *testing.T, data []byte) *Module {
	t.Helper()
	m, err := newModule(t.Context(), bytesReader(data), int64(len(data)), "tiny")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestModule(t *testing.T) {
	m := open(t, tinyELF(".text", 0, []byte("twelve bytes")))
	s, ok := m.Section(".text")
	if !ok {
		t.Fatalf("sections %+v", m.Sections)
	}
	if data, err := m.Data(t.Context(), s); string(data) != "twelve bytes" || err != nil {
		t.Errorf("data %q, %v", data, err)
	}
	in := Mapping{Begin: 0x7f0000000000, End: 0x7f0000001000}
	begin := in.Begin + s.Offset
	for address, want := range map[uint64]uint64{begin: 0x1000, begin + 11: 0x100b} {
		if got, ok := m.Address(in, address); got != want || !ok {
			t.Errorf("%#x is %#x, want %#x", address, got, want)
		}
		if offset, ok := m.FileOffset(want); offset != address-in.Begin || !ok {
			t.Errorf("%#x is at %#x in the file", want, offset)
		}
	}
	for _, outside := range []uint64{begin - 1, begin + 12} {
		if got, ok := m.Address(in, outside); ok {
			t.Errorf("%#x is %#x", outside, got)
		}
	}
}

func TestCompressed(t *testing.T) {
	want := bytes.Repeat([]byte("symbol"), 1000)
	m := open(t, tinyELF(".debug_line", elf.SHF_COMPRESSED, deflated(elf.COMPRESS_ZLIB, uint64(len(want)), want)))
	s, _ := m.Section(".debug_line")
	if got, err := m.Data(t.Context(), s); !bytes.Equal(got, want) || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// deflated is the content of a compressed section that claims a size.
func deflated(kind elf.CompressionType, claimed uint64, data []byte) []byte {
	var section bytes.Buffer
	binary.Write(&section, binary.LittleEndian, elf.Chdr64{Type: uint32(kind), Size: claimed})
	w := zlib.NewWriter(&section)
	w.Write(data)
	w.Close()
	return section.Bytes()
}

// A small file may claim or hold any amount of data.
func TestBombs(t *testing.T) {
	zeros := make([]byte, maxInflated+1)
	xz := exec.Command("xz", "-0", "-c")
	xz.Stdin = bytes.NewReader(zeros)
	packed, err := xz.Output()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		section string
		flags   elf.SectionFlag
		data    []byte
		want    error
	}{
		"more than claimed":   {".debug_line", elf.SHF_COMPRESSED, deflated(elf.COMPRESS_ZLIB, 1<<20, zeros), ErrTooLarge},
		"claims more":         {".debug_line", elf.SHF_COMPRESSED, deflated(elf.COMPRESS_ZLIB, 1<<62, nil), ErrTooLarge},
		"no header":           {".debug_line", elf.SHF_COMPRESSED, []byte{1}, ErrMalformed},
		"no zlib":             {".debug_line", elf.SHF_COMPRESSED, make([]byte, 64), nil},
		"a bomb in xz":        {".gnu_debugdata", 0, packed, ErrTooLarge},
		"half of a bomb":      {".gnu_debugdata", 0, packed[:len(packed)/2], nil},
		"no xz":               {".gnu_debugdata", 0, []byte("text"), ErrMalformed},
		"a file of no format": {".gnu_debugdata", 0, nil, nil},
	} {
		m := open(t, tinyELF(c.section, c.flags, c.data))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var err error
		if s, ok := m.Section(c.section); ok {
			_, err = m.Data(t.Context(), s)
		}
		if err == nil {
			_, _, err = m.MiniDebug(t.Context())
		}
		runtime.ReadMemStats(&after)
		if len(c.data) > 0 && err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if total := after.TotalAlloc - before.TotalAlloc; total > 8*maxInflated {
			t.Errorf("%s takes %d bytes", name, total)
		}
	}
}

// A sparse file has a terabyte for nothing.
func TestSparse(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write(tinyELF(".text", 0, []byte("x"))); err != nil {
		t.Fatal(err)
	}
	if err := file.Truncate(1 << 40); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFile(t.Context(), file); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a sparse file: %v", err)
	}
	file, err = os.Open(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	m, err := newModule(t.Context(), file, maxFile, "sparse")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Data(t.Context(), Section{Size: maxRead + 1}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a large section: %v", err)
	}
	if _, err := m.Data(t.Context(), Section{Offset: 1<<64 - 1, Size: 2}); !errors.Is(err, ErrMalformed) {
		t.Errorf("a section around the end: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	if _, err := m.Data(ctx, Section{Size: maxRead / 2}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without time: %v", err)
	}
}

func FuzzModule(f *testing.F) {
	f.Add(tinyELF(".debug_line", elf.SHF_COMPRESSED, deflated(elf.COMPRESS_ZLIB, 4, []byte("line"))))
	xz := exec.Command("xz", "-c")
	xz.Stdin = bytes.NewReader(tinyELF(".text", 0, []byte("twelve bytes")))
	packed, err := xz.Output()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tinyELF(".gnu_debugdata", 0, packed))
	f.Add(tinyELF(".note.gnu.build-id", 0, []byte("\x04\x00\x00\x00\x04\x00\x00\x00\x03\x00\x00\x00GNU\x00abcd")))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := newModule(t.Context(), bytesReader(data), int64(len(data)), "fuzz")
		if err != nil {
			return
		}
		for _, s := range m.Sections {
			m.Data(t.Context(), s)
		}
		m.MiniDebug(t.Context())
		m.BuildID(t.Context())
		m.Address(Mapping{Begin: 0x1000, End: 0x2000}, 0x1800)
	})
}

func TestBuildID(t *testing.T) {
	note := []byte("\x04\x00\x00\x00\x04\x00\x00\x00\x03\x00\x00\x00GNU\x00\x01\x23\xab\xcd")
	if id := open(t, tinyELF(".note.gnu.build-id", 0, note)).BuildID(t.Context()); id != "0123abcd" {
		t.Errorf("build id %q", id)
	}
	note[4] = 5 // more than there is
	if id := open(t, tinyELF(".note.gnu.build-id", 0, note)).BuildID(t.Context()); id != "" {
		t.Errorf("build id %q", id)
	}
}
