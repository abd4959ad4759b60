// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"

	"afterfin/internal/event"
)

// Lost counts what did not arrive since New. Call it from the goroutine that
// calls Read.
func (t *Tracer) Lost() (event.Lost, error) {
	var lost event.Lost
	var recovered uint64
	for i, n := range []*uint64{&lost.Ring, &lost.Map, &lost.Read, &recovered} { // enum af_counter
		var perCPU []uint64
		if err := t.coll.Maps["counters"].Lookup(uint32(i), &perCPU); err != nil {
			return lost, fmt.Errorf("read loss counters: %w", err)
		}
		for _, c := range perCPU {
			*n += c
		}
	}
	lost.Read += t.undecoded
	// The kernel skips a program that would interrupt itself on one CPU, and says so here only.
	// What set_state_skipped did not tell in its place is lost.
	stats, err := t.coll.Programs["set_state"].Stats()
	if err != nil {
		return lost, fmt.Errorf("read program statistics: %w", err)
	}
	if stats.RecursionMisses > recovered {
		lost.Recursion = stats.RecursionMisses - recovered
	}
	if t.timewait != nil {
		for _, p := range t.timewait.Programs {
			if stats, err = p.Stats(); err != nil {
				return lost, fmt.Errorf("read program statistics: %w", err)
			}
			lost.Recursion += stats.RecursionMisses
		}
	}
	if t.accept == nil || t.TaxesCalls() { // sys_exit is skipped for any system call: that says nothing
		return lost, nil
	}
	for _, p := range t.accept.Programs { // one
		if stats, err = p.Stats(); err != nil {
			return lost, fmt.Errorf("read program statistics: %w", err)
		}
		lost.Accept += stats.RecursionMisses
	}
	return lost, nil
}
