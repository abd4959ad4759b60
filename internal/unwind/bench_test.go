// SPDX-License-Identifier: Apache-2.0

package unwind

import "testing"

// A program that blocks in a signal handler: 11 frames with the libc of Debian 12.
func BenchmarkUnwind(b *testing.B) {
	p, tid := start(b, programs.pie, "signal")
	regs := stopped(b, tid)
	stack := p.stack(b, regs, slice)
	frames, _ := Unwind(regs, stack, p.modules)
	b.ReportAllocs()
	for b.Loop() {
		Unwind(regs, stack, p.modules)
	}
	b.ReportMetric(float64(len(frames)), "frames")
}

func BenchmarkTable(b *testing.B) {
	f := libc(b)
	tab := table(b, f)
	b.Run("linked", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			table(b, f)
		}
	})
	b.Run("scanned", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			newTable(tab.section, section{})
		}
	})
}
