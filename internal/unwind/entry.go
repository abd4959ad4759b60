// SPDX-License-Identifier: Apache-2.0

package unwind

// maxEntry is the longest CIE or FDE that is read, in bytes: what one frame may cost. The
// longest in 3 million functions of libraries had 10 KB.
const maxEntry = 64 << 10

// maxAugmentation is the longest augmentation string that is read; each letter stands for
// one thing, and there are six.
const maxAugmentation = 8

// section is .eh_frame: its bytes and the address that the file gives it.
type section struct {
	data []byte
	addr uint64
}

// cie is a Common Information Entry: what functions share.
type cie struct {
	codeAlign uint64
	dataAlign int64
	ra        uint64 // the column of the return address
	encoding  byte   // of the addresses in its FDEs
	augmented bool   // its FDEs have augmentation data, behind their length
	signal    bool   // of a signal trampoline: the address it returns to was not called from
	start     int    // of the initial instructions
	end       int
}

// fde is a Frame Description Entry: how to unwind one function, or a part of one.
type fde struct {
	cie
	pc, size   uint64
	start, end int // of its instructions
}

// entry reads the head of what stands at pos: where its body begins and ends. The id is 0
// for a CIE; for an FDE it tells how far before its own place its CIE stands. A terminator
// has an empty body.
func (s *section) entry(pos int) (body cursor, id uint32, ok bool) {
	if pos < 0 || pos > len(s.data) {
		return cursor{}, 0, false
	}
	c := cursor{data: s.data, pos: pos}
	length := c.u32()
	if c.bad || uint64(length) > uint64(len(s.data)-c.pos) {
		return cursor{}, 0, false // also the 64-bit form, which starts with 0xffffffff and which nobody writes
	}
	c.data = s.data[:c.pos+int(length)]
	if length == 0 {
		return c, 0, true
	}
	id = c.u32()
	return c, id, !c.bad
}

func (s *section) cie(pos int) (e cie, ok bool) {
	c, id, ok := s.entry(pos)
	if !ok || id != 0 || !c.more() || len(c.data)-c.pos > maxEntry {
		return cie{}, false
	}
	version := c.u8()
	if version != 1 && version != 3 {
		return cie{}, false
	}
	letters := c.word()
	e.codeAlign = c.uleb()
	e.dataAlign = c.sleb()
	if version == 1 {
		e.ra = uint64(c.u8())
	} else {
		e.ra = c.uleb()
	}
	if !e.augmentation(&c, letters) {
		return cie{}, false
	}
	e.start, e.end = c.pos, len(c.data)
	return e, !c.bad && e.ra < registers
}

// word reads a string that a NUL ends, which is not copied.
func (c *cursor) word() []byte {
	start := c.pos
	for range maxAugmentation + 1 {
		if c.u8() == 0 {
			if c.bad {
				return nil
			}
			return c.data[start : c.pos-1]
		}
	}
	c.bad = true
	return nil
}

// augmentation reads the data that the letters announce. "z" gives its length, so that
// letters which are not known, and those behind them, can be passed over.
func (e *cie) augmentation(c *cursor, letters []byte) bool {
	if len(letters) == 0 {
		return !c.bad
	}
	if letters[0] != 'z' {
		return false
	}
	e.augmented = true
	data := cursor{data: c.take(c.uleb())}
	for _, letter := range letters[1:] {
		switch letter {
		case 'R':
			e.encoding = data.u8()
		case 'L':
			data.u8()
		case 'P':
			data.format(data.u8())
		case 'S':
			e.signal = true
		case 'B': // arm64: return addresses are signed with the B key
		default:
			return false
		}
	}
	return !data.bad && !c.bad
}

// fde reads the FDE at pos. last saves reading the CIE again for one after another.
func (s *section) fde(pos int, last *lastCIE) (e fde, ok bool) {
	c, id, ok := s.entry(pos)
	if !ok || id == 0 || len(c.data)-c.pos > maxEntry {
		return fde{}, false
	}
	at := int64(pos) + 4 - int64(id)
	if at < 0 {
		return fde{}, false
	}
	if !last.read || last.pos != int(at) {
		last.pos, last.read = int(at), true
		last.cie, last.ok = s.cie(int(at))
	}
	if !last.ok || last.encoding == encodingOmit || last.encoding&relativeBits == relativeToData {
		return fde{}, false
	}
	e.cie = last.cie
	e.pc = c.pointer(e.encoding, s.addr)
	e.size = c.format(e.encoding)
	if e.augmented {
		c.take(c.uleb())
	}
	e.start, e.end = c.pos, len(c.data)
	return e, !c.bad
}

// lastCIE is the CIE that was read last.
type lastCIE struct {
	cie
	pos      int
	read, ok bool
}

// covers tells whether pc is in the function; a range that wraps around covers nothing.
func (e *fde) covers(pc uint64) bool { return pc-e.pc < e.size && pc >= e.pc }
