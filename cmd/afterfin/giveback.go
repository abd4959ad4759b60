// SPDX-License-Identifier: Apache-2.0

package main

import (
	"debug/elf"
	"os"
	"runtime/debug"
	"slices"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"
)

// giveBack gives back what only the start took: memory for the kernel's types, and those pages of
// the program itself that every package's beginnings lie in. What is still needed of these the
// kernel maps again, out of its page cache. Of what fails nothing comes but that it stays; and so
// it does in a program that is linked dynamically, whose read-only pages were written once.
func giveBack() {
	debug.FreeOSMemory()
	if !static() {
		return
	}
	self, err := procfs.Self()
	if err != nil {
		return
	}
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := self.ProcMaps()
	if err != nil {
		return
	}
	for _, m := range maps {
		if m.Pathname == program && !m.Perms.Write { // pages nobody can have changed
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, m.StartAddr, m.EndAddr-m.StartAddr, unix.MADV_DONTNEED)
		}
	}
}

// static: nobody has relocated this program.
func static() bool {
	f, err := elf.Open("/proc/self/exe")
	if err != nil {
		return false
	}
	defer f.Close()
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool {
		return p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC || p.Type == elf.PT_GNU_RELRO
	})
}
