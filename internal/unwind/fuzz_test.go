// SPDX-License-Identifier: Apache-2.0

package unwind

import "testing"

// A table of any bytes can be made and used.
func FuzzTable(f *testing.F) {
	f.Add(synthetic().data, []byte{}, uint64(0x1000))
	f.Add(synthetic().data, []byte{1, 0x1b, 3, 0x3b, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, uint64(0x1004))
	f.Fuzz(func(t *testing.T, frames, header []byte, pc uint64) {
		tab := newTable(section{frames, 0x2000}, section{header, 0x1800})
		for _, arch := range []Arch{AMD64, ARM64} {
			exercise(tab, arch, pc)
			for _, function := range tab.functions[:min(len(tab.functions), 20)] {
				exercise(tab, arch, function.pc+pc%64)
			}
		}
	})
}

// Any registers and any stack can be unwound with a good table: it ends, with a reason.
func FuzzUnwind(f *testing.F) {
	tab := newTable(synthetic(), section{})
	f.Add(uint64(0x1000), uint64(0x7000), uint64(0x7010), make([]byte, 64), true)
	f.Add(uint64(0x1008), uint64(0), ^uint64(0), make([]byte, 7), false)
	f.Fuzz(func(t *testing.T, pc, sp, fp uint64, bytes []byte, arm bool) {
		regs := Registers{Arch: AMD64, PC: pc, SP: sp}
		if arm {
			regs.Arch = ARM64
		}
		regs.Set(regs.fp(), fp)
		for _, stack := range []Stack{{sp, bytes}, {sp - 16, bytes}, {fp, bytes}} {
			frames, stop := Unwind(regs, stack, func(uint64) (*Table, uint64, bool) { return tab, 0, true })
			if len(frames) == 0 || len(frames) > MaxFrames || stop < End || stop > Limit || frames[0].PC != pc {
				t.Errorf("%d frames, %v", len(frames), stop)
			}
		}
	})
}
