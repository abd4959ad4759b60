// SPDX-License-Identifier: Apache-2.0

package unwind

import "golang.org/x/sys/unix"

// convert gives the registers that a system call keeps.
func convert(r *unix.PtraceRegs) Registers {
	regs := Registers{Arch: AMD64, PC: r.Rip, SP: r.Rsp}
	for number, value := range map[int]uint64{3: r.Rbx, 6: r.Rbp, 12: r.R12, 13: r.R13, 14: r.R14, 15: r.R15} {
		regs.Set(number, value)
	}
	return regs
}
