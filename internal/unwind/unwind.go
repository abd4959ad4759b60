// SPDX-License-Identifier: Apache-2.0

// Package unwind finds the callers of a thread from its registers and a copy of the top
// of its stack. It goes by the call frame information (.eh_frame) that C, C++ and Rust
// programs carry even where they keep no frame pointers, and by frame pointers where
// there is none, as in Go programs. It reads nothing from the process itself.
package unwind

import "errors"

// MaxFrames is how many frames Unwind gives at most.
const MaxFrames = 128

// How tells how a frame was found.
type How uint8

// How a frame was found.
const (
	FromRegisters    How = iota + 1 // the innermost
	FromTable                       // by the call frame information of the one inside it
	FromFramePointer                // by the frame pointer of the one inside it
)

// String gives a word or two for reports.
func (h How) String() string {
	switch h {
	case FromRegisters:
		return "registers"
	case FromTable:
		return "cfi"
	case FromFramePointer:
		return "frame pointer"
	}
	return "unknown"
}

// Frame is one function in the chain of callers.
//
// By frame pointer a caller can be missed: that of a function that has not set up its
// frame, or that has none, such as those around a system call in Go.
type Frame struct {
	// PC is the address that will run next in this function.
	PC uint64
	// Exact tells that the function was stopped at PC: it is the innermost one, or a signal
	// interrupted it. Otherwise PC is where a call returns to.
	Exact bool
	How   How
}

// Site is the address to look up a function or line by: a call may be the last
// instruction of its function, so that it returns into the next one.
func (f Frame) Site() uint64 {
	if f.Exact {
		return f.PC
	}
	return f.PC - 1
}

// Stop tells why there are no more frames.
type Stop uint8

// Why there are no more frames.
const (
	End        Stop = iota + 1 // the last frame is the outermost
	Truncated                  // the caller's frame is not in the copy of the stack
	NoModule                   // the last frame is in none of the modules
	NoRule                     // the last frame has no usable table and no usable frame pointer
	NoProgress                 // the caller's frame would not lie above this one
	Limit                      // there are MaxFrames frames
)

// String gives a few words for reports.
func (s Stop) String() string {
	switch s {
	case End:
		return "end"
	case Truncated:
		return "outside the copied stack"
	case NoModule:
		return "no module"
	case NoRule:
		return "no call frame information and no frame pointer"
	case NoProgress:
		return "no progress"
	case Limit:
		return "too many frames"
	}
	return "unknown"
}

// Modules finds the module that covers a code address: its table, nil if it has none, and
// what has to be subtracted from the address to get the one that the file has.
type Modules func(addr uint64) (table *Table, bias uint64, ok bool)

var (
	errRule    = errors.New("rule cannot be followed")
	errOutside = errors.New("address is outside the copied stack")
	errOutmost = errors.New("frame is the outermost")
)

// Unwind gives the frames of a thread, innermost first, and why they end. There is always
// at least one. It trusts neither the stack nor the tables: whatever they hold, it ends.
func Unwind(regs Registers, stack Stack, modules Modules) ([]Frame, Stop) {
	now := frame{Registers: regs, floor: regs.SP, exact: true}
	now.Set(now.sp(), regs.SP)
	frames := append(make([]Frame, 0, 16), Frame{PC: now.PC, Exact: true, How: FromRegisters})
	var p program
	for {
		last := frames[len(frames)-1]
		table, bias, ok := modules(last.Site())
		if !ok {
			return frames, NoModule
		}
		next, how, stop := now.caller(&p, table, last, bias, stack, modules)
		if stop != 0 {
			return frames, stop
		}
		if len(frames) == MaxFrames {
			return frames, Limit
		}
		frames = append(frames, Frame{PC: next.PC, Exact: next.exact, How: how})
		now = next
	}
}

// caller finds the frame around the last one.
func (f *frame) caller(p *program, table *Table, last Frame, bias uint64, stack Stack, modules Modules) (frame, How, Stop) {
	if table != nil {
		next, err := f.byTable(p, table, last.Site()-bias, stack)
		switch {
		case err == nil && next.PC == 0, errors.Is(err, errOutmost):
			return frame{}, 0, End
		case err == nil && (next.floor < f.floor || next.floor == f.floor && !f.exact):
			return frame{}, 0, NoProgress
		case err == nil:
			return next, FromTable, 0
		case errors.Is(err, errOutside):
			return frame{}, 0, Truncated
		}
	}
	next, stop := f.byFramePointer(last.How == FromFramePointer, stack)
	if stop == 0 {
		if _, _, ok := modules(next.PC - 1); !ok {
			return frame{}, 0, NoRule // what looked like a frame is none
		}
	}
	return next, FromFramePointer, stop
}

// byFramePointer follows the chain of frame records: the caller's frame pointer and the
// return address. chained: so was this frame found, and a zero is the chain's end.
func (f *frame) byFramePointer(chained bool, stack Stack) (next frame, stop Stop) {
	fp, ok := f.get(uint8(f.fp()))
	end := stack.Base + uint64(len(stack.Bytes))
	switch {
	case fp == 0 && ok && chained:
		return frame{}, End
	case !ok || fp%8 != 0 || fp+16 < 16 || fp+16 <= f.floor:
		return frame{}, NoRule
	case fp >= end || end-fp < 16:
		return frame{}, Truncated
	}
	outer, _ := stack.Read8(fp) // right below the copy it cannot be read, and the chain ends there
	pc, ok := stack.Read8(fp + 8)
	if !ok {
		return frame{}, Truncated
	}
	next = frame{Registers: Registers{Arch: f.Arch, PC: f.strip(pc), SignBits: f.SignBits}, floor: fp + 16}
	if next.PC == 0 {
		return frame{}, End
	}
	// What else the function saved is not known. On arm64 the record may lie anywhere in
	// the frame, so it does not tell the caller's SP either.
	if fp >= stack.Base {
		next.Set(f.fp(), outer)
	}
	if f.Arch == AMD64 {
		next.SP = next.floor
		next.Set(f.sp(), next.SP)
	}
	return next, 0
}
