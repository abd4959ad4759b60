// SPDX-License-Identifier: Apache-2.0

package unwind

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"math/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	delve "github.com/go-delve/delve/pkg/dwarf/frame"
)

// libc finds the C library of this machine.
func libc(t testing.TB) *elf.File {
	t.Helper()
	paths, _ := filepath.Glob("/lib/*-linux-gnu/libc.so.6")
	if len(paths) == 0 {
		t.Fatal("no libc")
	}
	f, err := elf.Open(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// tableOf reads the sections of a file.
func tableOf(f *elf.File) (*Table, error) {
	var frames, header Section
	for name, to := range map[string]*Section{".eh_frame": &frames, ".eh_frame_hdr": &header} {
		if s := f.Section(name); s != nil && s.Type != elf.SHT_NOBITS {
			data, err := s.Data()
			if err != nil {
				return nil, err
			}
			*to = Section{data, s.Addr}
		}
	}
	return NewTable(frames, header)
}

func table(t testing.TB, f *elf.File) *Table {
	t.Helper()
	table, err := tableOf(f)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// The linker's sorted table and our own must find the same for every function of libc, at
// its first and its last address, and nothing between functions.
func TestSortedTables(t *testing.T) {
	linked := table(t, libc(t))
	scanned := newTable(linked.section, section{})
	if linked.pairs == nil || scanned.pairs != nil {
		t.Fatal("not the tables that are to be compared")
	}
	if got, want := len(linked.pairs)/8, len(scanned.functions); got != want {
		t.Errorf("%d functions in .eh_frame_hdr, %d in .eh_frame", got, want)
	}
	for _, f := range scanned.functions {
		e, ok := linked.section.fde(f.pos, &lastCIE{})
		if !ok || e.pc != f.pc {
			t.Fatalf("FDE at %#x: %v", f.pos, ok)
		}
		for _, pc := range []uint64{e.pc - 1, e.pc, e.pc + e.size - 1, e.pc + e.size} {
			one, ok1 := linked.find(pc)
			two, ok2 := scanned.find(pc)
			if ok1 != ok2 || ok1 && one != two {
				t.Errorf("%#x: %v %v, %v %v", pc, one, ok1, two, ok2)
			}
			if inside := pc-e.pc < e.size; inside && (!ok1 || one.pc != e.pc) {
				t.Errorf("%#x: found %#x, %v", pc, one.pc, ok1)
			}
		}
	}
	for _, pc := range []uint64{0, 1, ^uint64(0)} {
		if _, ok := linked.find(pc); ok {
			t.Errorf("%#x is in a function", pc)
		}
	}
}

// An implementation by others must have the same rules everywhere in libc.
func TestRulesAgainstDelve(t *testing.T) {
	tab := table(t, libc(t))
	entries, err := delve.Parse(tab.section.data, binary.LittleEndian, 0, 8, tab.section.addr)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(tab.pairs)/8 {
		t.Errorf("%d functions, delve has %d", len(tab.pairs)/8, len(entries))
	}
	var rows int
	for _, entry := range entries {
		e, ok := tab.find(entry.Begin())
		if !ok || e.pc != entry.Begin() || e.pc+e.size != entry.End() {
			t.Fatalf("function at %#x: %v %#x+%#x", entry.Begin(), ok, e.pc, e.size)
		}
		p := program{arch: AMD64, section: &tab.section, entry: e}
		for pc := entry.Begin(); pc < entry.End(); pc += 1 + (entry.End()-entry.Begin())/32 {
			theirs, err := entry.EstablishFrame(pc)
			if err != nil {
				t.Fatal(err)
			}
			if !p.run(pc) {
				t.Fatalf("%#x: no rules", pc)
			}
			rows++
			if !same(tab, p.now.cfa, theirs.CFA, true) {
				t.Fatalf("%#x: CFA %+v, delve has %+v", pc, p.now.cfa, theirs.CFA)
			}
			for reg := range uint64(17) {
				other, ok := theirs.Regs[reg]
				if !ok {
					other.Rule = delve.RuleSameVal
				}
				if !same(tab, p.now.regs[reg], other, false) {
					t.Fatalf("%#x: register %d %+v, delve has %+v", pc, reg, p.now.regs[reg], other)
				}
			}
		}
	}
	t.Logf("%d functions, %d rows", len(entries), rows)
}

// same compares a rule with delve's. After DW_CFA_restore delve has undefined where the
// initial rule is that nothing was saved.
func same(tab *Table, r rule, other delve.DWRule, cfa bool) bool {
	code := func() []byte { return tab.section.data[r.value>>32 : uint32(r.value)] }
	switch r.kind {
	case keep:
		return other.Rule == delve.RuleSameVal || other.Rule == delve.RuleUndefined
	case undefined:
		return other.Rule == delve.RuleUndefined
	case offset:
		return other.Rule == delve.RuleOffset && other.Offset == r.value
	case inRegister:
		return other.Reg == uint64(r.reg) && (cfa && other.Rule == delve.RuleCFA && other.Offset == r.value || other.Rule == delve.RuleRegister)
	case expression:
		return other.Rule == delve.RuleExpression && bytes.Equal(other.Expression, code())
	case valExpression:
		return other.Rule == delve.RuleValExpression && bytes.Equal(other.Expression, code())
	}
	return false
}

func TestNoTable(t *testing.T) {
	f, err := elf.Open(programs.golang)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if table, err := tableOf(f); table != nil || !errors.Is(err, ErrNoTable) {
		t.Errorf("%v, %v", table, err)
	}
}

// exercise uses a table for all there is to find with it.
func exercise(tab *Table, arch Arch, pc uint64) {
	stack := Stack{Base: 0x7000, Bytes: bytes.Repeat([]byte{0x40, 0x71, 0, 0, 0, 0, 0, 0}, 64)}
	regs := Registers{Arch: arch, PC: pc, SP: 0x7000}
	for i := range registers {
		regs.Set(i, 0x7000+uint64(i)*8)
	}
	frames, stop := Unwind(regs, stack, func(uint64) (*Table, uint64, bool) { return tab, 0, true })
	if len(frames) == 0 || len(frames) > MaxFrames || stop == 0 {
		panic("no frames, or too many, or no reason")
	}
}

// 1,000 copies of libc's tables with a few bytes changed must do no harm and take no longer.
func TestCorrupted(t *testing.T) {
	good := table(t, libc(t))
	random := rand.New(rand.NewSource(1))
	frames := bytes.Clone(good.section.data)
	header := bytes.Clone(good.header.data)
	began := time.Now()
	for n := range 1000 {
		spot := random.Intn(len(frames) - 64)
		for range 1 + random.Intn(16) {
			frames[spot+random.Intn(64)] = byte(random.Intn(256))
			frames[random.Intn(len(frames))] = byte(random.Intn(256))
			header[random.Intn(len(header))] = byte(random.Intn(256))
		}
		tab := newTable(section{frames, good.section.addr}, section{header, good.header.addr})
		if n%10 == 0 {
			tab = newTable(section{frames, good.section.addr}, section{})
		}
		for range 200 {
			i := random.Intn(len(good.pairs) / 8)
			exercise(tab, Arch(1+n%2), good.pair(i*2)+uint64(random.Intn(64)))
		}
		if n%20 == 0 { // or else there is soon nothing left of it
			copy(frames, good.section.data)
			copy(header, good.header.data)
		}
	}
	t.Log(time.Since(began))
	if took := time.Since(began); took > time.Minute {
		t.Errorf("took %v", took)
	}
}

// 1,000 corrupted files must do no harm either.
func TestCorruptedFile(t *testing.T) {
	good, err := os.ReadFile(programs.pie)
	if err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewSource(2))
	for range 1000 {
		bad := bytes.Clone(good)
		for range 1 + random.Intn(8) {
			bad[random.Intn(64)] = byte(random.Intn(256))
			bad[len(bad)-1-random.Intn(3000)] = byte(random.Intn(256)) // section headers
		}
		copy(bad, good[:20])
		f, err := elf.NewFile(bytes.NewReader(bad))
		if err != nil {
			continue
		}
		if tab, err := tableOf(f); err == nil {
			exercise(tab, AMD64, f.Entry+16)
		}
	}
}

// The most that a table can cost: each instruction copies all rules, in as many frames as
// there may be.
func TestWorst(t *testing.T) {
	var e entries
	cie := e.add(0, 1, 'z', 'R', 0, 1, 0x78, 16, 1, 0, 0x0c, 7, 8, 0x90, 1)
	e.function(cie, 0x1000, 0x100, bytes.Repeat([]byte{0x0a, 0x0b}, maxEntry/2-16)...)
	tab := newTable(section{e.data, 0}, section{})
	stack := make([]uint64, 2*MaxFrames)
	for i := range stack {
		stack[i] = 0x1010
	}
	began := time.Now()
	regs := Registers{Arch: AMD64, PC: 0x1010, SP: 0x7000}
	frames, stop := Unwind(regs, words(stack...), func(uint64) (*Table, uint64, bool) { return tab, 0, true })
	if took := time.Since(began); len(frames) != MaxFrames || stop != Limit || took > 5*time.Second {
		t.Errorf("%d frames, %v, in %v", len(frames), stop, took)
	}
	t.Log(time.Since(began))
}
