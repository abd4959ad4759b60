// SPDX-License-Identifier: Apache-2.0

package unwind

// byTable finds the caller's frame by the call frame information for pc, an address as the
// file has it.
func (f *frame) byTable(p *program, table *Table, pc uint64, stack Stack) (next frame, err error) {
	entry, ok := table.find(pc)
	if !ok {
		return frame{}, errRule
	}
	p.arch, p.section, p.entry = f.Arch, &table.section, entry
	if !p.run(pc) {
		return frame{}, errRule
	}
	if f.Arch == AMD64 {
		f.Set(amd64PC, f.PC) // the expression of PLT entries asks for it
	}
	cfa, err := f.cfa(p, stack)
	if err != nil {
		return frame{}, err
	}
	next = frame{Registers: f.Registers, floor: cfa, exact: entry.signal}
	next.SP = cfa
	next.Set(f.sp(), cfa)
	for i := range p.now.regs {
		if p.now.regs[i].kind == keep {
			continue
		}
		v, err := f.recover(p, uint8(i), cfa, stack)
		switch {
		case err == nil:
			next.Set(i, v)
		case uint64(i) == entry.ra:
			return frame{}, err
		default:
			next.known &^= 1 << i
		}
	}
	// A trampoline restores SP as well, to what it was before the signal.
	if sp, ok := next.get(uint8(f.sp())); ok {
		next.SP, next.floor = sp, max(sp, cfa)
	}
	ra, ok := next.get(uint8(entry.ra))
	if !ok {
		return frame{}, errRule
	}
	next.PC = f.strip(ra)
	return next, nil
}

// cfa finds where the frame begins: the value of SP before the call.
func (f *frame) cfa(p *program, stack Stack) (uint64, error) {
	r := p.now.cfa
	if r.kind == expression {
		return f.evaluate(r, p.section, stack, 0, false)
	}
	v, ok := f.get(r.reg)
	if !ok {
		return 0, errRule
	}
	return v + uint64(r.value), nil
}

// recover finds what the caller has in a register.
func (f *frame) recover(p *program, reg uint8, cfa uint64, stack Stack) (uint64, error) {
	r := p.now.regs[reg]
	at := cfa + uint64(r.value)
	switch r.kind {
	case undefined:
		return 0, errOutmost
	case valOffset:
		return at, nil
	case inRegister:
		v, ok := f.get(r.reg)
		if !ok {
			return 0, errRule
		}
		return v, nil
	case expression, valExpression:
		v, err := f.evaluate(r, p.section, stack, cfa, true)
		if err != nil || r.kind == valExpression {
			return v, err
		}
		at = v
	}
	v, ok := stack.Read8(at)
	if !ok {
		return 0, errOutside
	}
	return v, nil
}
