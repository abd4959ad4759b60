// SPDX-License-Identifier: Apache-2.0

package symbol

import (
	"context"
	"debug/elf"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"afterfin/internal/image"
)

const (
	corrupted = 1000
	// What one file may take; the largest has 2 MB.
	maxHeap  = 64 << 20
	maxTotal = 64 << 20
)

// victim is a file that is corrupted, and addresses of functions in it.
type victim struct {
	data      []byte
	places    [][2]int // begin and end of what is corrupted
	addresses []uint64
}

// TestCorrupted resolves in files in which parts were overwritten or cut off. Any
// answer will do, in time and in bounded memory.
func TestCorrupted(t *testing.T) {
	img, err := image.Read(t.Context(), os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	victims := []victim{
		newVictim(t, gcc(t, "-g", "-gz=zlib")),
		newVictim(t, gcc(t, "-g", "-static-pie", "-fPIE")),
		newVictim(t, gcc(t, "-gdwarf-4")),
		newVictim(t, miniDebug(t)),
		newVictim(t, buildGo(t, []string{"CGO_ENABLED=0"}, "-buildmode=pie", "-ldflags=-s -w")),
		newVictim(t, libc(t)),
	}
	random := rand.New(rand.NewPCG(1, 2))
	path := filepath.Join(t.TempDir(), "corrupted")
	named := 0
	var slowest time.Duration
	var most, heap uint64
	for i := range corrupted {
		v := victims[i%len(victims)]
		if err := os.WriteFile(path, v.corrupt(random), 0o600); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		begin := time.Now()
		named += resolveFile(t, img, path, v.addresses)
		took := time.Since(begin)
		runtime.ReadMemStats(&after)
		total := after.TotalAlloc - before.TotalAlloc
		if took > maxModuleTime || total > maxTotal || after.HeapSys-after.HeapReleased > maxHeap {
			t.Fatalf("file %d took %v, %d bytes, and the heap has %d", i, took, total, after.HeapSys-after.HeapReleased)
		}
		slowest, most, heap = max(slowest, took), max(most, total), max(heap, after.HeapSys-after.HeapReleased)
	}
	t.Logf("%d names from %d files; at most %v and %d MB for one, heap %d MB", named, corrupted, slowest, most>>20, heap>>20)
	if named == 0 {
		t.Error("not one name was found: the files are worse than they should be")
	}
}

func newVictim(t *testing.T, path string) victim {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.OpenFile(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	v := victim{}
	if v.data, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	v.places = append(v.places, [2]int{0, 64}, [2]int{64, 64 + 56*8}) // the header, those of segments
	if end := len(v.data); len(m.Sections) > 0 {
		v.places = append(v.places, [2]int{end - 64*len(m.Sections), end}) // mostly those of sections
	}
	for _, name := range []string{".symtab", ".strtab", ".dynsym", ".gopclntab", ".go.module", ".rela",
		".debug_line", ".debug_line_str", ".gnu_debugdata"} {
		s, ok := m.Section(name)
		if !ok {
			continue
		}
		v.places = append(v.places, [2]int{int(s.Offset), int(s.Offset + s.Size)})
		v.places = append(v.places, [2]int{int(s.Offset), int(s.Offset + min(s.Size, 128))}) // its own header
	}
	text, ok := m.Section(".text")
	if !ok {
		t.Fatalf("%s has no code", path)
	}
	for i := range uint64(64) {
		v.addresses = append(v.addresses, text.Addr+text.Size/64*i)
	}
	return v
}

// corrupt gives a copy that is worse in one to three places.
func (v victim) corrupt(random *rand.Rand) []byte {
	data := append([]byte(nil), v.data...)
	for range 1 + random.IntN(3) {
		place := v.places[random.IntN(len(v.places))]
		size := place[1] - place[0]
		switch random.IntN(4) {
		case 0: // some bits
			for range 1 + random.IntN(64) {
				data[place[0]+random.IntN(size)] ^= 1 << random.IntN(8)
			}
		case 1: // some bytes
			for range 1 + random.IntN(64) {
				data[place[0]+random.IntN(size)] = byte(random.Uint32())
			}
		case 2: // a number at a limit
			limits := []uint64{0, 1, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<63 - 1, 1 << 63, 1<<64 - 1}
			limit := limits[random.IntN(len(limits))]
			at := place[0] + random.IntN(size)&^3
			for i := range 8 {
				if at+i < place[1] {
					data[at+i] = byte(limit >> (8 * i))
				}
			}
		case 3: // a run of one byte
			at := place[0] + random.IntN(size)
			value := byte(random.Uint32())
			for i := at; i < min(at+random.IntN(4096), place[1]); i++ {
				data[i] = value
			}
		}
	}
	if random.IntN(8) == 0 {
		data = data[:random.IntN(len(data))]
	}
	return data
}

// resolveFile looks all addresses up and gives the number of those that have names.
func resolveFile(t *testing.T, img *image.Image, path string, addresses []uint64) (named int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), maxModuleTime)
	defer cancel()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.OpenFile(ctx, file)
	if err != nil {
		return 0
	}
	defer m.Close()
	tables := &tables{module: m}
	defer tables.close()
	for _, address := range append(addresses, 0, 1<<63, 1<<64-1) {
		for _, f := range tables.frames(t.Context(), ctx, img, Frame{Module: path, Offset: address, Quality: Module}) {
			if len(f.Function) > maxName || len(f.File) > maxName || len(f.Note) > maxName || f.Line < 0 {
				t.Errorf("frame %+v", f)
			}
			if f.Function != "" {
				named++
			}
		}
	}
	return named
}

// libc is the one mapped into a C program.
func libc(t *testing.T) string {
	t.Helper()
	s := startC(t, "", gcc(t))
	return resolve(t, s.pid, s.accept)[0].Module
}

// tinyGoTable has one function, main.f, of 16 bytes, with f.go:7 for all of them.
func tinyGoTable() []byte {
	little := binary.LittleEndian
	data := little.AppendUint32(nil, goMagic120)
	data = append(data, 0, 0, 1, 8)
	const names, units, files, values, funcs = 72, 88, 92, 100, 112
	for _, word := range []uint64{1, 1, 0x1000, names, units, files, values, funcs} {
		data = little.AppendUint64(data, word)
	}
	data = append(data, "\x00main.f\x00\x00\x00\x00\x00\x00\x00\x00\x00"...)
	data = append(data, 0, 0, 0, 0)                            // the file of number 0
	data = append(data, "f.go\x00\x00\x00\x00"...)             // and its name
	data = append(data, 0, 2, 16, 0, 16, 16, 0, 0, 0, 0, 0, 0) // -1+1 and -1+8, for 16 bytes each
	for _, word := range []uint32{0, 12, 16, 0, 1, 0, 0, 0, 1, 4, 0, 0, 7, 0} {
		data = little.AppendUint32(data, word)
	}
	return data
}

func TestTinyGoTable(t *testing.T) {
	table, err := parseGoTable(tinyGoTable())
	if err != nil {
		t.Fatal(err)
	}
	want := Frame{Function: "main.f", File: "f.go", Line: 7, Offset: 0x1002, Quality: Line}
	if frames := table.frames(t.Context(), Frame{Offset: 0x1002}); len(frames) != 1 || frames[0] != want {
		t.Errorf("%+v, want %+v", frames, want)
	}
	for _, outside := range []uint64{0, 0xfff, 0x1010, 1<<64 - 1} {
		if frames := table.frames(t.Context(), Frame{Offset: outside}); frames != nil {
			t.Errorf("%#x is %+v", outside, frames)
		}
	}
}

// The tables of Go are read in place: what they say is checked at each step.
func FuzzGoTable(f *testing.F) {
	f.Add(tinyGoTable(), uint64(0x1002))
	f.Fuzz(func(t *testing.T, data []byte, address uint64) {
		table, err := parseGoTable(data)
		if err != nil {
			return
		}
		if table.text == 0 {
			table.text = 0x1000
		}
		table.tree = func(_ context.Context, entry []byte, offset uint32) bool {
			return uint64(offset) < uint64(len(data)) && copy(entry, data[offset:]) == len(entry)
		}
		for _, a := range []uint64{address, table.text, table.text + table.start(table.functions) - 1} {
			if n := len(table.frames(t.Context(), Frame{Offset: a})); n > maxGoInlined+1 {
				t.Errorf("%d frames", n)
			}
		}
	})
}

func FuzzLines(f *testing.F) {
	for _, flag := range []string{"-gdwarf-3", "-gdwarf-4", "-gdwarf-5"} {
		f.Add(section(f, gcc(f, flag), ".debug_line"), []byte("main.c\x00"), uint64(0x1000))
	}
	f.Fuzz(func(t *testing.T, data, texts []byte, address uint64) {
		table := &lineTable{data: data, texts: texts, lineTexts: texts}
		if err := table.index(t.Context()); err != nil {
			return
		}
		for _, run := range table.runs {
			table.find(t.Context(), run.begin)
		}
		table.find(t.Context(), address)
	})
}

// section gives the bytes of a section.
func section(t testing.TB, path, name string) []byte {
	t.Helper()
	file, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	data, err := file.Section(name).Data()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func FuzzSymbols(f *testing.F) {
	f.Add(make([]byte, 48), []byte("\x00main\x00"), uint64(0x1000))
	f.Fuzz(func(t *testing.T, data, names []byte, address uint64) {
		table := &symbolTable{names: names}
		if err := table.parse(t.Context(), data); err != nil {
			t.Fatal(err)
		}
		if name, _, ok := table.find(address); ok {
			demangled(name)
		}
	})
}
