// SPDX-License-Identifier: Apache-2.0

package ports

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/tcp"
	"afterfin/internal/timewait"
)

func tuple(local, remote string) tcp.Tuple {
	return tcp.Tuple{Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote)}
}

// look has one of each kind; its clock says 100 s.
func look() *Look {
	const at = 100 * time.Second
	mini := func(local string, stamp uint32, taken bool) event.Port {
		return event.Port{Tuple: tuple(local, "10.0.0.2:80"), State: tcp.TimeWait, Mini: true, Taken: taken, RecentStamp: stamp,
			Mono: at, Jiffies: 25000, Expires: 25000 + 250*30, EntryStamp: stamp * 1000}
	}
	return &Look{
		At: at, While: time.Second, Clock: Clock{timewait.Wheel{Tick: 4 * time.Millisecond}, time.Minute},
		Sockets: []event.Port{
			{Tuple: tuple("10.0.0.1:40000", "10.0.0.2:80"), State: tcp.Established, Cookie: 1},
			mini("10.0.0.1:40001", 90, false),
			mini("10.0.0.1:40002", 0, false),                                               // no timestamps
			mini("10.0.0.1:40003", 100, false),                                             // not older than a second
			{Tuple: tuple("10.0.0.1:40001", "10.0.0.3:80"), State: tcp.SynSent, Cookie: 2}, // the same port, to another one
			{Tuple: tuple("10.0.0.1:50000", "10.0.0.2:80"), State: tcp.Established},        // not of the range
			mini("10.0.0.1:40004", 90, true),                                               // bind() came first
			{Tuple: tuple("0.0.0.0:40005", "0.0.0.0:0"), State: tcp.Listen, Taken: true},
			{Tuple: tuple("10.0.0.1:40005", "10.0.0.9:777"), State: tcp.Established, Taken: true}, // came in there
			{Tuple: tuple("10.0.0.8:40006", "0.0.0.0:0"), State: tcp.Close, Taken: true},          // bound, and that is all
		},
		Holders: map[uint64]event.Owner{1: {PID: 7}, 2: {PID: 8}},
		Callers: []event.Caller{
			{NetNS: 5, Owner: event.Owner{PID: 7}, Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddrPort("10.0.0.2:80"), Calls: event.Calls{Connects: 3, Failures: 1}},
			{NetNS: 5, Owner: event.Owner{PID: 9}, Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddrPort("10.0.0.4:80"), Calls: event.Calls{Connects: 1, Released: 1}},
			{NetNS: 6, Source: netip.MustParseAddr("10.0.0.1"), Destination: netip.MustParseAddrPort("10.0.0.2:80"), Calls: event.Calls{Connects: 100}},
		},
	}
}

func (s *Space) to(remote string) *Destination {
	for _, d := range s.Destinations {
		if d.Bound == (remote == "") && (d.Bound || d.Remote.String() == remote) {
			return d
		}
	}
	return nil
}

func TestTake(t *testing.T) {
	s := &Space{NetNS: 5, Rules: Rules{Low: 40000, High: 40009, Reserved: []Span{{40008, 40008}, {1, 80}}, ReuseDelay: -1}}
	s.Take(look())
	if len(s.Destinations) != 4 {
		t.Fatalf("%d destinations", len(s.Destinations))
	}
	d := s.to("10.0.0.2:80")
	// 10 ports, one reserved, three with bind() in them: 40004, 40005, 40006.
	if d.Capacity != 6 || d.Blocked != 3 || d.Used != 4 || d.Free() != 2 || !reflect.DeepEqual(d.ByState, map[tcp.State]int{tcp.Established: 1, tcp.TimeWait: 3}) {
		t.Errorf("%+v", d)
	}
	if d.Reusable != 1 || d.NoStamp != 1 || d.TooYoung != 1 || d.InEffect != 0 {
		t.Errorf("reuse %+v", d)
	}
	// All three timers are due at the same jiffy, and run at the end of its bucket of 512.
	if end := 100*time.Second + (64*512-25000)*4*time.Millisecond; len(d.Frees) != 3 || d.Frees[0] != end || d.Frees[2] != end {
		t.Errorf("free at %v, want %v", d.Frees, end)
	}
	if len(d.Owners) != 1 || d.Owners[0].PID != 7 || d.Owners[0].Sockets != 1 || d.Owners[0].Connects != 3 || d.Flow.Failures != 1 {
		t.Errorf("owners %+v", d.Owners)
	}
	if o := s.to("10.0.0.3:80"); o.Used != 1 || o.Capacity != 6 || o.Owners[0].PID != 8 {
		t.Errorf("%+v", o)
	}
	if o := s.to("10.0.0.4:80"); o.Used != 0 || o.Flow.Released != 1 || o.Capacity != 6 { // nothing is left of it
		t.Errorf("%+v", o)
	}
	// bind(0) on 10.0.0.1: in its way are what connect() chose there, and who takes all addresses.
	if o := s.to(""); o.Used != 1 || o.Blocked != 5 || o.Capacity != 4 || o.Reusable != 0 {
		t.Errorf("%+v", o)
	}
	if len(s.Listeners) != 0 {
		t.Errorf("listeners %+v", s.Listeners[0])
	}
}

func TestTakeReuseInEffect(t *testing.T) {
	s := &Space{NetNS: 5, Rules: Rules{Low: 40000, High: 40009, Reuse: 1, ReuseDelay: time.Second}}
	s.Take(look())
	d := s.to("10.0.0.2:80")
	if d.InEffect != 1 || d.Free() != d.Capacity-d.Used+1 {
		t.Errorf("%+v", d)
	}
	// The first may be taken now, the second a millisecond after the delay, the third at its end.
	if d.Frees[0] != d.At || d.Frees[1] != d.At+1001*time.Millisecond || d.Frees[2] < d.At+30*time.Second {
		t.Errorf("free at %v, now is %v", d.Frees, d.At)
	}
}

func TestListeners(t *testing.T) {
	served := func(local string, reuse, mini bool) event.Port {
		p := event.Port{Tuple: tuple(local, "10.0.0.9:777"), State: tcp.CloseWait, Taken: true, Reuse: reuse}
		if mini {
			p.State, p.Mini, p.Jiffies, p.Expires = tcp.TimeWait, true, 1, 15001
		}
		return p
	}
	listens := func(local string, reuse bool) event.Port {
		return event.Port{Tuple: tuple(local, "0.0.0.0:0"), State: tcp.Listen, Taken: true, Reuse: reuse}
	}
	for name, c := range map[string]struct {
		sockets []event.Port
		want    *Listener // Local, Listening and Refuses
		until   bool
	}{
		"gone":                       {[]event.Port{served("10.0.0.1:80", false, true)}, &Listener{Refuses: true}, true},
		"gone, with SO_REUSEADDR":    {[]event.Port{served("10.0.0.1:80", true, true)}, &Listener{}, true},
		"gone, and a connection":     {[]event.Port{served("10.0.0.1:80", true, true), served("10.0.0.1:80", true, false)}, &Listener{}, false},
		"one of them lacks it":       {[]event.Port{served("10.0.0.1:80", true, true), served("10.0.0.1:80", false, true)}, &Listener{Refuses: true}, true},
		"there, with SO_REUSEADDR":   {[]event.Port{listens("0.0.0.0:80", true), served("10.0.0.1:80", true, true)}, nil, false},
		"there, without":             {[]event.Port{listens("0.0.0.0:80", false), served("10.0.0.1:80", false, true)}, &Listener{Listening: true, Refuses: true}, true},
		"there, without, and none":   {[]event.Port{listens("0.0.0.0:80", false), served("10.0.0.1:80", false, false)}, nil, false},
		"a client that bound first":  {[]event.Port{served("10.0.0.1:40000", true, true)}, nil, false},
		"in the range, with several": {[]event.Port{served("10.0.0.1:40000", true, true), served("10.0.0.1:40000", true, true)}, &Listener{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := &Space{Rules: Rules{Low: 40000, High: 40009}}
			s.Take(&Look{Sockets: c.sockets, Clock: Clock{timewait.Wheel{Tick: 4 * time.Millisecond}, time.Minute}})
			if c.want == nil {
				if len(s.Listeners) != 0 {
					t.Errorf("%+v", s.Listeners[0])
				}
				return
			}
			if len(s.Listeners) != 1 {
				t.Fatalf("%d listeners", len(s.Listeners))
			}
			l := s.Listeners[0]
			if l.Listening != c.want.Listening || l.Refuses != c.want.Refuses || (l.Until > 0) != c.until {
				t.Errorf("%+v", l)
			}
		})
	}
}

func TestParseSpans(t *testing.T) {
	got, err := ParseSpans("8080,9000-9100,65535\n")
	if want := []Span{{8080, 8080}, {9000, 9100}, {65535, 65535}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := ParseSpans("\n"); got != nil || err != nil {
		t.Errorf("empty: %v, %v", got, err)
	}
	for _, bad := range []string{"x", "5-", "9-5", "70000"} {
		if _, err := ParseSpans(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	r := Rules{Low: 10, High: 19, Reserved: []Span{{1, 10}, {15, 16}, {19, 30}}}
	in := 0
	for p := range 40 {
		if r.InRange(uint16(p)) {
			in++
		}
	}
	if r.Range() != 10 || r.ReservedInRange() != 4 || in != 6 {
		t.Errorf("%d ports, %d reserved, %d to be chosen", r.Range(), r.ReservedInRange(), in)
	}
}

func TestReuseApplies(t *testing.T) {
	for _, c := range []struct {
		reuse  int
		remote string
		want   bool
	}{{0, "127.0.0.1:1", false}, {1, "10.0.0.2:1", true}, {2, "10.0.0.2:1", false}, {2, "127.0.0.9:1", true}, {2, "[::1]:1", true}} {
		if got := (&Rules{Reuse: c.reuse}).ReuseApplies(tuple("10.0.0.1:1", c.remote)); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
