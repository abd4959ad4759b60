// SPDX-License-Identifier: Apache-2.0

package unwind

import "encoding/binary"

// Arch is the instruction set of a thread.
type Arch uint8

// The instruction sets that are known; both little-endian with 64 bits.
const (
	AMD64 Arch = iota + 1
	ARM64
)

// What each instruction set calls its registers, by DWARF number.
const (
	amd64FP, amd64SP, amd64PC = 6, 7, 16
	arm64FP, arm64LR, arm64SP = 29, 30, 31
)

// Registers are those of a thread in user space. PC and SP are always needed; the others
// are given by Set, those that are callee-saved at least: a frame that needs one that was
// not given cannot be unwound by its table.
type Registers struct {
	Arch   Arch
	PC, SP uint64
	// SignBits are the bits of a code address that may hold its signature on arm64
	// (pointer authentication), as NT_ARM_PAC_MASK has them. They are cleared in every
	// return address, signed or not: no address in user space has any of them set.
	SignBits uint64

	value [registers]uint64
	known uint32
}

// Set gives the value of a register by its DWARF number. On amd64 rbx is 3, rbp 6 and
// r8-r15 are 8-15; on arm64 xN is N, so that the frame pointer is 29 and lr 30. Numbers
// that are not kept are passed over; PC and SP are fields.
func (r *Registers) Set(number int, value uint64) {
	if number >= 0 && number < registers {
		r.value[number] = value
		r.known |= 1 << number
	}
}

// frame is the state of one frame while it is unwound.
type frame struct {
	Registers
	// floor is the lowest address that the next frame can begin at. It is SP, except on
	// arm64 after a step by frame pointer, which does not tell SP.
	floor uint64
	// exact: PC was not returned to, so the instruction at PC itself is the one that runs next.
	exact bool
}

func (r *Registers) sp() int {
	if r.Arch == ARM64 {
		return arm64SP
	}
	return amd64SP
}

func (r *Registers) fp() int {
	if r.Arch == ARM64 {
		return arm64FP
	}
	return amd64FP
}

// get reads a register by its DWARF number.
func (r *Registers) get(number uint8) (uint64, bool) {
	if number >= registers || r.known&(1<<number) == 0 {
		return 0, false
	}
	return r.value[number], true
}

// strip takes the signature off a code address. The kernel gives both keys the same bits,
// so which of them signed it, and whether one did (DW_CFA_AARCH64_negate_ra_state), need
// not be known.
func (r *Registers) strip(pc uint64) uint64 {
	if r.Arch == ARM64 {
		return pc &^ r.SignBits
	}
	return pc
}

// Stack is a copy of memory from the stack of a thread; the caller keeps it.
//
// Base is SP at a system call; on arm64 it is better 16 below, for Go keeps the frame
// pointer right below SP there. At any other instruction it should be 128 below: tables
// count on a saved register to be there still when it has just been popped.
type Stack struct {
	Base  uint64 // the address of Bytes[0]
	Bytes []byte
}

// Read8 reads 8 bytes at an address; false if they are not all in the copy.
func (s Stack) Read8(addr uint64) (uint64, bool) {
	at := addr - s.Base
	if addr < s.Base || at > uint64(len(s.Bytes)) || uint64(len(s.Bytes))-at < 8 {
		return 0, false
	}
	return binary.LittleEndian.Uint64(s.Bytes[at:]), true
}
