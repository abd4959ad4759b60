// SPDX-License-Identifier: Apache-2.0

// Package export tells Prometheus what afterfin sees. Pure: it is given a Snapshot, and touches
// no kernel. Every label has a bounded number of values: states, causes, verdicts, ranks, and the
// workloads that have the most; never a pid, a port or a peer, unless Options asks for them.
package export

import (
	"time"

	"afterfin/internal/event"
	"afterfin/internal/leak"
	"afterfin/internal/ports"
	"afterfin/internal/timewait"
)

// Snapshot is all that is told at one moment. It is read only.
type Snapshot struct {
	Counts   *event.Counts // by the kernel, since the start
	Lost     event.Lost
	Failures uint64 // connect() that found no port, since the start
	// Overflows are sockets that got no TIME_WAIT for want of room, since the start, in the netns
	// that could be entered.
	Overflows uint64
	Hooks     []Hook

	Look *Look

	MapMemory uint64 // bytes of the kernel's
	Maps      []Map
}

// Look is what the sockets showed when they were looked at last.
type Look struct {
	Leaks    *leak.Report // of CLOSE_WAIT
	Waiting  []leak.Age   // of all in CLOSE_WAIT
	TimeWait *timewait.Now
	Ports    []*ports.Space
	Mean     time.Duration // of a TIME_WAIT, as ports.Destination.Forecast takes it

	Unreadable  int // processes whose descriptors were not shown
	Unreachable int // netns that could not be entered

	At   time.Time     // when it began
	Took time.Duration // with what is counted since the look before
}

// Hook is one thing that is attached; Program is empty where it is not.
type Hook struct{ Gives, Program string }

// Map is how full one of the kernel side's maps is.
type Map struct {
	Name           string
	Entries, Limit int
}
