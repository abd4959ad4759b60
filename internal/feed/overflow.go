// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"afterfin/internal/clock"
	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/netns"
	"afterfin/internal/tcp"
)

// overflowSlack is how much later than the counter rose a row may be dated: the
// kernel counts in tcp_time_wait(), and only then closes the socket. An interrupt
// may come between the two, and between the time and the value of a reading.
const overflowSlack = 10 * time.Millisecond

// overflowCount is TCPTimeWaitOverflow of one netns.
type overflowCount struct {
	value uint64        // as last read
	at    time.Duration // CLOCK_MONOTONIC just before; 0: the netns was not there yet
	left  uint64        // of the last rise: not yet given to a row, which is still in the ring then
	known bool          // false: value says nothing yet
}

// overflows gives CauseOverflow to the rows that BPF leaves unknown. Such a row
// looks like any other way in which a socket is dropped in FIN_WAIT2 or CLOSING:
// only the counter of its netns tells that there was no room for a mini-socket
// (tcp_max_tw_buckets, or memory). What cannot be read proves nothing.
//
// One counter stands for all sockets of a netns: a rise that belongs to a row which
// the filter hides, or which was lost, may be given to another one.
type overflows struct {
	counts map[uint32]*overflowCount
	spaces map[uint32]netns.NS

	listing budget
}

// maxReadings of counters for each batch, of which there are some 20 a second: a
// reading takes 0.4 ms, most of it to make a thread and move it into the netns.
const maxReadings = 16

func newOverflows() *overflows {
	return &overflows{counts: make(map[uint32]*overflowCount), spaces: make(map[uint32]netns.NS)}
}

// begin takes in a netns that was there before the feed; c is nil if its counter
// could not be read.
func (o *overflows) begin(ns netns.NS, c *overflowCount) {
	if c == nil {
		c = &overflowCount{}
	}
	o.counts[ns.Inode], o.spaces[ns.Inode] = c, ns
}

// suspected: did the socket close because there was no mini-socket for it? The kernel
// asks for one in FIN_WAIT2 and in CLOSING only. Rows without a restart count come
// from a mini-socket, so there was one.
func suspected(ch *conn.Change) bool {
	return ch.To == tcp.Close && (ch.From == tcp.FinWait2 || ch.From == tcp.Closing) &&
		ch.Cause == event.CauseUnknown && ch.SkErr == 0 && ch.Restarts != event.RestartsUnknown
}

// prove marks what is proven among the changes of one batch.
func (o *overflows) prove(changes []conn.Change) {
	var suspects map[uint32][]*conn.Change
	for i := range changes {
		if ch := &changes[i]; suspected(ch) {
			if suspects == nil {
				suspects = make(map[uint32][]*conn.Change)
			}
			suspects[ch.NetNS] = append(suspects[ch.NetNS], ch)
		}
	}
	readings := 0
	for inode, rows := range suspects {
		slices.SortStableFunc(rows, func(a, b *conn.Change) int { return cmp.Compare(a.Mono, b.Mono) })
		c := o.of(inode)
		last := rows[len(rows)-1]
		var now *overflowCount
		if last.Mono > c.at && readings < maxReadings { // else the last reading knew of all of them
			readings++
			now = o.read(inode, last.Owner.PID)
		}
		c.mark(rows, now)
	}
}

// of gives the counter of a netns. One that was not there at the start is younger, so
// it began at 0; or it was hidden then, by a process that may not be looked at, and
// somebody else went into it since: nothing can tell the two apart.
func (o *overflows) of(inode uint32) *overflowCount {
	c := o.counts[inode]
	if c == nil {
		c = &overflowCount{known: true}
		o.counts[inode] = c
	}
	return c
}

// mark gives what the counter rose by to the rows, which are in time order. Those
// dated before the last reading can only have a part in the rise before it, those
// after it only in the rise since. now is nil if the counter cannot be read.
func (c *overflowCount) mark(rows []*conn.Change, now *overflowCount) {
	rise := c.riseTo(now)
	for _, row := range rows {
		switch {
		case c.left > 0 && row.Mono <= c.at+overflowSlack:
			c.left--
		case rise > 0 && row.Mono > c.at:
			rise--
		default:
			continue
		}
		row.Cause = event.CauseOverflow
	}
	if now != nil {
		*c = *now
		c.left = rise
	}
}

func (c *overflowCount) riseTo(now *overflowCount) uint64 {
	switch {
	case now == nil || !c.known:
		return 0
	case now.value < c.value: // it never falls: another netns has the inode number now
		return now.value
	}
	return now.value - c.value
}

// read reads the counter anew; nil if the netns cannot be entered. The owner of a
// socket is most often in its netns, so that no walk over /proc is needed to find a
// netns that is young.
func (o *overflows) read(inode, owner uint32) *overflowCount {
	ways := []netns.NS{o.spaces[inode], {Inode: inode, Path: fmt.Sprintf("/proc/%d/ns/net", owner)}}
	for _, ns := range ways {
		if c := countIn(ns); c != nil {
			o.spaces[inode] = ns
			return c
		}
	}
	begin := time.Now()
	if !o.listing.allows(begin) {
		return nil
	}
	found, _, err := netns.List()
	o.listing.spent(time.Since(begin))
	if err != nil {
		return nil
	}
	clear(o.spaces)
	for _, ns := range found {
		o.spaces[ns.Inode] = ns
	}
	return countIn(o.spaces[inode])
}

// countIn reads the counter in ns; nil if there is no way into it.
func countIn(ns netns.NS) (c *overflowCount) {
	if ns.Path == "" {
		return nil
	}
	_ = netns.Do(ns, func() error { // what it fails for does not matter: nothing is proven
		c = readOverflows()
		return nil
	})
	return c
}

// readOverflows reads the counter in the netns of the calling thread; nil if the
// kernel does not show it.
func readOverflows() *overflowCount {
	c := &overflowCount{at: clock.Mono(), known: true}
	var err error
	if c.value, err = netns.TimeWaitOverflows(); err != nil {
		return nil
	}
	return c
}
