// SPDX-License-Identifier: Apache-2.0

package symbol

// lineUnit is the header of one program, DWARF 5, 6.2.4.
type lineUnit struct {
	version               uint16
	tables                int // where the folders and files are told
	code, end             int // where the instructions begin and end
	minInst               uint64
	lineBase              int8
	lineRange, opcodeBase byte
	arguments             [256]byte // how many each standard instruction has
}

// header reads the header at an offset. next is that of the next one, 0 if not even
// the length can be read.
func (t *lineTable) header(at int) (u *lineUnit, next int, ok bool) {
	r := reader{data: t.data, at: at}
	length := r.u32()
	// From 0xfffffff0 on it is an escape, such as for DWARF of 64 bits.
	if r.failed || length >= 0xfffffff0 || uint64(length) > uint64(len(t.data)-r.at) {
		return nil, 0, false
	}
	u = &lineUnit{end: r.at + int(length)}
	r.data = t.data[:u.end]
	u.version = r.u16()
	if u.version < 2 || u.version > 5 {
		return nil, u.end, false
	}
	if u.version == 5 {
		r.take(2) // sizes of an address and a segment selector
	}
	rest := r.u32()
	if r.failed || uint64(rest) > uint64(u.end-r.at) {
		return nil, u.end, false
	}
	u.code = r.at + int(rest)
	u.minInst = uint64(r.byte())
	if u.version >= 4 {
		r.byte() // operations in an instruction, of VLIW machines
	}
	r.byte() // whether rows begin a statement
	u.lineBase = int8(r.byte())
	u.lineRange = r.byte()
	u.opcodeBase = r.byte()
	if r.failed || u.lineRange == 0 || u.opcodeBase == 0 {
		return nil, u.end, false
	}
	copy(u.arguments[1:], r.take(uint64(u.opcodeBase-1)))
	u.tables = r.at
	return u, u.end, !r.failed && u.tables <= u.code
}
