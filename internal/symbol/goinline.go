// SPDX-License-Identifier: Apache-2.0

package symbol

import (
	"context"
	"encoding/binary"
	"math"
)

// goCall is the size of runtime.inlinedCall since Go 1.20: what kind of function,
// offset of its name, offset of the call from the function it is inlined into, line
// where its source begins; 4 bytes each.
const goCall = 16

// frames names the calls at an address, the innermost inlined one first; nil if it
// is in no Go function.
func (t *goTable) frames(ctx context.Context, frame Frame) []Frame {
	f, ok := t.find(frame.Offset)
	if !ok {
		return nil
	}
	var frames []Frame
	add := func(name uint32, address uint64, inlined bool) {
		frame.Function = goName(textAt(t.names, uint64(name)))
		frame.File, frame.Line = t.position(f, address)
		frame.Inlined, frame.Quality = inlined, Line
		if frame.Line == 0 {
			frame.Quality = Symbol
		}
		frames = append(frames, frame)
	}
	address := frame.Offset
	for len(frames) < maxGoInlined && ctx.Err() == nil {
		index, ok := t.value(f, f.pcdata(goInlineIndex), address)
		if !ok || index < 0 {
			break
		}
		name, call, ok := t.inlined(ctx, f, index)
		if !ok {
			frame.Note = "calls inlined here are not known"
			break
		}
		add(name, address, true)
		address = call
	}
	add(f.word(goFuncName), address, false)
	if frame.Function == "" {
		return nil
	}
	return frames
}

// inlined gives the name of an inlined function and the address whose position is
// that of its call.
func (t *goTable) inlined(ctx context.Context, f goFunc, index int32) (name uint32, call uint64, ok bool) {
	offset := f.funcdata(goInlineTree)
	at := uint64(offset) + goCall*uint64(index)
	if t.tree == nil || t.magic != goMagic120 || offset == math.MaxUint32 || at > math.MaxUint32 {
		return 0, 0, false
	}
	var entry [goCall]byte
	if !t.tree(ctx, entry[:], uint32(at)) {
		return 0, 0, false
	}
	name = binary.LittleEndian.Uint32(entry[4:])
	parent := binary.LittleEndian.Uint32(entry[8:])
	// The layout is not the table's own and carries no version: a name begins after
	// the end of another, and the call is in this function.
	if name == 0 || uint64(name) >= uint64(len(t.names)) || t.names[name-1] != 0 || parent > math.MaxInt32 {
		return 0, 0, false
	}
	call = f.entry + uint64(parent)
	if other, ok := t.find(call); !ok || other.entry != f.entry {
		return 0, 0, false
	}
	return name, call, true
}
