// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"net/netip"
	"time"

	"afterfin/internal/clock"
	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

// StartCounting has what becomes of TIME_WAIT counted from now on. Only with Config.Counts.
func (t *Tracer) StartCounting() error { return t.setCounting(true) }

// StopCounting ends that; what was counted stays.
func (t *Tracer) StopCounting() error { return t.setCounting(false) }

func (t *Tracer) setCounting(on bool) error {
	if err := t.coll.Variables["counting"].Set(on); err != nil {
		return fmt.Errorf("set counting: %w", err)
	}
	return nil
}

// The maps of bpf/maps.h as Go reads them; a test compares them with the object's BTF.
type (
	rawHistogram struct {
		Most, Least, Sum uint64
		Slots            [event.Slots]uint32
	}
	rawMaker struct {
		Start      uint64
		NetNS, PID uint32
		Side, Pad  uint32
	}
	rawPeer struct {
		Remote      [16]byte
		NetNS, Side uint32
		Port, Pad   uint32
	}
	rawRanked struct {
		Count uint64
		Comm  event.Comm
	}
	rawCaller struct {
		Start          uint64
		Source, Remote [16]byte
		NetNS, PID     uint32
		Port, Bound    uint32
	}
	rawCalls struct {
		Connects, Failures  uint64
		TimeWaits, Released uint64
		Failed              uint64
		Comm                event.Comm
	}
)

// Counts reads what was counted since StartCounting. Others go on counting meanwhile.
func (t *Tracer) Counts() (*event.Counts, error) {
	return counts(t.readTallies, t.readChanges, t.readHistograms, t.readMakers, t.readPeers)
}

// Totals is Counts without Makers and Peers, of which there may be many.
func (t *Tracer) Totals() (*event.Counts, error) {
	return counts(t.readTallies, t.readChanges, t.readHistograms)
}

func counts(reads ...func(*event.Counts) error) (*event.Counts, error) {
	c := &event.Counts{Tallies: make(map[uint32]*event.Tally)}
	for _, read := range reads {
		if err := read(c); err != nil {
			return nil, fmt.Errorf("read counts: %w", err)
		}
	}
	return c, nil
}

func (t *Tracer) readTallies(c *event.Counts) error {
	var netns uint32
	var perCPU []event.Tally
	all := t.coll.Maps["tallies"].Iterate()
	for all.Next(&netns, &perCPU) {
		sum := &event.Tally{}
		for i := range perCPU {
			sum.Add(&perCPU[i])
		}
		c.Tallies[netns] = sum
	}
	return all.Err()
}

// changeStates is AF_CHANGES.
const changeStates = 16

func (t *Tracer) readChanges(c *event.Counts) error {
	var key uint32
	var perCPU []uint64
	all := t.coll.Maps["changes"].Iterate()
	for all.Next(&key, &perCPU) {
		n := uint64(0)
		for _, here := range perCPU {
			n += here
		}
		if n > 0 {
			c.Changes = append(c.Changes, event.Changes{From: tcp.State(key / changeStates), To: tcp.State(key % changeStates), Count: n})
		}
	}
	return all.Err()
}

func (t *Tracer) readHistograms(c *event.Counts) error {
	for m := range c.Histograms {
		var perCPU []rawHistogram
		if err := t.coll.Maps["histograms"].Lookup(uint32(m), &perCPU); err != nil {
			return err
		}
		h := &c.Histograms[m]
		var leastInverted uint64
		for i := range perCPU {
			h.Most = max(h.Most, perCPU[i].Most)
			h.Sum += perCPU[i].Sum
			leastInverted = max(leastInverted, perCPU[i].Least)
			for slot, n := range perCPU[i].Slots {
				h.Slots[slot] += uint64(n)
				h.Count += uint64(n)
			}
		}
		if leastInverted != 0 {
			h.Least = ^leastInverted
		}
	}
	return nil
}

func (t *Tracer) readMakers(c *event.Counts) error {
	var key rawMaker
	var value rawRanked
	all := t.coll.Maps["makers"].Iterate()
	for all.Next(&key, &value) {
		c.Makers = append(c.Makers, maker(&key, &value))
	}
	return all.Err()
}

func maker(key *rawMaker, value *rawRanked) event.Maker {
	return event.Maker{
		Owner: event.Owner{PID: key.PID, Start: time.Duration(key.Start), Comm: value.Comm},
		NetNS: key.NetNS, Side: event.Side(key.Side), Count: value.Count,
	}
}

func (t *Tracer) readPeers(c *event.Counts) error {
	var key rawPeer
	var value rawRanked
	all := t.coll.Maps["peers"].Iterate()
	for all.Next(&key, &value) {
		c.Peers = append(c.Peers, peer(&key, &value))
	}
	return all.Err()
}

func peer(key *rawPeer, value *rawRanked) event.Peer {
	return event.Peer{
		Remote: netip.AddrFrom16(key.Remote).Unmap(), Port: uint16(key.Port),
		NetNS: key.NetNS, Side: event.Side(key.Side), Count: value.Count,
	}
}

// TimeWaitLength is Config.TimeWaitLength, or what the timer of a TIME_WAIT was set to since
// New; 0: neither is known.
func (t *Tracer) TimeWaitLength() (time.Duration, error) {
	var jiffies uint64
	if err := t.coll.Variables["timewait_jiffies"].Get(&jiffies); err != nil {
		return 0, fmt.Errorf("read timewait_jiffies: %w", err)
	}
	return time.Duration(jiffies) * clock.Jiffy(), nil
}

// Records counts what has come through the ring since New.
func (t *Tracer) Records() uint64 { return t.records }

// Timers calls fn with the timer of each mini-socket of the calling thread's netns, and at
// last with the clock alone. Only with Config.Timers.
func (t *Tracer) Timers(fn func(event.MiniTimer)) error {
	return walk(t.timers, event.TimerSize, func(raw []byte) error {
		timer, err := event.DecodeTimer(raw)
		if err == nil {
			fn(timer)
		}
		return err
	})
}

// MapMemory is what the maps take of the kernel's memory, in bytes, as far as the kernel
// tells: those that grow on demand at their size of now since 6.4, at their limit before.
func (t *Tracer) MapMemory() (uint64, error) {
	var sum uint64
	for name, m := range t.coll.Maps {
		info, err := m.Info()
		if err != nil {
			return 0, fmt.Errorf("map %s: %w", name, err)
		}
		n, _ := info.Memlock()
		sum += n
	}
	return sum, nil
}
