// SPDX-License-Identifier: Apache-2.0

package tracer

import "github.com/cilium/ebpf"

const (
	recordBytes = 128 // a transition of 120 bytes and the kernel's header of 8

	ringPerCPU  = 4 << 20
	maxRingSize = 64 << 20
)

// RingBytes is the size of the ring: 4 MiB for each CPU that may come to run, 8 at least and 64
// at most, a power of two. A CPU makes up to 300,000 transitions a second, so that is 0.1 s of all of
// them, two polls long, and the kernel wakes us when a quarter is full.
func RingBytes() int {
	size := 2 * ringPerCPU
	cpus, err := ebpf.PossibleCPU()
	for err == nil && size < cpus*ringPerCPU && size < maxRingSize {
		size *= 2
	}
	return size
}

// RingRecords is how many transitions the ring holds.
func RingRecords() int { return RingBytes() / recordBytes }
