// SPDX-License-Identifier: Apache-2.0

package recorder

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/timewait"
)

const (
	sec   = time.Second
	every = 15 * sec
)

// kernel counts as the kernel side does: what it tells only grows, until a netns is gone.
type kernel struct {
	at     time.Duration
	totals event.Counts
	*History
}

func newKernel() *kernel {
	return &kernel{at: 1000 * sec, History: NewHistory(), totals: event.Counts{Tallies: make(map[uint32]*event.Tally)}}
}

func (k *kernel) tally(netns uint32) *event.Tally {
	if k.totals.Tallies[netns] == nil {
		k.totals.Tallies[netns] = &event.Tally{}
	}
	return k.totals.Tallies[netns]
}

func (k *kernel) measure(m event.Measure, slot int) {
	h := &k.totals.Histograms[m]
	h.Count++
	h.Slots[slot]++
	h.Sum += event.SlotFloor(slot)
}

// look is the end of an interval. Live of the first Space says when it was.
func (k *kernel) look(ranked event.Ranked) {
	begin := k.at
	k.at += every
	totals := event.Counts{Tallies: make(map[uint32]*event.Tally), Histograms: k.totals.Histograms}
	for netns, t := range k.totals.Tallies {
		same := *t
		totals.Tallies[netns] = &same
	}
	k.Add(&Interval{Begin: begin, End: k.at, Ranked: ranked, Totals: &totals, TimeWait: &timewait.Now{
		At: k.at, Spaces: []timewait.Space{{NetNS: 1, Peers: []event.Peer{{Port: 1}}}}}})
}

func TestNoHistory(t *testing.T) {
	k := newKernel()
	if w := k.Last(0); w != nil {
		t.Errorf("before a look: %+v", w)
	}
	k.tally(1).Restarts = 9
	k.look(event.Ranked{Makers: []event.Maker{{Count: 1}}})
	if w := k.Last(time.Hour); w != nil {
		t.Errorf("of one look: %+v", w)
	}
}

// Each window has exactly what was counted in it, however long it is.
func TestWindowsSum(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	k := newKernel()
	k.tally(1).Restarts, k.tally(1).Ended[event.CauseReset] = 1000, 1000 // before the first look
	k.measure(event.Lives, 700)
	k.look(event.Ranked{})
	const intervals = 30
	var tallies [intervals]map[uint32]event.Tally
	var slots [intervals][event.Measures]map[int]uint64
	for i := range intervals {
		tallies[i] = make(map[uint32]event.Tally)
		for netns := uint32(1); netns <= 3; netns++ {
			if random.IntN(3) == 0 {
				continue
			}
			var d event.Tally
			d.Entered[event.SideConnect], d.Ended[event.CauseExpired], d.Restarts = random.Uint64N(9), random.Uint64N(9), 1+random.Uint64N(9)
			d.HalfwayEnded[event.CauseUnknown], d.Restarted, d.PeersLeftOut = random.Uint64N(9), random.Uint64N(9), random.Uint64N(9)
			k.tally(netns).Add(&d)
			tallies[i][netns] = d
		}
		for m := range event.Measures {
			slots[i][m] = make(map[int]uint64)
			for range random.IntN(4) {
				slot := random.IntN(event.Slots)
				k.measure(m, slot)
				slots[i][m][slot]++
			}
		}
		k.look(event.Ranked{})
	}
	for n := 1; n <= intervals; n++ {
		w := k.Last(time.Duration(n) * every)
		if w.Took != time.Duration(n)*every {
			t.Fatalf("%d intervals took %v", n, w.Took)
		}
		want := make(map[uint32]*event.Tally)
		var histograms [event.Measures]event.Histogram
		for i := intervals - n; i < intervals; i++ {
			for netns, d := range tallies[i] {
				if want[netns] == nil {
					want[netns] = &event.Tally{}
				}
				want[netns].Add(&d)
			}
			for m := range slots[i] {
				for slot, count := range slots[i][m] {
					histograms[m].Slots[slot] += count
					histograms[m].Count += count
					histograms[m].Sum += count * event.SlotFloor(slot)
				}
			}
		}
		for m := range histograms {
			h, least := &histograms[m], true
			for slot, count := range h.Slots {
				if count == 0 {
					continue
				}
				if least {
					h.Least, least = event.SlotFloor(slot), false
				}
				h.Most = event.SlotFloor(slot+1) - 1
			}
			if w.Counts.Histograms[m] != *h {
				got := &w.Counts.Histograms[m]
				t.Errorf("%d intervals: histogram %d has %d from %d to %d, sum %d; want %d from %d to %d, sum %d", n, m,
					got.Count, got.Least, got.Most, got.Sum, h.Count, h.Least, h.Most, h.Sum)
			}
		}
		if !reflect.DeepEqual(w.Counts.Tallies, want) {
			t.Errorf("%d intervals: %+v, want %+v", n, w.Counts.Tallies, want)
		}
	}
}

// A netns comes and goes, and another one may get its inode number: then it counts from 0.
func TestTalliesThatComeAndGo(t *testing.T) {
	entered := func(n uint64) *event.Tally { return &event.Tally{Entered: [event.Sides]uint64{0, n, 0}} }
	for name, c := range map[string]struct {
		looks []*event.Tally // nil: no such netns
		want  uint64         // entered since the first of them
		there bool
	}{
		"was always there":        {[]*event.Tally{entered(5), entered(7), entered(7), entered(10)}, 5, true},
		"is new":                  {[]*event.Tally{nil, entered(7), entered(8)}, 8, true},
		"nothing happens":         {[]*event.Tally{entered(5), entered(5)}, 0, false},
		"is gone":                 {[]*event.Tally{entered(5), entered(7), nil}, 2, true},
		"is gone, and comes anew": {[]*event.Tally{entered(5), nil, entered(3)}, 3, true},
		"between two looks":       {[]*event.Tally{entered(5), entered(3), entered(4)}, 4, true},
		"less of one count alone": {[]*event.Tally{{Entered: [event.Sides]uint64{0, 5, 0}, Restarts: 1}, entered(8), entered(9)}, 9, true},
	} {
		k := newKernel()
		for _, tally := range c.looks {
			delete(k.totals.Tallies, 7)
			if tally != nil {
				k.totals.Tallies[7] = tally
			}
			k.look(event.Ranked{})
		}
		got, there := k.Last(time.Hour).Counts.Tallies[7]
		if there != c.there || there && *got != *entered(c.want) {
			t.Errorf("%s: %+v, want %d", name, got, c.want)
		}
	}
}

// The window is as long as was asked for at least, and Before is the look at its begin.
func TestWhichWindow(t *testing.T) {
	k := newKernel()
	for range 5 { // looks at 1015, 1030 … 1075 s
		k.look(event.Ranked{})
	}
	for ask, want := range map[time.Duration]time.Duration{0: every, 1: every, every: every, every + 1: 2 * every, 45 * sec: 3 * every, time.Hour: 4 * every} {
		w := k.Last(ask)
		if w.Took != want || w.Before.At != k.at-want {
			t.Errorf("%v: took %v, want %v, since %v", ask, w.Took, want, w.Before.At)
		}
		if len(w.Before.Spaces) != 1 || w.Before.Spaces[0].Peers != nil {
			t.Errorf("%v: before %+v", ask, w.Before)
		}
	}
}

// The look that Add is given is not its own.
func TestAddLeavesTheLook(t *testing.T) {
	h := NewHistory()
	i := &Interval{End: sec, Totals: &event.Counts{}, TimeWait: &timewait.Now{Spaces: []timewait.Space{{Peers: []event.Peer{{Port: 80}}}}}}
	h.Add(i)
	h.Add(i)
	if len(i.TimeWait.Spaces[0].Peers) != 1 {
		t.Error("the peers are gone")
	}
}

// It ends somewhere, in time and in memory.
func TestSpan(t *testing.T) {
	k := newKernel()
	for range 1000 {
		k.tally(1).Restarts++
		k.measure(event.ExpiredExact, 3000)
		k.look(event.Ranked{})
	}
	const most = int(Span/every) + 1
	if len(k.kept) > most || cap(k.kept) > 4*most {
		t.Errorf("%d intervals in room for %d", len(k.kept), cap(k.kept))
	}
	w := k.Last(time.Hour)
	if w.Took < Span || w.Took > Span+every || w.Before.At != k.at-w.Took {
		t.Errorf("%v since %v", w.Took, w.Before.At)
	}
	if n := uint64(w.Took / every); w.Counts.Tallies[1].Restarts != n || w.Counts.Histograms[event.ExpiredExact].Count != n {
		t.Errorf("%d and %d in %d intervals", w.Counts.Tallies[1].Restarts, w.Counts.Histograms[event.ExpiredExact].Count, n)
	}
}

// A pause, as of a machine that slept, leaves the last interval.
func TestPause(t *testing.T) {
	k := newKernel()
	k.look(event.Ranked{})
	k.look(event.Ranked{})
	k.at += 2 * Span
	k.look(event.Ranked{})
	if w := k.Last(time.Hour); len(k.kept) != 1 || w.Took != every || w.Before.At != 1030*sec {
		t.Errorf("%d kept: %v since %v", len(k.kept), w.Took, w.Before.At)
	}
}

func caller(pid uint32, to string, calls event.Calls) event.Caller {
	return event.Caller{Owner: event.Owner{PID: pid}, NetNS: 1, Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddrPort(to), Calls: calls}
}

func TestRankingsMerge(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	php := event.Owner{PID: 5, Start: sec, Comm: event.Comm{'p', 'h', 'p'}}
	next := php // has its pid
	next.Start = 2 * sec
	k := newKernel()
	k.look(event.Ranked{Makers: []event.Maker{{Owner: php, NetNS: 1, Count: 1000}}}) // before the first look
	k.look(event.Ranked{
		Makers:  []event.Maker{{Owner: php, NetNS: 1, Side: event.SideConnect, Count: 3}, {Owner: next, NetNS: 1, Side: event.SideConnect, Count: 1}},
		Peers:   []event.Peer{{Remote: a, Port: 80, NetNS: 1, Count: 2}, {Remote: b, Port: 80, NetNS: 1, Count: 4}},
		Callers: []event.Caller{caller(5, "10.0.0.2:80", event.Calls{Connects: 3, Failures: 1, TimeWaits: 2, Failed: 9})},
	})
	k.look(event.Ranked{
		Makers:  []event.Maker{{Owner: php, NetNS: 1, Side: event.SideConnect, Count: 5}, {Owner: php, NetNS: 2, Side: event.SideConnect, Count: 7}},
		Peers:   []event.Peer{{Remote: a, Port: 80, NetNS: 1, Count: 30}, {Remote: a, Port: 81, NetNS: 1, Count: 1}},
		Callers: []event.Caller{caller(5, "10.0.0.2:80", event.Calls{Connects: 4, Released: 2, Failed: 20}), caller(6, "10.0.0.2:80", event.Calls{Connects: 1})},
	})
	w := k.Last(time.Hour)
	makers, peers, callers := make(map[event.Maker]bool), make(map[event.Peer]bool), make(map[event.Caller]bool)
	for _, m := range w.Counts.Makers {
		makers[m] = true
	}
	for _, p := range w.Counts.Peers {
		peers[p] = true
	}
	for _, c := range w.Callers {
		callers[c] = true
	}
	if want := map[event.Maker]bool{{Owner: php, NetNS: 1, Side: event.SideConnect, Count: 8}: true, {Owner: php, NetNS: 2, Side: event.SideConnect, Count: 7}: true,
		{Owner: next, NetNS: 1, Side: event.SideConnect, Count: 1}: true}; !reflect.DeepEqual(makers, want) || len(w.Counts.Makers) != 3 {
		t.Errorf("makers %+v", w.Counts.Makers)
	}
	if want := map[event.Peer]bool{{Remote: a, Port: 80, NetNS: 1, Count: 32}: true, {Remote: b, Port: 80, NetNS: 1, Count: 4}: true,
		{Remote: a, Port: 81, NetNS: 1, Count: 1}: true}; !reflect.DeepEqual(peers, want) || len(w.Counts.Peers) != 3 {
		t.Errorf("peers %+v", w.Counts.Peers)
	}
	if want := map[event.Caller]bool{caller(5, "10.0.0.2:80", event.Calls{Connects: 7, Failures: 1, TimeWaits: 2, Released: 2, Failed: 20}): true,
		caller(6, "10.0.0.2:80", event.Calls{Connects: 1}): true}; !reflect.DeepEqual(callers, want) || len(w.Callers) != 2 {
		t.Errorf("callers %+v", w.Callers)
	}
	if len(w.Counts.Tallies) != 0 {
		t.Errorf("left out: %+v", w.Counts.Tallies)
	}
}

// The most are kept, and the others counted: by netns, and of callers by destination.
func TestRankingsEnd(t *testing.T) {
	var r event.Ranked
	const n = 2 * mostRanked
	for i := range uint32(n) {
		netns := 1 + i%2
		r.Makers = append(r.Makers, event.Maker{Owner: event.Owner{PID: i + 1}, NetNS: netns, Count: uint64(i + 1)})
		r.Peers = append(r.Peers, event.Peer{Port: uint16(i), NetNS: netns, Count: uint64(i+1) * 10})
		r.Callers = append(r.Callers, caller(i+1, []string{"10.0.0.2:80", "10.0.0.3:80"}[i%2], event.Calls{Connects: uint64(i + 1), TimeWaits: 1}))
	}
	k := newKernel()
	k.look(event.Ranked{})
	k.tally(1).MakersLeftOut = 5 // by the kernel side
	k.look(r)
	w := k.Last(0)
	if len(w.Counts.Makers) != mostRanked || len(w.Counts.Peers) != mostRanked || len(w.Callers) != mostRanked+2 {
		t.Errorf("%d makers, %d peers, %d callers", len(w.Counts.Makers), len(w.Counts.Peers), len(w.Callers))
	}
	for _, m := range w.Counts.Makers {
		if m.Count <= mostRanked {
			t.Errorf("%+v is kept", m)
		}
	}
	// The odd numbers up to 500 are of netns 1, the even ones of netns 2.
	const odd, even = 250 * 250, 250 * 251
	one, two := w.Counts.Tallies[1], w.Counts.Tallies[2]
	if one.MakersLeftOut != odd+5 || two.MakersLeftOut != even || one.PeersLeftOut != 10*odd || two.PeersLeftOut != 10*even {
		t.Errorf("left out %+v and %+v", one, two)
	}
	to := make(map[string]event.Calls)
	for _, c := range w.Callers {
		if c.PID == 0 {
			to[c.Destination.String()] = c.Calls
		} else if c.Connects <= mostRanked {
			t.Errorf("%+v is kept", c)
		}
	}
	if want := map[string]event.Calls{"10.0.0.2:80": {Connects: odd, TimeWaits: 250}, "10.0.0.3:80": {Connects: even, TimeWaits: 250}}; !reflect.DeepEqual(to, want) {
		t.Errorf("others %+v", to)
	}
}

// Who calls everybody fills no memory.
func TestCallersOfEverybody(t *testing.T) {
	var r event.Ranked
	for i := range 5 * mostRanked {
		c := caller(uint32(i+1), "10.0.0.2:80", event.Calls{Connects: 1})
		c.Destination = netip.AddrPortFrom(c.Destination.Addr(), uint16(i))
		r.Callers = append(r.Callers, c)
	}
	k := newKernel()
	k.look(event.Ranked{})
	k.look(r)
	if got := k.kept[0].ranked.Callers; len(got) != 2*mostRanked || cap(got) > 3*mostRanked {
		t.Errorf("%d callers in room for %d", len(got), cap(got))
	}
}
