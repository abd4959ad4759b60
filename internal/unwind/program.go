// SPDX-License-Identifier: Apache-2.0

package unwind

import "math"

// registers is how many DWARF registers are kept: on amd64 the 16 general ones and the
// return address (16), on arm64 x0-x30 and sp (31). Rules for others, such as vector
// registers, are read and dropped.
const registers = 32

// maxRemembered is how deep DW_CFA_remember_state may nest; compilers use one level or two.
const maxRemembered = 8

type kind uint8

const (
	keep          kind = iota // the caller's value is the same
	undefined                 // there is no caller's value
	offset                    // it is stored at CFA+value
	valOffset                 // it is CFA+value
	inRegister                // it is in another register; for the CFA: register+value
	expression                // it is stored where an expression says; for the CFA: it is the result
	valExpression             // it is the result of an expression
)

// rule is how to find one register of the caller. The value of an expression is its place
// in the section: start<<32 | end.
type rule struct {
	kind  kind
	reg   uint8
	value int64
}

// row is the rules at one address.
type row struct {
	cfa  rule
	off  int64 // that of the CFA from its register; an expression leaves it as it is
	regs [registers]rule
}

func (r *row) set(reg uint64, to rule) {
	if reg < registers {
		r.regs[reg] = to
	}
}

// move changes the offset of the CFA from its register.
func (r *row) move(off int64) {
	r.off = off
	if r.cfa.kind == inRegister {
		r.cfa.value = off
	}
}

// program runs the call frame instructions of one function. The one in go-delve's
// dwarf/frame, which the tests compare it with, will not do for code that is not trusted or
// not of amd64: it panics on cut operands and on a restore_state without its remember_state,
// takes memory for each level of that, has undefined after DW_CFA_restore where the initial
// rule is meant (on arm64 that is the return address), and does not know
// DW_CFA_AARCH64_negate_ra_state, with which each function of some distributions begins.
type program struct {
	arch       Arch
	section    *section
	entry      fde
	loc        uint64
	now        row
	initial    row
	remembered [maxRemembered]row
	depth      int
}

// run fills p.now with the rules at pc. False: the instructions are not valid.
func (p *program) run(pc uint64) bool {
	p.loc, p.depth = p.entry.pc, 0
	p.now = row{cfa: rule{kind: undefined}}
	// The CIE's instructions hold for the whole function.
	c := cursor{data: p.section.data[:p.entry.cie.end], pos: p.entry.cie.start}
	for c.more() {
		if !p.step(&c) {
			return false
		}
	}
	p.initial = p.now
	c = cursor{data: p.section.data[:p.entry.end], pos: p.entry.start}
	for c.more() && p.loc <= pc {
		before := p.loc
		if !p.step(&c) {
			return false
		}
		if p.loc < before { // only by DW_CFA_set_loc, which must not go back
			return false
		}
	}
	return p.now.cfa.kind != undefined
}

// step runs one instruction. One that moves on past pc changes no rule, so it does no harm.
func (p *program) step(c *cursor) bool {
	op := c.u8()
	low := uint64(op & 0x3f)
	switch op >> 6 {
	case 1: // DW_CFA_advance_loc
		p.loc += low * p.entry.codeAlign
		return true
	case 2: // DW_CFA_offset
		p.now.set(low, rule{kind: offset, value: int64(c.uleb()) * p.entry.dataAlign})
		return !c.bad
	case 3: // DW_CFA_restore
		p.restore(low)
		return true
	}
	switch op {
	case 0x00: // DW_CFA_nop
	case 0x01: // DW_CFA_set_loc
		p.loc = c.pointer(p.entry.encoding, p.section.addr)
	case 0x02: // DW_CFA_advance_loc1
		p.loc += uint64(c.u8()) * p.entry.codeAlign
	case 0x03: // DW_CFA_advance_loc2
		p.loc += uint64(c.u16()) * p.entry.codeAlign
	case 0x04: // DW_CFA_advance_loc4
		p.loc += uint64(c.u32()) * p.entry.codeAlign
	case 0x05: // DW_CFA_offset_extended
		p.now.set(c.uleb(), rule{kind: offset, value: int64(c.uleb()) * p.entry.dataAlign})
	case 0x06: // DW_CFA_restore_extended
		p.restore(c.uleb())
	case 0x07: // DW_CFA_undefined
		p.now.set(c.uleb(), rule{kind: undefined})
	case 0x08: // DW_CFA_same_value
		p.now.set(c.uleb(), rule{kind: keep})
	case 0x09: // DW_CFA_register
		reg, other := c.uleb(), c.uleb()
		p.now.set(reg, register(other, 0))
	case 0x0a: // DW_CFA_remember_state
		if p.depth == maxRemembered {
			return false
		}
		p.remembered[p.depth] = p.now
		p.depth++
	case 0x0b: // DW_CFA_restore_state
		if p.depth == 0 {
			return false
		}
		p.depth--
		p.now = p.remembered[p.depth]
	case 0x11: // DW_CFA_offset_extended_sf
		p.now.set(c.uleb(), rule{kind: offset, value: c.sleb() * p.entry.dataAlign})
	case 0x14: // DW_CFA_val_offset
		p.now.set(c.uleb(), rule{kind: valOffset, value: int64(c.uleb()) * p.entry.dataAlign})
	case 0x15: // DW_CFA_val_offset_sf
		p.now.set(c.uleb(), rule{kind: valOffset, value: c.sleb() * p.entry.dataAlign})
	case 0x10: // DW_CFA_expression
		p.now.set(c.uleb(), block(c, expression))
	case 0x16: // DW_CFA_val_expression
		p.now.set(c.uleb(), block(c, valExpression))
	case 0x2c, 0x2d: // DW_CFA_AARCH64_negate_ra_state, with and without the pc: see strip
		return p.arch == ARM64
	case 0x2e: // DW_CFA_GNU_args_size
		c.uleb()
	case 0x2f: // DW_CFA_GNU_negative_offset_extended
		p.now.set(c.uleb(), rule{kind: offset, value: -int64(c.uleb()) * p.entry.dataAlign})
	default:
		return p.cfa(op, c)
	}
	return !c.bad
}

// cfa runs the instructions that say where the frame begins.
func (p *program) cfa(op byte, c *cursor) bool {
	now := &p.now
	switch op {
	case 0x0c: // DW_CFA_def_cfa
		reg := c.uleb()
		now.off = int64(c.uleb())
		now.cfa = register(reg, now.off)
	case 0x12: // DW_CFA_def_cfa_sf
		reg := c.uleb()
		now.off = c.sleb() * p.entry.dataAlign
		now.cfa = register(reg, now.off)
	case 0x0d: // DW_CFA_def_cfa_register; assembly of libgcrypt has it after an expression, with the offset from before
		now.cfa = register(c.uleb(), now.off)
	case 0x0e: // DW_CFA_def_cfa_offset
		now.move(int64(c.uleb()))
	case 0x13: // DW_CFA_def_cfa_offset_sf
		now.move(c.sleb() * p.entry.dataAlign)
	case 0x0f: // DW_CFA_def_cfa_expression
		now.cfa = block(c, expression)
	default:
		return false
	}
	return !c.bad
}

func (p *program) restore(reg uint64) {
	if reg < registers {
		p.now.regs[reg] = p.initial.regs[reg]
	}
}

// register is the rule for register reg plus off; undefined if reg is not kept.
func register(reg uint64, off int64) rule {
	if reg >= registers {
		return rule{kind: undefined}
	}
	return rule{kind: inRegister, reg: uint8(reg), value: off}
}

// block is the rule for the expression at c. Sections are far smaller than 2 GiB.
func block(c *cursor, k kind) rule {
	n := c.uleb()
	start := c.pos
	if c.take(n); c.bad || c.pos > math.MaxInt32 {
		c.bad = true
		return rule{kind: undefined}
	}
	return rule{kind: k, value: int64(start)<<32 | int64(c.pos)}
}
