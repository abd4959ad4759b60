// SPDX-License-Identifier: Apache-2.0

package unwind

import "golang.org/x/sys/unix"

// convert gives the registers that a system call keeps.
func convert(r *unix.PtraceRegs) Registers {
	regs := Registers{Arch: ARM64, PC: r.Pc, SP: r.Sp, SignBits: 0xff7f << 48}
	for number := 19; number <= 30; number++ {
		regs.Set(number, r.Regs[number])
	}
	return regs
}
