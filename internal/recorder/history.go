// SPDX-License-Identifier: Apache-2.0

package recorder

import (
	"cmp"
	"slices"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/timewait"
)

const (
	// Span is how far back a History goes.
	Span = 10 * time.Minute
	// mostRanked is how many of a ranking it keeps of an interval, and how many destinations of
	// the other callers.
	mostRanked = 500
)

// Interval is what was counted between two looks.
type Interval struct {
	Begin, End time.Duration // CLOCK_MONOTONIC
	Ranked     event.Ranked  // between the two
	Totals     *event.Counts // since the kernel side began to count, at End
	TimeWait   *timewait.Now // at End
}

// History keeps what was counted lately. Not for concurrent use.
type History struct {
	kept  []kept
	last  *event.Counts // Totals of the last one
	start *timewait.Now // of the first look, before which nothing is kept
}

// kept is an Interval in little memory.
type kept struct {
	begin, end time.Duration
	tallies    map[uint32]event.Tally
	histograms [event.Measures]sparse
	ranked     event.Ranked
	after      *timewait.Now // without peers
}

// sparse is a histogram by its slots that have values.
type sparse struct {
	sum   uint64
	slots []slot
}

type slot struct {
	at uint16
	n  uint64
}

// NewHistory makes an empty one.
func NewHistory() *History { return &History{} }

// Add takes in the next interval, and drops those that are too old. The first one is where it begins: of
// before nothing is known.
func (h *History) Add(i *Interval) {
	light := *i.TimeWait
	light.Spaces = slices.Clone(i.TimeWait.Spaces)
	for s := range light.Spaces {
		light.Spaces[s].Peers = nil
	}
	if h.last == nil {
		h.last, h.start = i.Totals, &light
		return
	}
	k := kept{begin: i.Begin, end: i.End, tallies: make(map[uint32]event.Tally), after: &light, ranked: i.Ranked}
	for inode, t := range i.Totals.Tallies {
		before := h.last.Tallies[inode]
		if before == nil || !t.Follows(before) {
			before = &event.Tally{} // a netns that is new, under a number that may have been another's
		}
		if d := t.Since(before); d != (event.Tally{}) {
			k.tallies[inode] = d
		}
	}
	for m := range k.histograms {
		k.histograms[m] = between(&h.last.Histograms[m], &i.Totals.Histograms[m])
	}
	k.rank()
	h.last = i.Totals
	h.kept = append(h.kept, k)
	for h.kept[0].end < i.End-Span {
		h.start = h.kept[0].after
		h.kept = slices.Delete(h.kept, 0, 1)
	}
}

func between(a, b *event.Histogram) sparse {
	s := sparse{sum: b.Sum - a.Sum}
	for i, n := range b.Slots {
		if n > a.Slots[i] {
			s.slots = append(s.slots, slot{uint16(i), n - a.Slots[i]})
		}
	}
	return s
}

// rank leaves those with the most, and counts the others.
func (k *kept) rank() {
	r := &k.ranked
	timewait.SortMakers(r.Makers)
	timewait.SortPeers(r.Peers)
	for _, m := range r.Makers[min(mostRanked, len(r.Makers)):] {
		t := k.tallies[m.NetNS]
		t.MakersLeftOut += m.Count
		k.tallies[m.NetNS] = t
	}
	for _, p := range r.Peers[min(mostRanked, len(r.Peers)):] {
		t := k.tallies[p.NetNS]
		t.PeersLeftOut += p.Count
		k.tallies[p.NetNS] = t
	}
	r.Makers = slices.Clone(r.Makers[:min(mostRanked, len(r.Makers))])
	r.Peers = slices.Clone(r.Peers[:min(mostRanked, len(r.Peers))])
	r.Callers = fewer(r.Callers)
}

// fewer keeps the callers with the most calls, and of the others what goes to each destination,
// as the kernel side does without room: of many short processes together that may be the most.
func fewer(callers []event.Caller) []event.Caller {
	most := func(a, b event.Caller) int { return cmp.Compare(b.Connects, a.Connects) }
	slices.SortFunc(callers, most)
	rest := make(map[event.Caller]event.Calls)
	for _, c := range callers[min(mostRanked, len(callers)):] {
		calls := c.Calls
		c.Owner, c.Calls = event.Owner{}, event.Calls{}
		sum := rest[c]
		sum.Add(&calls)
		rest[c] = sum
	}
	var others []event.Caller
	for c, calls := range rest {
		c.Calls = calls
		others = append(others, c)
	}
	slices.SortFunc(others, most)
	return slices.Concat(callers[:min(mostRanked, len(callers))], others[:min(mostRanked, len(others))])
}

// Window is what was counted in the last while.
type Window struct {
	Took    time.Duration
	Before  *timewait.Now // when it began, without peers
	Counts  *event.Counts // Least and Most are those of their slots, up to 0.8 % off
	Callers []event.Caller
}

// Last gives at least so much of what was counted last, as far as it goes back; nil if nothing was yet.
func (h *History) Last(d time.Duration) *Window {
	first := len(h.kept)
	for first > 0 && (first == len(h.kept) || h.kept[len(h.kept)-1].end-h.kept[first].begin < d) {
		first--
	}
	if first == len(h.kept) {
		return nil
	}
	w := &Window{Before: h.start, Counts: &event.Counts{Tallies: make(map[uint32]*event.Tally)}}
	if first > 0 {
		w.Before = h.kept[first-1].after
	}
	makers, peers := make(map[event.Maker]uint64), make(map[event.Peer]uint64)
	callers := make(map[event.Caller]event.Calls)
	for i := range h.kept[first:] {
		k := &h.kept[first+i]
		w.Took = k.end - h.kept[first].begin
		w.add(k)
		for _, m := range k.ranked.Makers {
			n := m.Count
			m.Count = 0
			makers[m] += n
		}
		for _, p := range k.ranked.Peers {
			n := p.Count
			p.Count = 0
			peers[p] += n
		}
		for _, c := range k.ranked.Callers {
			calls := c.Calls
			c.Calls = event.Calls{}
			sum := callers[c]
			sum.Add(&calls)
			callers[c] = sum
		}
	}
	for m, n := range makers {
		m.Count = n
		w.Counts.Makers = append(w.Counts.Makers, m)
	}
	for p, n := range peers {
		p.Count = n
		w.Counts.Peers = append(w.Counts.Peers, p)
	}
	for c, calls := range callers {
		c.Calls = calls
		w.Callers = append(w.Callers, c)
	}
	return w
}

func (w *Window) add(k *kept) {
	for inode, t := range k.tallies {
		if w.Counts.Tallies[inode] == nil {
			w.Counts.Tallies[inode] = &event.Tally{}
		}
		w.Counts.Tallies[inode].Add(&t)
	}
	for m := range k.histograms {
		to := &w.Counts.Histograms[m]
		to.Sum += k.histograms[m].sum
		for _, s := range k.histograms[m].slots {
			low, high := event.SlotFloor(int(s.at)), event.SlotFloor(int(s.at)+1)-1
			if to.Count == 0 || low < to.Least {
				to.Least = low
			}
			to.Most = max(to.Most, high)
			to.Slots[s.at] += s.n
			to.Count += s.n
		}
	}
}
