// SPDX-License-Identifier: Apache-2.0

package unwind

import "encoding/binary"

// cursor reads little-endian data that may be hostile. A read past the end gives 0 and
// sets bad, which stays set: a caller asks once, after the last read.
type cursor struct {
	data []byte
	pos  int
	bad  bool
}

// take gives the next n bytes, which are not copied.
func (c *cursor) take(n uint64) []byte {
	if c.bad || n > uint64(len(c.data)-c.pos) {
		c.bad = true
		return nil
	}
	b := c.data[c.pos : c.pos+int(n)]
	c.pos += int(n)
	return b
}

func (c *cursor) more() bool { return !c.bad && c.pos < len(c.data) }

func (c *cursor) u8() byte {
	if b := c.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if b := c.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if b := c.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if b := c.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// uleb reads an unsigned LEB128 number. Bits past the 64th are lost, as in other readers.
func (c *cursor) uleb() (v uint64) {
	for shift := uint(0); ; shift += 7 {
		b := c.u8()
		v |= uint64(b&0x7f) << shift
		if b&0x80 == 0 {
			return v
		}
	}
}

// sleb reads a signed LEB128 number.
func (c *cursor) sleb() int64 {
	var v uint64
	for shift := uint(0); ; {
		b := c.u8()
		v |= uint64(b&0x7f) << shift
		shift += 7
		if b&0x80 == 0 {
			if b&0x40 != 0 && shift < 64 {
				v |= ^uint64(0) << shift
			}
			return int64(v)
		}
	}
}

// Pointer encodings (DW_EH_PE): the low four bits are the format, the next three what
// the value is relative to, the last one says that the pointer is stored elsewhere.
const (
	encodingOmit   = 0xff
	formatBits     = 0x0f
	relativeBits   = 0x70
	relativeToSelf = 0x10
	relativeToData = 0x30 // in .eh_frame_hdr: to its own start
)

// format reads the bare value of an encoded pointer.
func (c *cursor) format(encoding byte) uint64 {
	switch encoding & formatBits {
	case 0x00, 0x04, 0x08, 0x0c:
		return c.u64()
	case 0x01:
		return c.uleb()
	case 0x02:
		return uint64(c.u16())
	case 0x03:
		return uint64(c.u32())
	case 0x09:
		return uint64(c.sleb())
	case 0x0a:
		return uint64(int16(c.u16()))
	case 0x0b:
		return uint64(int32(c.u32()))
	}
	c.bad = true
	return 0
}

// pointer reads an encoded pointer; base is the address of data[0]. Those that are
// stored elsewhere, or relative to what an ELF file does not say, are bad.
func (c *cursor) pointer(encoding byte, base uint64) uint64 {
	self := base + uint64(c.pos)
	v := c.format(encoding)
	switch encoding &^ formatBits {
	case 0:
		return v
	case relativeToSelf:
		return self + v
	case relativeToData:
		return base + v
	}
	c.bad = true
	return 0
}
