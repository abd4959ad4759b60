// SPDX-License-Identifier: Apache-2.0

package event

import (
	"net/netip"
	"time"

	"afterfin/internal/tcp"
)

// Port is a socket or mini-socket that has a local port, and what of it decides who else may
// have the same one (struct af_port).
type Port struct {
	NetNS  uint32
	Cookie uint64 // 0: nobody has asked for it yet
	Tuple  tcp.Tuple
	State  tcp.State // TCP_CLOSE: bound, and that is all; of a mini-socket its substate
	Mini   bool

	// Taken: connect() does not choose this port, whatever the destination, for bind() has had
	// a hand in it (the port's inet_bind_bucket has fastreuse or fastreuseport at 0 or above).
	Taken            bool
	Reuse            bool          // SO_REUSEADDR
	Expires, Jiffies uint64        // of a mini-socket: as in MiniTimer
	Mono             time.Duration // CLOCK_MONOTONIC when this was read
	RecentStamp      uint32        // CLOCK_MONOTONIC seconds when a TCP timestamp came last; 0: none did
	EntryStamp       uint32        // low half of CLOCK_MONOTONIC in ms when TIME_WAIT began; 0: before 6.14
}

// Caller is who calls connect(), and whither. Of Bound ones the port was there before, by
// bind(), and no destination is told: :: and 0.
type Caller struct {
	Owner       // How is not told; PID 0: of many, for whom the kernel side had no room
	NetNS       uint32
	Source      netip.Addr
	Destination netip.AddrPort
	Bound       bool
	Calls
}

// Calls counts what became of connect() calls.
type Calls struct {
	Connects  uint64        // CLOSE→SYN_SENT
	Failures  uint64        // of them: no port (CauseNoPort)
	TimeWaits uint64        // connections that left a TIME_WAIT
	Released  uint64        // and those that left none
	Failed    time.Duration // CLOCK_MONOTONIC of the last failure; 0: none
}

// Add adds those of another caller.
func (c *Calls) Add(o *Calls) {
	c.Connects += o.Connects
	c.Failures += o.Failures
	c.TimeWaits += o.TimeWaits
	c.Released += o.Released
	c.Failed = max(c.Failed, o.Failed)
}
