// SPDX-License-Identifier: Apache-2.0

package unwind

// maxOperands is how many values an expression may hold at once.
const maxOperands = 16

// machine evaluates DWARF expressions as call frame tables have them. There are no jumps,
// so that the length of an expression bounds its time.
type machine struct {
	stack [maxOperands]uint64
	n     int
	err   error
}

func (m *machine) push(v uint64) {
	if m.n == maxOperands {
		m.err = errRule
		return
	}
	m.stack[m.n] = v
	m.n++
}

func (m *machine) pop() uint64 {
	if m.n == 0 {
		m.err = errRule
		return 0
	}
	m.n--
	return m.stack[m.n]
}

// evaluate runs the expression of r. initial is pushed first where start says so: the CFA,
// for the rules of registers. The error is errOutside if it reads outside the slice.
func (f *frame) evaluate(r rule, s *section, stack Stack, initial uint64, start bool) (uint64, error) {
	var m machine
	if start {
		m.push(initial)
	}
	c := cursor{data: s.data[:uint32(r.value)], pos: int(r.value >> 32)}
	for c.more() && m.err == nil {
		m.step(f, stack, &c)
	}
	if c.bad {
		return 0, errRule
	}
	v := m.pop()
	return v, m.err
}

// step runs one operator.
func (m *machine) step(f *frame, stack Stack, c *cursor) {
	op := c.u8()
	switch {
	case op >= 0x30 && op <= 0x4f: // DW_OP_lit0 to lit31
		m.push(uint64(op - 0x30))
		return
	case op >= 0x70 && op <= 0x8f: // DW_OP_breg0 to breg31
		v, ok := f.get(op - 0x70)
		if !ok {
			m.err = errRule
		}
		m.push(v + uint64(c.sleb()))
		return
	}
	switch op {
	case 0x06: // DW_OP_deref
		v, ok := stack.Read8(m.pop())
		if !ok && m.err == nil {
			m.err = errOutside
		}
		m.push(v)
	case 0x08: // DW_OP_const1u
		m.push(uint64(c.u8()))
	case 0x09: // DW_OP_const1s
		m.push(uint64(int8(c.u8())))
	case 0x0a: // DW_OP_const2u
		m.push(uint64(c.u16()))
	case 0x0b: // DW_OP_const2s
		m.push(uint64(int16(c.u16())))
	case 0x0c: // DW_OP_const4u
		m.push(uint64(c.u32()))
	case 0x0d: // DW_OP_const4s
		m.push(uint64(int32(c.u32())))
	case 0x10: // DW_OP_constu
		m.push(c.uleb())
	case 0x11: // DW_OP_consts
		m.push(uint64(c.sleb()))
	case 0x12: // DW_OP_dup
		v := m.pop()
		m.push(v)
		m.push(v)
	case 0x23: // DW_OP_plus_uconst
		m.push(m.pop() + c.uleb())
	default:
		second, first := m.pop(), m.pop()
		m.binary(op, first, second)
	}
}

// binary runs the operators that take two values; comparisons are signed.
func (m *machine) binary(op byte, first, second uint64) {
	switch op {
	case 0x1a: // DW_OP_and
		m.push(first & second)
	case 0x1c: // DW_OP_minus
		m.push(first - second)
	case 0x22: // DW_OP_plus
		m.push(first + second)
	case 0x24: // DW_OP_shl
		m.push(first << second)
	case 0x2a: // DW_OP_ge
		if int64(first) >= int64(second) {
			m.push(1)
		} else {
			m.push(0)
		}
	default:
		m.err = errRule
	}
}
