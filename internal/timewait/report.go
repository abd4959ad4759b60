// SPDX-License-Identifier: Apache-2.0

package timewait

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"afterfin/internal/event"
)

// Space is what is in TIME_WAIT in one netns now.
type Space struct {
	NetNS uint32
	Path  string // a way into it, empty for our own

	Live    int // mini-sockets in TIME_WAIT
	Halfway int // and those of orphans in FIN_WAIT2, which count for Max too
	Max     int // tcp_max_tw_buckets; -1: not known

	FinTimeout time.Duration // tcp_fin_timeout; 0: not known
	RFC1337    int           // tcp_rfc1337; -1: not known

	// Overflows is TCPTimeWaitOverflow: sockets that got no mini-socket since the netns is
	// there. -1: not known.
	Overflows int64

	// Sides of those in TIME_WAIT by event.Side, inferred: SideAccept, if something listens on
	// their local port; SideConnect, if not and it is in ip_local_port_range.
	Sides [event.Sides]int
	Peers []event.Peer // by Sides, most first
}

// Now is what is there in all of them.
type Now struct {
	At          time.Duration // CLOCK_MONOTONIC
	Spaces      []Space       // most first
	Unreachable int           // netns, or processes that may be in one
	MiniBytes   int           // that a mini-socket takes of the kernel's memory; 0: not known
}

// Live are all in TIME_WAIT, and Halfway the others.
func (n *Now) Live() (live, halfway int) {
	for i := range n.Spaces {
		live += n.Spaces[i].Live
		halfway += n.Spaces[i].Halfway
	}
	return live, halfway
}

// Space gives that of a netns, nil if it was not seen.
func (n *Now) Space(netns uint32) *Space {
	for i := range n.Spaces {
		if n.Spaces[i].NetNS == netns {
			return &n.Spaces[i]
		}
	}
	return nil
}

// Overflowed counts the sockets of a netns that got no mini-socket from one look to the next; 0
// also where that is not known.
func (n *Now) Overflowed(next *Now, netns uint32) uint64 {
	before, after := n.Space(netns), next.Space(netns)
	if before == nil || after == nil || before.Overflows < 0 {
		return 0
	}
	return uint64(max(0, after.Overflows-before.Overflows))
}

// SortPeers has those with the most first, in a stable order.
func SortPeers(peers []event.Peer) {
	slices.SortFunc(peers, func(a, b event.Peer) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), comparePlace(a, b))
	})
}

func comparePlace(a, b event.Peer) int {
	return cmp.Or(cmp.Compare(a.NetNS, b.NetNS), cmp.Compare(a.Side, b.Side),
		netip.AddrPortFrom(a.Remote, a.Port).Compare(netip.AddrPortFrom(b.Remote, b.Port)))
}

// SortMakers likewise.
func SortMakers(makers []event.Maker) {
	slices.SortFunc(makers, func(a, b event.Maker) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.NetNS, b.NetNS), cmp.Compare(a.PID, b.PID), cmp.Compare(a.Side, b.Side))
	})
}

// Sum adds up what is counted by an array of a Tally.
func Sum(counts []uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}
