// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"math"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/owner"
)

// leakOf is a leak of exactly that age, held by these.
func leakOf(age time.Duration, by ...*owner.Process) Leak {
	s := socket(nil)
	s.Holders = held(by...)
	return Leak{Socket: &s, Age: Age{age, age, Exact}, Verdict: EOFUnread}
}

func (l Leak) with(change func(*Leak)) Leak {
	change(&l)
	return l
}

func TestGroupByProcess(t *testing.T) {
	parent, child, again := process(10, 5*sec), process(11, 6*sec), process(10, 50*sec)
	listener := &Listener{Holders: held(parent)}
	queued := leakOf(60 * sec).with(func(l *Leak) { l.Verdict, l.Listener = NotAccepted, listener })
	dead := Dead{Stray: owner.Stray{Holder: owner.Holder{Process: child, FD: 3}}}
	groups := GroupByProcess([]Leak{
		leakOf(5*time.Minute, child),
		leakOf(4*time.Minute, child, parent), // the oldest holder owns
		queued,
		leakOf(3 * time.Minute), // nobody known
		leakOf(2*time.Minute, again),
	}, []Dead{dead}, 10*sec)
	type row struct {
		process     *owner.Process
		leaks, dead int
	}
	var got []row
	for _, g := range groups {
		got = append(got, row{g.Process, len(g.Leaks), len(g.Dead)})
	}
	// The queued one is young, so its group grows; the last could be a pool.
	want := []row{{parent, 2, 0}, {child, 1, 1}, {nil, 1, 0}, {again, 1, 0}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("groups %v, want %v", got, want)
	}
}

func TestGroupFacts(t *testing.T) {
	p := process(1, 0)
	remote := func(text string, side event.Side) func(*Leak) {
		return func(l *Leak) { l.Tuple.Remote, l.Side = netip.MustParseAddrPort(text), side }
	}
	bound := func(least, most time.Duration) func(*Leak) {
		return func(l *Leak) { l.Age = Age{least, most, Bound} }
	}
	leaks := []Leak{
		leakOf(70*sec, p).with(remote("10.0.4.9:443", event.SideConnect)),
		leakOf(70*sec+1, p).with(remote("10.0.4.9:443", event.SideUnknown)),
		leakOf(11*sec, p).with(remote("10.0.4.9:1", event.SideAccept)),
		leakOf(0, p).with(bound(sec, 71*sec)).with(remote("10.0.4.10:2", event.SideAccept)),
		leakOf(0, p).with(bound(sec, 70*sec)).with(remote("10.0.4.10:3", event.SideAccept)),
		leakOf(0, p).with(func(l *Leak) { l.Age = Age{} }).with(remote("10.0.4.10:4", event.SideAccept)),
	}
	for i, unread := range []uint32{0, 1, 2, 1001, 0, math.MaxUint32} {
		leaks[i].RecvQ = unread
	}
	g := GroupByProcess(leaks, nil, 10*sec)[0]
	if want := (Growth{3, ByAges}); g.Growth != want { // of those not known to be young, none
		t.Errorf("growth %+v, want %+v", g.Growth, want)
	}
	if want := uint64(1 + 1000 + math.MaxUint32 - 1); g.Unread != want {
		t.Errorf("%d unread, want %d", g.Unread, want)
	}
	wantPeers := []Peer{{netip.MustParseAddrPort("10.0.4.10:0"), 3}, {netip.MustParseAddrPort("10.0.4.9:443"), 2}, {netip.MustParseAddrPort("10.0.4.9:0"), 1}}
	if !reflect.DeepEqual(g.Peers, wantPeers) {
		t.Errorf("peers %v, want %v", g.Peers, wantPeers)
	}
	if g.Leaks[0].Age.Max != 71*sec || g.Leaks[5].Age.Quality != Unknown {
		t.Errorf("not the oldest first: %+v", g.Leaks)
	}
}

func TestGroupOldest(t *testing.T) {
	exact := func(d time.Duration) Age { return Age{d, d, Exact} }
	for name, c := range map[string]struct {
		ages []Age
		want Age
	}{
		"none":                     {nil, Age{}},
		"unknown":                  {[]Age{{}}, Age{}},
		"unknown is left out":      {[]Age{{}, exact(5), {}}, exact(5)},
		"exact":                    {[]Age{exact(5), exact(7), exact(6)}, exact(7)},
		"exact beyond the bounds":  {[]Age{{1, 6, Bound}, exact(7)}, exact(7)},
		"exact within the bounds":  {[]Age{{1, 9, Bound}, exact(7)}, Age{7, 9, Bound}},
		"exact below them":         {[]Age{{8, 9, Bound}, exact(7)}, Age{8, 9, Bound}},
		"each gives one":           {[]Age{{1, 9, Bound}, {2, 3, Bound}}, Age{2, 9, Bound}},
		"whatever their order is":  {[]Age{{2, 3, Bound}, {1, 9, Bound}}, Age{2, 9, Bound}},
		"one of them proves it":    {[]Age{{2, 3, Bound}, {2, 9, Bound}}, Age{2, 9, Bound}},
		"exact in the first place": {[]Age{exact(7), {1, 9, Bound}}, Age{7, 9, Bound}},
	} {
		var g Group
		for _, age := range c.ages {
			g.Leaks = append(g.Leaks, Leak{Age: age})
		}
		if got := g.Oldest(); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestEMFILE(t *testing.T) {
	for name, c := range map[string]struct {
		growth float64
		fds    int
		limit  uint64
		want   time.Duration
		ok     bool
	}{
		"in a while":               {450, 58_214, 65_536, 16*time.Minute + 16266666666, true},
		"at its limit":             {1, 1024, 1024, 0, true},
		"above it, by prlimit":     {1, 2000, 1024, 0, true},
		"does not grow":            {0, 1000, 1024, 0, false},
		"shrinks":                  {-5, 1000, 1024, 0, false},
		"unlimited":                {1000, 1000, math.MaxUint64, 0, false},
		"limit not known":          {1000, 1000, 0, 0, false},
		"descriptors not counted":  {1000, 0, 1024, 0, false},
		"not in this decade":       {0.000001, 1000, 1024, 0, false},
		"the largest that is said": {1, 1, 1 + 10*365*24*60, decade, true},
		"and one more":             {1, 1, 2 + 10*365*24*60, 0, false},
	} {
		g := Group{Process: &owner.Process{FDs: c.fds, FDLimit: c.limit}, Growth: Growth{PerMinute: c.growth}}
		if got, ok := g.EMFILE(); got != c.want || ok != c.ok {
			t.Errorf("%s: %v, %v; want %v, %v", name, got, ok, c.want, c.ok)
		}
	}
	nobody := Group{Growth: Growth{PerMinute: 1}}
	if _, ok := nobody.EMFILE(); ok || nobody.Pressure() != 0 {
		t.Error("nobody has a limit")
	}
}

func TestPool(t *testing.T) {
	idle := process(1, 0)
	full := &owner.Process{PID: 2, FDs: 513, FDLimit: 1024}
	half := &owner.Process{PID: 2, FDs: 512, FDLimit: 1024}
	old := func(p *owner.Process, n int) (leaks []Leak) {
		for range n {
			leaks = append(leaks, leakOf(time.Hour, p))
		}
		return leaks
	}
	but := func(change func(*Leak)) []Leak { return append(old(idle, 5), leakOf(time.Hour, idle).with(change)) }
	dead := []Dead{{Stray: owner.Stray{Holder: owner.Holder{Process: idle}}}}
	for name, c := range map[string]struct {
		leaks []Leak
		dead  []Dead
		want  bool
	}{
		"few, old and idle":     {old(idle, 32), nil, true},
		"one too many":          {old(idle, 33), nil, false},
		"half of the fds":       {old(half, 5), nil, true},
		"more than half":        {old(full, 5), nil, false},
		"TLS":                   {but(func(l *Leak) { l.Verdict = TLSCloseUnread }), nil, true},
		"one was read":          {but(func(l *Leak) { l.Verdict = EOFRead }), nil, false},
		"one has data":          {but(func(l *Leak) { l.Verdict = DataUnread }), nil, false},
		"one is inherited":      {but(func(l *Leak) { l.Inherited = true }), nil, false},
		"one came in":           {but(func(l *Leak) { l.Side = event.SideAccept }), nil, false},
		"one is new":            {but(func(l *Leak) { l.Age = Age{60 * sec, 60 * sec, Exact} }), nil, false},
		"a dead descriptor":     {old(idle, 5), dead, false},
		"dead descriptors only": {nil, dead, false},
		"of nobody":             {[]Leak{leakOf(time.Hour)}, nil, false},
	} {
		if got := GroupByProcess(c.leaks, c.dead, 10*sec)[0].Pool; got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestRank(t *testing.T) {
	group := func(pid int, growth float64, fds, leaks, dead int, pool bool) Group {
		return Group{Process: &owner.Process{PID: pid, FDs: fds, FDLimit: 1000}, Growth: Growth{PerMinute: growth},
			Leaks: make([]Leak, leaks), Dead: make([]Dead, dead), Pool: pool}
	}
	groups := []Group{
		group(7, 90, 999, 9, 0, true), group(6, -1, 999, 99, 99, false), group(5, 0, 10, 4, 3, false), group(4, 0, 10, 8, 0, false),
		group(3, 0, 20, 1, 0, false), group(2, 1, 10, 1, 0, false), group(1, 2, 0, 1, 0, false),
	}
	Rank(groups)
	for i, g := range groups {
		if g.Process.PID != i+1 {
			t.Errorf("%d. is %d", i+1, g.Process.PID)
		}
	}
}

func TestSample(t *testing.T) {
	a, b, c := process(1, 0), process(2, 0), process(3, 0)
	again := process(1, 9*sec)
	look := func(leaks ...Leak) []Group { return GroupByProcess(leaks, nil, 10*sec) }
	before := look(leakOf(time.Hour, a), leakOf(time.Hour, b), leakOf(time.Hour, b), leakOf(time.Hour, c))
	after := look(leakOf(time.Hour, a), leakOf(time.Hour, b), leakOf(15*sec, c), leakOf(time.Hour, c), leakOf(time.Hour, again))
	after[1].Dead = nil
	Sample(after, before, 30*sec)
	want := map[*owner.Process]struct {
		growth float64
		pool   bool
	}{a: {0, true}, b: {-2, true}, c: {2, false}, again: {2, false}}
	for i, g := range after {
		if w := want[g.Process]; g.Growth != (Growth{w.growth, Sampled}) || g.Pool != w.pool {
			t.Errorf("%d started %v: %+v, pool %v; want %+v", g.Process.PID, g.Process.Start, g.Growth, g.Pool, w)
		}
		if g.Pool != (i >= 2) {
			t.Errorf("not ranked again: %d is %d.", g.Process.PID, i+1)
		}
	}
	Sample(after, before, 0)
	if after[0].Growth != (Growth{2, Sampled}) {
		t.Errorf("looks at the same time: %+v", after[0].Growth)
	}
}

func TestGroupVerdict(t *testing.T) {
	for name, c := range map[string]struct {
		leaks []Verdict
		dead  int
		want  Verdict
		n     int
	}{
		"the most frequent":        {[]Verdict{EOFRead, EOFUnread, EOFRead}, 9, EOFRead, 2},
		"as many unknown":          {[]Verdict{Undecided, EOFRead}, 0, EOFRead, 1},
		"more unknown":             {[]Verdict{Undecided, EOFRead, Undecided}, 0, Undecided, 2},
		"only dead":                {nil, 3, DeadFD, 3},
		"as many, in their order":  {[]Verdict{EOFRead, NotAccepted}, 0, NotAccepted, 1},
		"the last one of the list": {[]Verdict{PeerOpen}, 0, PeerOpen, 1},
	} {
		g := Group{Dead: make([]Dead, c.dead)}
		for _, v := range c.leaks {
			g.Leaks = append(g.Leaks, Leak{Verdict: v})
		}
		if v, n := g.Verdict(); v != c.want || n != c.n {
			t.Errorf("%s: %v %d, want %v %d", name, v, n, c.want, c.n)
		}
	}
}
