// SPDX-License-Identifier: Apache-2.0

package unwind

import (
	"encoding/binary"
	"reflect"
	"testing"
)

// entries builds .eh_frame by hand, with absolute addresses.
type entries struct{ data []byte }

// add adds a CIE (id 0) or an FDE, and gives its place.
func (e *entries) add(id uint32, body ...byte) int {
	at := len(e.data)
	e.data = binary.LittleEndian.AppendUint32(e.data, uint32(4+len(body)))
	e.data = binary.LittleEndian.AppendUint32(e.data, id)
	e.data = append(e.data, body...)
	return at
}

// function adds an FDE with the CIE at cie.
func (e *entries) function(cie int, pc, size uint64, program ...byte) {
	body := binary.LittleEndian.AppendUint64(nil, pc)
	body = binary.LittleEndian.AppendUint64(body, size)
	e.add(uint32(len(e.data)+4-cie), append(append(body, 0), program...)...)
}

// synthetic has functions of both instruction sets.
//
//	0x1000 amd64: CFA=rsp+8, then after 4 bytes rsp+16 with rbp saved
//	0x1100 amd64: the expression of PLT entries
//	0x1200 amd64: return address undefined
//	0x1300 amd64: CFA=rbp+16; r12 by val_offset, rbx in r13, r14 by an expression, r15 by the value of one
//	0x1400 amd64: a signal trampoline; CFA and return address by expressions
//	0x1500 amd64: CFA by an expression, rsp+8, then after 4 bytes by rsp again with the offset from before, 16
//	0x2000 arm64: nothing saved
//	0x2100 arm64: x29 and a signed x30 saved, and after 8 bytes restored
//	0x2200 arm64: x30 undefined
func synthetic() section {
	var e entries
	amd64 := e.add(0, 1, 'z', 'R', 0, 1, 0x78, 16, 1, 0, 0x0c, 7, 8, 0x90, 1)
	signal := e.add(0, 1, 'z', 'R', 'S', 0, 1, 0x78, 16, 1, 0)
	arm64 := e.add(0, 1, 'z', 'R', 0, 4, 0x78, 30, 1, 0, 0x0c, 31, 0)
	e.function(amd64, 0x1000, 0x10, 0x44, 0x0e, 16, 0x86, 2)
	e.function(amd64, 0x1100, 0x20, 0x0f, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22)
	e.function(amd64, 0x1200, 0x10, 0x07, 16)
	e.function(amd64, 0x1300, 0x10, 0x0c, 6, 16, 0x86, 2, 0x14, 12, 3, 0x09, 3, 13, 0x10, 14, 2, 0x23, 8, 0x16, 15, 2, 0x23, 8)
	e.function(signal, 0x1400, 0x10, 0x0f, 3, 0x77, 16, 0x06, 0x10, 16, 2, 0x77, 24, 0x10, 6, 2, 0x77, 32)
	e.function(amd64, 0x1500, 0x10, 0x0e, 16, 0x0f, 2, 0x77, 8, 0x44, 0x0d, 7)
	e.function(arm64, 0x2000, 0x10)
	e.function(arm64, 0x2100, 0x10, 0x2d, 0x0e, 32, 0x9d, 4, 0x9e, 3, 0x42, 0x0a, 0xdd, 0xde, 0x0e, 0, 0x2d, 0x41, 0x0b)
	e.function(arm64, 0x2200, 0x10, 0x07, 30)
	return section{e.data, 0}
}

// words is a stack at 0x7000.
func words(values ...uint64) Stack {
	s := Stack{Base: 0x7000}
	for _, v := range values {
		s.Bytes = binary.LittleEndian.AppendUint64(s.Bytes, v)
	}
	return s
}

func TestRules(t *testing.T) {
	tab := newTable(synthetic(), section{})
	if len(tab.functions) != 9 {
		t.Fatalf("%d functions", len(tab.functions))
	}
	cfi := func(pcs ...uint64) (frames []Frame) {
		for i, pc := range pcs {
			frames = append(frames, Frame{PC: pc, Exact: i == 0, How: FromTable})
		}
		frames[0].How = FromRegisters
		return frames
	}
	const signed = 0x002b_0000_0000_0000
	for _, test := range []struct {
		name  string
		arch  Arch
		pc    uint64
		set   map[int]uint64
		stack Stack
		want  []Frame
		stop  Stop
	}{
		{"offset", AMD64, 0x1000, nil, words(0x1205), cfi(0x1000, 0x1205), End},
		{"pushed", AMD64, 0x1004, nil, words(1, 0x1205), cfi(0x1004, 0x1205), End},
		{"row begins at its address", AMD64, 0x1003, nil, words(0x1205, 0x1206), cfi(0x1003, 0x1205), End},
		{"call at the end of a function", AMD64, 0x1000, nil, words(0x1210), cfi(0x1000, 0x1210), End},
		{"no return address", AMD64, 0x1200, nil, words(1), cfi(0x1200), End},
		{"pc 0", AMD64, 0x1000, nil, words(0), cfi(0x1000), End},
		{"cut", AMD64, 0x1000, nil, words(0x1009, 5), cfi(0x1000, 0x1009), Truncated},
		{"empty", AMD64, 0x1000, nil, words(), cfi(0x1000), Truncated},
		{"elsewhere", AMD64, 0x1000, nil, words(0x9001), cfi(0x1000, 0x9001), NoModule},
		{"plt before push", AMD64, 0x110a, nil, words(0x1205, 0x1206), cfi(0x110a, 0x1205), End},
		{"plt after push", AMD64, 0x110b, nil, words(0x1206, 0x1205), cfi(0x110b, 0x1205), End},
		{"expression", AMD64, 0x1503, nil, words(0x1205, 0x1206), cfi(0x1503, 0x1205), End},
		{"register after expression", AMD64, 0x1504, nil, words(0x1206, 0x1205), cfi(0x1504, 0x1205), End},
		{"no value for rbp", AMD64, 0x1300, nil, words(1, 0x1205), cfi(0x1300), NoRule},
		{"below the copy", AMD64, 0x1300, map[int]uint64{6: 0x6ff0}, words(1, 0x1205), cfi(0x1300), Truncated},
		// The caller is in the same function, with rbp such that it would be its own.
		{"loop", AMD64, 0x1300, map[int]uint64{6: 0x7000}, words(0x7000, 0x1305), cfi(0x1300, 0x1305), NoProgress},
		{"signal", AMD64, 0x1000, nil, words(0x1401, 0, 0, 0x7030, 0x1200, 9), append(cfi(0x1000, 0x1401), Frame{0x1200, true, FromTable}), End},
		{"leaf", ARM64, 0x2000, map[int]uint64{30: 0x2204}, words(), cfi(0x2000, 0x2204), End},
		{"leaf, signed", ARM64, 0x2000, map[int]uint64{30: signed | 0x2204}, words(), cfi(0x2000, 0x2204), End},
		{"saved, signed", ARM64, 0x2104, nil, words(0, signed|0x2204), cfi(0x2104, 0x2204), End},
		{"restored", ARM64, 0x2108, map[int]uint64{30: 0x2204}, words(0, 0), cfi(0x2108, 0x2204), End},
		{"state restored", ARM64, 0x210c, nil, words(0, 0x2204), cfi(0x210c, 0x2204), End},
		{"lr twice", ARM64, 0x2000, map[int]uint64{30: 0x2004}, words(), cfi(0x2000, 0x2004), NoProgress},
	} {
		t.Run(test.name, func(t *testing.T) {
			regs := Registers{Arch: test.arch, PC: test.pc, SP: 0x7000, SignBits: 0xff7f << 48}
			for number, value := range test.set {
				regs.Set(number, value)
			}
			got, stop := Unwind(regs, test.stack, func(pc uint64) (*Table, uint64, bool) { return tab, 0, pc < 0x9000 })
			if !reflect.DeepEqual(got, test.want) || stop != test.stop {
				t.Errorf("got %+v, %v\nwant %+v, %v", got, stop, test.want, test.stop)
			}
		})
	}
}

// What the caller has in its registers.
func TestRecovered(t *testing.T) {
	tab := newTable(synthetic(), section{})
	f := frame{Registers: Registers{Arch: AMD64, PC: 0x1300, SP: 0x7000}, floor: 0x7000, exact: true}
	f.Set(6, 0x7010)
	f.Set(13, 1313)
	var p program
	next, err := f.byTable(&p, tab, 0x1300, words(0, 0, 66, 0x1205, 0, 1414))
	if err != nil {
		t.Fatal(err)
	}
	want := map[uint8]uint64{6: 66, 7: 0x7020, 12: 0x7020 - 24, 3: 1313, 13: 1313, 14: 1414, 15: 0x7028, 16: 0x1205}
	for number := range uint8(registers) {
		v, ok := next.get(number)
		if wanted, there := want[number]; v != wanted || ok != there {
			t.Errorf("register %d is %#x, %v, want %#x, %v", number, v, ok, wanted, there)
		}
	}
}

func TestFramePointers(t *testing.T) {
	for _, test := range []struct {
		name  string
		arch  Arch
		fp    uint64
		stack Stack
		want  []uint64
		stop  Stop
	}{
		{"chain", AMD64, 0x7008, words(0, 0x7018, 0x3001, 0, 0x3003), []uint64{0x3001, 0x3003}, End},
		{"none", AMD64, 0, words(1, 2, 3), nil, NoRule},
		{"odd", AMD64, 0x7001, words(1, 2, 3), nil, NoRule},
		{"below", AMD64, 0x6ff0, words(1, 2, 3), nil, NoRule},
		{"wraps around", AMD64, ^uint64(7), words(1, 2, 3), nil, NoRule},
		{"no code", AMD64, 0x7000, words(0x7010, 0x9999, 3), nil, NoRule},
		{"above", AMD64, 0x7018, words(1, 2, 3), nil, Truncated},
		{"half", AMD64, 0x7010, words(1, 2, 3), nil, Truncated},
		{"back", AMD64, 0x7008, words(0, 0x7000, 0x3001, 0), []uint64{0x3001}, NoRule},
		{"itself", AMD64, 0x7000, words(0x7000, 0x3001), []uint64{0x3001}, NoRule},
		{"signed", ARM64, 0x7008, words(0, 0x7018, 0x2b<<48|0x3001, 0, 0x3003), []uint64{0x3001, 0x3003}, End},
		{"right below sp", ARM64, 0x6ff8, words(0x3001, 0), []uint64{0x3001}, NoRule},
	} {
		t.Run(test.name, func(t *testing.T) {
			regs := Registers{Arch: test.arch, PC: 0x3000, SP: 0x7000, SignBits: 0xff7f << 48}
			regs.Set(regs.fp(), test.fp)
			frames, stop := Unwind(regs, test.stack, func(pc uint64) (*Table, uint64, bool) { return nil, 0, pc < 0x9000 })
			want := []Frame{{0x3000, true, FromRegisters}}
			for _, pc := range test.want {
				want = append(want, Frame{pc, false, FromFramePointer})
			}
			if !reflect.DeepEqual(frames, want) || stop != test.stop {
				t.Errorf("got %+v, %v\nwant %+v, %v", frames, stop, want, test.stop)
			}
		})
	}
}
