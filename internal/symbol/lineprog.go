// SPDX-License-Identifier: Apache-2.0

package symbol

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
)

// maxLineOps are instructions between two looks at the deadline.
const maxLineOps = 1 << 16

// lineRow is one row of the table that a program makes.
type lineRow struct {
	address uint64
	file    uint64
	line    uint32
	end     bool // the address after the last instruction of a sequence
}

// Standard and extended instructions, DWARF 5, 6.2.5.
const (
	lnsCopy           = 1
	lnsAdvancePC      = 2
	lnsAdvanceLine    = 3
	lnsSetFile        = 4
	lnsSetColumn      = 5
	lnsConstAddPC     = 8
	lnsFixedAdvancePC = 9
	lneEndSequence    = 1
	lneSetAddress     = 2
)

// run runs a program from an instruction on and calls do for each row, with where
// the next instruction is, until do gives false or the program ends. The only error
// is that of ctx.
func (u *lineUnit) run(ctx context.Context, data []byte, at int, do func(row lineRow, after int) bool) error {
	r := reader{data: data[:u.end], at: at}
	fresh := lineRow{file: 1, line: 1}
	row := fresh
	for ops := 0; r.at < len(r.data) && !r.failed; ops++ {
		if ops%maxLineOps == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		code := r.byte()
		if code >= u.opcodeBase {
			special := code - u.opcodeBase
			row.address += uint64(special/u.lineRange) * u.minInst
			row.line += uint32(int32(u.lineBase) + int32(special%u.lineRange))
			if !do(row, r.at) {
				return nil
			}
			continue
		}
		switch code {
		case 0:
			length := r.uleb()
			if r.failed || length == 0 || length > uint64(len(r.data)-r.at) {
				return nil
			}
			next := r.at + int(length)
			switch r.byte() {
			case lneEndSequence:
				row.end = true
				if !do(row, next) {
					return nil
				}
				row = fresh
			case lneSetAddress:
				if length == 9 {
					row.address = r.u64()
				}
			}
			r.at = next
		case lnsCopy:
			if !do(row, r.at) {
				return nil
			}
		case lnsAdvancePC:
			row.address += r.uleb() * u.minInst
		case lnsAdvanceLine:
			row.line += uint32(r.sleb())
		case lnsSetFile:
			row.file = r.uleb()
		case lnsSetColumn:
			r.uleb()
		case lnsConstAddPC:
			row.address += uint64((255-u.opcodeBase)/u.lineRange) * u.minInst
		case lnsFixedAdvancePC:
			row.address += uint64(r.u16())
		default:
			for range u.arguments[code] {
				r.uleb()
			}
		}
	}
	return nil
}

// reader takes numbers from bytes; beyond the end it gives 0 and fails.
type reader struct {
	data   []byte
	at     int
	failed bool
}

func (r *reader) take(n uint64) []byte {
	if r.failed || n > uint64(len(r.data)-r.at) {
		r.failed = true
		return nil
	}
	r.at += int(n)
	return r.data[r.at-int(n) : r.at]
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// uleb reads a ULEB128.
func (r *reader) uleb() uint64 {
	value, n := binary.Uvarint(r.data[r.at:])
	if n <= 0 {
		r.failed = true
		return 0
	}
	r.at += n
	return value
}

// sleb reads a SLEB128: as unsigned, with bit 6 of the last byte for the sign.
func (r *reader) sleb() int64 {
	begin := r.at
	value := r.uleb()
	bits := 7 * (r.at - begin)
	if !r.failed && bits < 64 && value>>(bits-1)&1 == 1 {
		value |= math.MaxUint64 << bits
	}
	return int64(value)
}

// text reads up to the next 0.
func (r *reader) text() []byte {
	end := bytes.IndexByte(r.data[r.at:], 0)
	if end < 0 {
		r.failed = true
		return nil
	}
	text := r.take(uint64(end))
	r.take(1)
	return text[:min(len(text), maxName)]
}
