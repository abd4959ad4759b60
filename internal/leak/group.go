// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/owner"
	"afterfin/internal/site"
)

// Group is what one process leaks. Process is nil for what is held by nobody known.
type Group struct {
	Process *owner.Process
	Leaks   []Leak // the oldest first
	Dead    []Dead // descriptors whose connection is gone
	Growth  Growth
	Peers   []Peer // the most frequent first
	Unread  uint64 // bytes received and not read, without the FIN
	// Pool: few, none of them new, and all could be read as idle connections of a pool
	// that will find out at its next use.
	Pool bool
	// Places are where Leaks and Dead were made, as far as that is known: first those that name
	// the program's own code, and of these the most frequent.
	Places []Place

	young int // of Leaks
}

// Place is a line of code and how many of the sockets were made there.
type Place struct {
	Site  *site.Site // of the oldest of them that is sure, if there is one
	Count int
}

// Growth is how many more there are each minute.
type Growth struct {
	PerMinute float64
	Known     GrowthKnown
}

// GrowthKnown tells what Growth rests on.
type GrowthKnown uint8

// ByAges: from how many of those that survived are young. Sampled: from two looks.
const (
	ByAges GrowthKnown = iota
	Sampled
)

var growthWords = [...]string{"ages", "sampled"}

// String is the word used in every view.
func (k GrowthKnown) String() string { return growthWords[k] }

// Peer is a remote end and how many of the sockets lead to it. Of sockets that came
// in the port is 0: each has another one.
type Peer struct {
	Remote netip.AddrPort
	Count  int
}

// A pool has at most this many idle connections to call it one, and they take at
// most that part of the descriptors.
const (
	poolSize  = 32
	poolShare = 0.5
)

// growthWindow is how far back ByAges looks.
const growthWindow = time.Minute

// GroupByProcess puts the leaks down to processes, what grows fastest first. olderThan
// is what Judge was given: those younger may still be closed in time, and count in no
// growth.
func GroupByProcess(leaks []Leak, dead []Dead, olderThan time.Duration) []Group {
	known := make(map[identity]*Group)
	var order []*Group
	group := func(p *owner.Process) *Group {
		g := &Group{Process: p}
		if known[g.id()] == nil {
			known[g.id()] = g
			order = append(order, g)
		}
		return known[g.id()]
	}
	for _, l := range leaks {
		g := group(l.Owner())
		g.Leaks = append(g.Leaks, l)
	}
	for _, s := range dead {
		g := group(s.Process)
		g.Dead = append(g.Dead, s)
	}
	groups := make([]Group, 0, len(order))
	for _, g := range order {
		g.describe(olderThan)
		groups = append(groups, *g)
	}
	Rank(groups)
	return groups
}

// identity of a process: a pid alone is used again.
type identity struct {
	pid   int
	start time.Duration
}

func (g *Group) id() identity {
	if g.Process == nil {
		return identity{}
	}
	return identity{g.Process.PID, g.Process.Start}
}

func (g *Group) describe(olderThan time.Duration) {
	slices.SortStableFunc(g.Leaks, func(a, b Leak) int {
		return cmp.Or(cmp.Compare(b.Age.Max, a.Age.Max), cmp.Compare(a.Cookie, b.Cookie))
	})
	peers := make(map[netip.AddrPort]int)
	for i := range g.Leaks {
		l := &g.Leaks[i]
		if l.Age.Quality != Unknown && l.Age.Max <= olderThan+growthWindow {
			g.young++
		}
		if l.RecvQ > 1 {
			g.Unread += uint64(l.RecvQ - 1)
		}
		remote := l.Tuple.Remote
		if l.Side == event.SideAccept {
			remote = netip.AddrPortFrom(remote.Addr(), 0)
		}
		peers[remote]++
	}
	g.Growth = Growth{PerMinute: float64(g.young) / growthWindow.Minutes()}
	for remote, n := range peers {
		g.Peers = append(g.Peers, Peer{remote, n})
	}
	slices.SortFunc(g.Peers, func(a, b Peer) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), a.Remote.Compare(b.Remote))
	})
	g.place()
	g.Pool = g.poolLike()
}

func (g *Group) place() {
	at := make(map[site.Key]int)
	add := func(s *site.Site) {
		if s == nil {
			return
		}
		i, known := at[s.Key()]
		if !known {
			i = len(g.Places)
			at[s.Key()] = i
			g.Places = append(g.Places, Place{Site: s})
		}
		g.Places[i].Count++
		if s.Final() && !g.Places[i].Site.Final() {
			g.Places[i].Site = s
		}
	}
	for i := range g.Leaks {
		add(g.Leaks[i].Site)
	}
	for i := range g.Dead {
		add(g.Dead[i].Site)
	}
	slices.SortStableFunc(g.Places, func(a, b Place) int {
		_, ownA := a.Site.Named()
		_, ownB := b.Site.Named()
		if ownA != ownB {
			if ownA {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.Count, a.Count)
	})
}

func (g *Group) poolLike() bool {
	if g.Process == nil || len(g.Leaks) > poolSize || len(g.Dead) > 0 || g.young > 0 || g.Growth.PerMinute > 0 || g.Pressure() > poolShare {
		return false
	}
	return !slices.ContainsFunc(g.Leaks, func(l Leak) bool {
		return l.Verdict != EOFUnread && l.Verdict != TLSCloseUnread || l.Inherited || l.Side == event.SideAccept
	})
}

// Pressure is the part of the process's descriptors that is in use; 0 if its limit
// is not known.
func (g *Group) Pressure() float64 {
	if g.Process == nil || g.Process.FDLimit == 0 {
		return 0
	}
	return float64(g.Process.FDs) / float64(g.Process.FDLimit)
}

// EMFILE is when the process will have no descriptor left at this growth; ok is false
// if it does not grow, or not in this decade, or its limit is not known.
func (g *Group) EMFILE() (in time.Duration, ok bool) {
	if g.Growth.PerMinute <= 0 || g.Process == nil || g.Process.FDLimit == 0 || g.Process.FDs == 0 {
		return 0, false
	}
	left := float64(g.Process.FDLimit) - float64(g.Process.FDs)
	minutes := max(0, left) / g.Growth.PerMinute
	if minutes > decade.Minutes() {
		return 0, false
	}
	return time.Duration(minutes * float64(time.Minute)), true
}

const decade = 10 * 365 * 24 * time.Hour

// Oldest is the age of the oldest leak, which may be any whose bounds reach that far;
// leaks of unknown age are left out.
func (g *Group) Oldest() (a Age) {
	for i := range g.Leaks {
		age := g.Leaks[i].Age
		if age.Quality != Unknown && (a.Quality == Unknown || age.Min >= a.Min && age.Max >= a.Max) {
			a = age
		}
		if age.Quality != Unknown && (age.Min > a.Min || age.Max > a.Max) {
			a = Age{max(a.Min, age.Min), max(a.Max, age.Max), Bound}
		}
	}
	return a
}

// Verdict is the most frequent one, known ones first, and how many of the leaks have it.
func (g *Group) Verdict() (v Verdict, n int) {
	var counts [len(verdicts)]int
	for i := range g.Leaks {
		counts[g.Leaks[i].Verdict]++
	}
	if len(g.Leaks) == 0 {
		return DeadFD, len(g.Dead)
	}
	for each, count := range counts {
		if count > n || count == n && v == Undecided {
			v, n = Verdict(each), count
		}
	}
	return v, n
}

// Rank puts what grows fastest first, then what is nearest to its limit, then what is
// most; pools come last.
func Rank(groups []Group) {
	slices.SortStableFunc(groups, func(a, b Group) int {
		if a.Pool != b.Pool {
			if a.Pool {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(b.Growth.PerMinute, a.Growth.PerMinute), cmp.Compare(b.Pressure(), a.Pressure()),
			cmp.Compare(len(b.Leaks)+len(b.Dead), len(a.Leaks)+len(a.Dead)))
	})
}

// Sample replaces the growth of each group by what two looks show, if there is time between
// them.
func Sample(groups, before []Group, apart time.Duration) {
	if apart <= 0 {
		return
	}
	for i := range groups {
		g := &groups[i]
		then := 0
		for j := range before {
			if before[j].id() == g.id() {
				then = len(before[j].Leaks) + len(before[j].Dead)
			}
		}
		now := len(g.Leaks) + len(g.Dead)
		g.Growth = Growth{PerMinute: float64(now-then) / apart.Minutes(), Known: Sampled}
		g.Pool = g.poolLike()
	}
	Rank(groups)
}
