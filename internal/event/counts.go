// SPDX-License-Identifier: Apache-2.0

package event

import (
	"net/netip"
	"time"

	"afterfin/internal/tcp"
)

// Counts is what the kernel side counted instead of telling rows, of TIME_WAIT most of it.
type Counts struct {
	Tallies    map[uint32]*Tally // by netns
	Histograms [Measures]Histogram
	Changes    []Changes
	Makers     []Maker // in no order
	Peers      []Peer  // in no order
}

// Changes is how often sockets, and mini-sockets, went from one state to another.
type Changes struct {
	From, To tcp.State
	Count    uint64
}

// Tally is what became of TIME_WAIT in one netns (struct af_tally).
type Tally struct {
	Entered         [Sides]uint64  // by Side
	Ended           [Causes]uint64 // by Cause
	HalfwayEnded    [Causes]uint64 // mini-sockets of orphans that died in FIN_WAIT2
	Restarted       uint64         // of those that ended: how many had 2MSL begin anew
	Restarts        uint64         // and how often
	RestartsUnknown uint64         // of so many that is not known
	MakersLeftOut   uint64         // entries whose maker is not among Counts.Makers
	PeersLeftOut    uint64
}

// Sides and Causes are how many there are.
const (
	Sides  = 3
	Causes = 17
)

// Add adds another tally, of another netns or CPU.
func (t *Tally) Add(o *Tally) {
	for i := range t.Entered {
		t.Entered[i] += o.Entered[i]
	}
	for i := range t.Ended {
		t.Ended[i] += o.Ended[i]
		t.HalfwayEnded[i] += o.HalfwayEnded[i]
	}
	t.Restarted += o.Restarted
	t.Restarts += o.Restarts
	t.RestartsUnknown += o.RestartsUnknown
	t.MakersLeftOut += o.MakersLeftOut
	t.PeersLeftOut += o.PeersLeftOut
}

// Since is what was counted after o, of the same netns, was read.
func (t *Tally) Since(o *Tally) Tally {
	d := *t
	for i := range d.Entered {
		d.Entered[i] -= o.Entered[i]
	}
	for i := range d.Ended {
		d.Ended[i] -= o.Ended[i]
		d.HalfwayEnded[i] -= o.HalfwayEnded[i]
	}
	d.Restarted -= o.Restarted
	d.Restarts -= o.Restarts
	d.RestartsUnknown -= o.RestartsUnknown
	d.MakersLeftOut -= o.MakersLeftOut
	d.PeersLeftOut -= o.PeersLeftOut
	return d
}

// Follows tells whether t may be o, read later. If a count is less, it is of another netns, which
// got the same inode number.
func (t *Tally) Follows(o *Tally) bool {
	for i := range t.Entered {
		if t.Entered[i] < o.Entered[i] {
			return false
		}
	}
	for i := range t.Ended {
		if t.Ended[i] < o.Ended[i] || t.HalfwayEnded[i] < o.HalfwayEnded[i] {
			return false
		}
	}
	return t.Restarted >= o.Restarted && t.Restarts >= o.Restarts && t.RestartsUnknown >= o.RestartsUnknown &&
		t.MakersLeftOut >= o.MakersLeftOut && t.PeersLeftOut >= o.PeersLeftOut
}

// Maker is who left TIME_WAIT behind: the owner of the socket.
type Maker struct {
	Owner // How is not told
	NetNS uint32
	Side  Side
	Count uint64
}

// Peer is with whom TIME_WAIT is: of SideAccept Port is ours, else theirs.
type Peer struct {
	Remote netip.Addr
	Port   uint16
	NetNS  uint32
	Side   Side
	Count  uint64
}

// Ranked is who was counted in some time, in no order.
type Ranked struct {
	Makers  []Maker
	Peers   []Peer
	Callers []Caller
}

// Measure is what a histogram is of (enum af_measure).
type Measure uint8

// ExpiredExact to CutBound are lengths of TIME_WAIT in microseconds: ended by its timer or by
// something else, with both ends seen or at least so long. Lives is the time in ESTABLISHED,
// in microseconds, of connections that were closed from our side first; Exchanges is, of the
// same, the lesser of the segments with data sent and received: no more requests than that
// were answered.
const (
	ExpiredExact Measure = iota
	ExpiredBound
	CutExact
	CutBound
	Lives
	Exchanges
	Measures
)

// Slots of a Histogram (AF_SLOTS), and how many share what lies between two powers of two.
const (
	Slots    = 3840
	slotBits = 7
)

// Histogram has values by their size: slot i those from SlotFloor(i) to below SlotFloor(i+1),
// which are up to 0.8 % apart; the last one has all that are larger.
type Histogram struct {
	Count       uint64
	Least, Most uint64 // exact; 0 without values
	Sum         uint64 // of all values
	Slots       [Slots]uint64
}

// SlotFloor is the least value that counts in a slot.
func SlotFloor(slot int) uint64 {
	if slot < 2<<slotBits {
		return uint64(slot)
	}
	shift := slot>>slotBits - 1
	return uint64(slot-shift<<slotBits) << shift
}

// MiniTimer is the timer of a mini-socket as it was set: the kernel's wheel lets it run later.
type MiniTimer struct {
	Cookie  uint64 // 0: of none, this only tells the clock
	Halfway bool   // it is an orphan's in FIN_WAIT2
	Expires uint64 // in jiffies, as Jiffies: the kernel's clock when this was read
	Jiffies uint64
	Mono    time.Duration // CLOCK_MONOTONIC then
}
