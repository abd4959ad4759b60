// SPDX-License-Identifier: Apache-2.0

package recorder

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"syscall"
	"testing"

	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/leak"
	"afterfin/internal/owner"
	"afterfin/internal/site"
	"afterfin/internal/symbol"
	"afterfin/internal/tcp"
)

// now is when the sockets are looked at.
const now = 1000 * sec

var (
	app   = &owner.Process{PID: 7, Comm: "app", FDs: 100, FDLimit: 1024}
	maker = event.Owner{PID: 7, Start: 5 * sec, Comm: event.Comm{'a', 'p', 'p'}, How: event.HowConnect}
	tuple = tcp.Tuple{Local: netip.MustParseAddrPort("10.0.0.5:43210"), Remote: netip.MustParseAddrPort("[fd00::9]:443")}
)

// A cookie may need all 64 bits, which a JSON number in other hands does not have.
const large = 1<<63 + 1

// remembered is a Memory and a Book of two sockets in CLOSE_WAIT, and one that died under its descriptor.
func remembered() (*leak.Memory, *site.Book, []*site.Site) {
	m := leak.NewMemory(tcp.CloseWait)
	for _, tr := range []event.Transition{
		{Mono: 900 * sec, Cookie: 1, Inode: 11, From: tcp.Established, To: tcp.CloseWait, Tuple: tuple, Side: event.SideConnect, Owner: maker},
		{Mono: 950*sec + 1, Cookie: large, Inode: 12, From: tcp.Established, To: tcp.CloseWait, Tuple: tuple, Side: event.SideAccept},
		{Mono: 960 * sec, Cookie: 3, Inode: 13, From: tcp.Established, To: tcp.Close, Tuple: tuple, SkErr: uint16(syscall.EPIPE)},
	} {
		m.Apply(&conn.Change{Transition: tr})
	}
	sites := []*site.Site{
		{PID: 7, Start: 5 * sec, Call: event.SideConnect, How: site.ByUnwinding, Stack: []uint64{0xffff_ffff_8100_0001, 2},
			Frames: []symbol.Frame{{Function: "billing.(*Client).Get", File: "client.go", Line: 88, Module: "/app", Offset: 1 << 60}}},
		{PID: 8, Call: event.SideAccept, Note: "the process has ended"},
	}
	book := site.NewBook()
	book.Put(1, sites[0])
	book.Put(large, sites[0])
	book.Put(3, sites[1])
	return m, book, sites
}

// seen is what a look shows of them.
func seen() *leak.Found {
	held := func(cookie uint64) leak.Socket {
		return leak.Socket{Existing: event.Existing{Cookie: cookie, Inode: 10 + cookie%8, State: tcp.CloseWait, Tuple: tuple, After: now, Before: now},
			Holders: []owner.Holder{{Process: app, FD: 4}}}
	}
	return &leak.Found{Began: now - sec, At: now, Tick: sec / 250, Sockets: []leak.Socket{held(1), held(large), held(4)},
		Strays: []owner.Stray{{Holder: owner.Holder{Process: app, FD: 9}, Inode: 13}}}
}

// passed is what arrives of it.
func passed(t *testing.T, l *Leaks) *Leaks {
	t.Helper()
	text, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	var got Leaks
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	return &got
}

// Who asks judges as serve itself would.
func TestLeaksArrive(t *testing.T) {
	m, book, sites := remembered()
	lost := event.Lost{Ring: 1, Recursion: 2, Accept: 3, Map: 4, Read: 5, Evicted: 6}
	eyes := leak.Seen{Makes: true, Accepts: true, Deep: true}
	told := NewLeaks(m, book, eyes, lost)
	if len(told.Sites) != 2 || len(told.Made) != 3 {
		t.Errorf("%d places of %d sockets: two sockets share one", len(told.Sites), len(told.Made))
	}
	got := passed(t, told)
	if got.Seen != eyes || got.Lost != lost {
		t.Errorf("%+v, lost %+v", got.Seen, got.Lost)
	}
	here, there := seen(), seen()
	m.Complete(here)
	here.Sites = book
	got.Complete(there)
	want, have := leak.Make(here, tcp.CloseWait, 0, nil), leak.Make(there, tcp.CloseWait, 0, nil)
	if !reflect.DeepEqual(have, want) {
		t.Errorf("%+v, want %+v", have, want)
	}
	// And that is what it ought to be.
	if len(have.Groups) != 1 || len(have.Groups[0].Leaks) != 3 || len(have.Groups[0].Dead) != 1 {
		t.Fatalf("%+v", have.Groups)
	}
	exact := func(age leak.Age) bool { return age.Quality == leak.Exact && age.Min == age.Max }
	for _, l := range have.Groups[0].Leaks {
		switch l.Cookie {
		case 1:
			if !exact(l.Age) || l.Age.Min != 100*sec || l.Side != event.SideConnect || l.Maker != maker || !reflect.DeepEqual(l.Site, sites[0]) {
				t.Errorf("1: %v, side %v, by %+v at %+v", l.Age, l.Side, l.Maker, l.Site)
			}
		case large:
			if !exact(l.Age) || l.Age.Min != 50*sec-1 || l.Side != event.SideAccept || l.Maker != (event.Owner{}) || !reflect.DeepEqual(l.Site, sites[0]) {
				t.Errorf("large: %v, side %v, by %+v at %+v", l.Age, l.Side, l.Maker, l.Site)
			}
		case 4:
			if l.Age.Quality != leak.Unknown || l.Site != nil {
				t.Errorf("4: %v at %+v", l.Age, l.Site)
			}
		}
	}
	if d := have.Groups[0].Dead[0]; d.At != 960*sec || d.Remote != tuple.Remote || !reflect.DeepEqual(d.Site, sites[1]) {
		t.Errorf("dead: %+v", d)
	}
}

func TestNoLeaks(t *testing.T) {
	got := passed(t, NewLeaks(leak.NewMemory(tcp.CloseWait), site.NewBook(), leak.Seen{}, event.Lost{}))
	f := seen()
	got.Complete(f)
	if f.Sites.Len() != 0 || slices.ContainsFunc(f.Sockets, func(s leak.Socket) bool { return s.Entered != 0 }) {
		t.Errorf("%+v", f)
	}
}

// What is told by another version may point nowhere.
func TestPlacesThatAreNone(t *testing.T) {
	f := seen()
	(&Leaks{Sites: []*site.Site{{PID: 7}}, Made: map[uint64]int{1: 0, 2: 1, 3: -1}}).Complete(f)
	if f.Sites.Len() != 1 || f.Sites.Get(1) == nil || f.Sites.Get(1).PID != 7 {
		t.Errorf("%d places", f.Sites.Len())
	}
}

// All that timewait and ports are told arrives, too.
func TestWindowArrives(t *testing.T) {
	k := newKernel()
	k.look(event.Ranked{})
	k.tally(1).Restarts = 2
	k.measure(event.ExpiredExact, 3000)
	k.look(event.Ranked{Makers: []event.Maker{{Owner: maker, Count: 3}}, Peers: []event.Peer{{Remote: tuple.Remote.Addr(), Port: 443, Count: 4}},
		Callers: []event.Caller{caller(5, "10.0.0.2:80", event.Calls{Connects: 3})}})
	sent := TimeWait{Window: k.Last(0), Length: 60 * sec, Lost: event.Lost{Ring: 1}, MapMemory: 5}
	text, err := json.Marshal(sent)
	if err != nil {
		t.Fatal(err)
	}
	var got TimeWait
	if err := json.Unmarshal(text, &got); err != nil || !reflect.DeepEqual(got, sent) {
		t.Errorf("%+v (%v), want %+v", got, err, sent)
	}
	text, err = json.Marshal(TimeWait{Length: 60 * sec}) // before the second look
	if err != nil {
		t.Fatal(err)
	}
	got = TimeWait{}
	if err := json.Unmarshal(text, &got); err != nil || got.Window != nil || got.Length != 60*sec {
		t.Errorf("%+v, %v", got, err)
	}
}
