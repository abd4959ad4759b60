// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"net/netip"
	"testing"
	"time"

	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/owner"
	"afterfin/internal/tcp"
)

const second = time.Second

// Processes 1 to 9 are inside, 10 to 19 outside, the others are gone.
func place(pid int, _ time.Duration) (owner.Place, *owner.Process) {
	switch {
	case pid < 10:
		return owner.Inside, &owner.Process{PID: pid, Comm: "inside"}
	case pid < 20:
		return owner.Outside, nil
	}
	return owner.Gone, nil
}

// trial feeds a Deadline of 5 s; times are CLOCK_MONOTONIC in s.
type trial struct {
	*Deadline
	alive bool
}

func newTrial() *trial {
	tr := &trial{alive: true}
	tr.Deadline = NewDeadline(5*second, Processes{Place: place, Alive: func(int, time.Duration) bool { return tr.alive }})
	return tr
}

func change(from, to tcp.State, at float64, pid uint32, how event.How, in conn.Span) *conn.Change {
	return &conn.Change{InState: in, Transition: event.Transition{
		Cookie: 77, Inode: 700, From: from, To: to, Mono: seconds(at), Owner: event.Owner{PID: pid, How: how},
		Tuple: tcp.Tuple{Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.MustParseAddrPort("10.0.0.2:4000")},
	}}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(second)) }

func (t *trial) enters(at float64, pid uint32, how event.How) {
	t.Apply(change(tcp.Established, tcp.CloseWait, at, pid, how, conn.Span{}))
}

func (t *trial) leaves(at float64, pid uint32, how event.How, in conn.Span) {
	t.Apply(change(tcp.CloseWait, tcp.LastAck, at, pid, how, in))
}

// look finds the socket held by these, with what tcp_info says of its age; or, with
// age -1, does not find it.
func (t *trial) look(at, age float64, pids ...int) {
	f := &Found{Began: seconds(at), At: seconds(at), Tick: time.Millisecond}
	if age >= 0 {
		s := Socket{Existing: event.Existing{Cookie: 77, Inode: 700, State: tcp.CloseWait, RecvQ: 1, After: seconds(at), Before: seconds(at)}}
		if age > 0 {
			s.Info = event.Info{Known: true, LastAckRecv: seconds(age), LastDataRecv: seconds(age), LastDataSent: seconds(age + 1)}
		}
		for _, pid := range pids {
			s.Holders = append(s.Holders, owner.Holder{Process: &owner.Process{PID: pid}, FD: 30 + pid})
		}
		if pids == nil {
			s.Inode = 0
			s.Listener = &Listener{Holders: []owner.Holder{{Process: &owner.Process{PID: 2}, FD: 3}}}
		}
		f.Sockets = []Socket{s}
	}
	t.Look(f)
}

func exactly(s float64) conn.Span { return conn.Span{D: seconds(s), Quality: conn.Exact} }

func TestDeadline(t *testing.T) {
	type want struct {
		min, max float64 // of the age, s; max -1: Forever
		quality  Quality
		closed   bool
		fd       int
	}
	const connect, closing, listen = event.HowConnect, event.HowClose, event.HowListen
	for name, c := range map[string]struct {
		do   func(*trial)
		want *want // nil: not overdue
	}{
		"closed late":            {func(t *trial) { t.enters(1, 1, connect); t.leaves(7, 1, connect, exactly(6)) }, &want{6, 6, Exact, true, -1}},
		"closed at the limit":    {func(t *trial) { t.enters(1, 1, connect); t.leaves(6, 1, connect, exactly(5)) }, &want{5, 5, Exact, true, -1}},
		"closed just in time":    {func(t *trial) { t.enters(1, 1, connect); t.leaves(5.999, 1, connect, exactly(4.999)) }, nil},
		"closed late, outside":   {func(t *trial) { t.enters(1, 11, connect); t.leaves(7, 11, connect, exactly(6)) }, nil},
		"closed late, by nobody": {func(t *trial) { t.enters(1, 0, event.HowUnknown); t.leaves(7, 0, event.HowUnknown, exactly(6)) }, nil},
		"its end comes with its process's": {func(t *trial) { t.enters(1, 1, connect); t.alive = false; t.leaves(7, 1, connect, exactly(6)) },
			&want{6, 6, Exact, false, -1}},
		"the listener is outside, who closes is not": {func(t *trial) { t.enters(1, 11, listen); t.leaves(7, 1, closing, exactly(6)) },
			&want{6, 6, Exact, true, -1}},
		"the listener is inside, who closes is not": {func(t *trial) { t.enters(1, 1, listen); t.leaves(7, 11, closing, exactly(6)) }, nil},
		"who closes is gone":                        {func(t *trial) { t.enters(1, 1, listen); t.leaves(7, 21, closing, exactly(6)) }, &want{6, 6, Exact, true, -1}},
		"its beginning was lost, not the time":      {func(t *trial) { t.leaves(7, 1, closing, exactly(6)) }, &want{6, 6, Exact, true, -1}},
		"its beginning was lost":                    {func(t *trial) { t.leaves(7, 1, closing, conn.Span{}) }, nil},
		"older than the watch": {func(t *trial) { t.leaves(7, 1, closing, conn.Span{D: 6 * second, Quality: conn.AtLeast}) },
			&want{6, -1, Bound, true, -1}},

		"open, by looks alone":           {func(t *trial) { t.look(6, 4.9, 1); t.look(7, 5.9, 1) }, &want{5.899, 5.901, Exact, false, 31}},
		"open, too young":                {func(t *trial) { t.look(6, 4.9, 1) }, nil},
		"open, proven a tick too little": {func(t *trial) { t.look(6, 5.0005, 1) }, nil},
		"without tcp_info":               {func(t *trial) { t.look(2, 0, 1); t.look(6, 0, 1); t.look(7, 0, 1) }, &want{5, -1, Bound, false, 31}},
		"without, too young":             {func(t *trial) { t.look(2, 0, 1); t.look(6, 0, 1) }, nil},
		"open, outside":                  {func(t *trial) { t.look(6, 6, 11) }, nil},
		"open, one of two inside":        {func(t *trial) { t.look(6, 6, 11, 3) }, &want{5.999, 6.001, Exact, false, 33}},
		"open, all gone":                 {func(t *trial) { t.look(6, 6, 21) }, nil},
		"passed out in time":             {func(t *trial) { t.look(4, 4, 1); t.look(6, 6, 11) }, nil},
		"passed in":                      {func(t *trial) { t.look(4, 4, 11); t.look(6, 6, 1) }, &want{5.999, 6.001, Exact, false, 31}},
		"never accepted":                 {func(t *trial) { t.look(6, 6) }, &want{5.999, 6.001, Exact, false, -1}},
		"gone between two looks":         {func(t *trial) { t.look(4, 4, 1); t.look(10, -1) }, nil},
		"seen too old, then gone":        {func(t *trial) { t.look(6, 6, 1); t.look(7, -1); t.look(8, -1) }, &want{5.999, 7.001, Bound, true, 31}},

		"both, still open":  {func(t *trial) { t.enters(1, 1, listen); t.look(7.5, 2, 1) }, &want{6.5, 6.5, Exact, false, 31}},
		"both, then closed": {func(t *trial) { t.enters(1, 1, listen); t.look(7, 2, 1); t.leaves(9, 1, closing, exactly(8)) }, &want{8, 8, Exact, true, 31}},
		"a look was faster than the ring": {func(t *trial) { t.look(2, 0, 1); t.enters(1, 11, listen); t.leaves(7, 11, listen, exactly(6)) },
			&want{6, 6, Exact, true, 31}},
		"a look saw it gone before the ring told": {func(t *trial) {
			t.enters(1, 1, listen)
			t.look(2, 1, 1)
			t.look(8, -1)
			t.leaves(7, 1, closing, exactly(6))
		},
			&want{6, 6, Exact, true, 31}},
		"another stay of the same socket": {func(t *trial) {
			t.enters(1, 1, connect)
			t.enters(10, 1, connect)
			t.leaves(12, 1, connect, exactly(2))
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTrial()
			c.do(tr)
			over := tr.Overdue()
			if c.want == nil {
				if len(over) != 0 {
					t.Fatalf("overdue: %+v", over[0])
				}
				return
			}
			if len(over) != 1 {
				t.Fatalf("%d overdue", len(over))
			}
			most := seconds(c.want.max)
			if c.want.max < 0 {
				most = Forever
			}
			o := over[0]
			if o.Age != (Age{seconds(c.want.min), most, c.want.quality}) || o.Closed != c.want.closed || o.FD != c.want.fd || o.Process == nil {
				t.Errorf("%+v, closed %v, fd %d, process %v; want %+v", o.Age, o.Closed, o.FD, o.Process, *c.want)
			}
		})
	}
}

// Sockets of others cost no looks once their holders are known.
func TestDeadlineWaiting(t *testing.T) {
	tr := newTrial()
	expect := func(want int) {
		t.Helper()
		if got := tr.Waiting(); got != want {
			t.Errorf("%d wait, want %d", got, want)
		}
	}
	expect(0)
	tr.enters(1, 11, event.HowListen)
	expect(1)
	tr.look(2, 1, 11)
	expect(0)
	tr.look(3, 2, 1)
	expect(1)
	tr.leaves(4, 1, event.HowClose, exactly(3))
	expect(0)
}

// What was known of the holder stands when a look meets it at its end.
func TestDeadlineDyingHolder(t *testing.T) {
	tr := newTrial()
	tr.look(5, 4, 1)
	tr.waits[77].Side = event.SideAccept // as its listener told
	tr.look(6, 6, 1)
	f := &Found{Began: 7 * second, At: 7 * second, Unreadable: 1, Sockets: []Socket{{Existing: event.Existing{
		Cookie: 77, Inode: 700, State: tcp.CloseWait, RecvQ: 1, After: 7 * second, Before: 7 * second}}}}
	tr.Look(f)
	if o := tr.Overdue()[0]; o.Verdict != EOFUnread || len(o.Holders) != 1 || o.FD != 31 || o.Side != event.SideAccept {
		t.Errorf("%+v", o)
	}
}

func TestTimeWaits(t *testing.T) {
	tw := NewTimeWaits(place)
	row := func(cookie uint64, from, to tcp.State, side event.Side, pid uint32) {
		tw.Apply(&conn.Change{Transition: event.Transition{Cookie: cookie, From: from, To: to, Side: side, Owner: event.Owner{PID: pid}}})
	}
	enter := func(cookie uint64, side event.Side, pid uint32) { row(cookie, tcp.FinWait2, tcp.TimeWait, side, pid) }
	end := func(cookie uint64) { row(cookie, tcp.TimeWait, tcp.Close, event.SideConnect, 1) }
	expect := func(most, unplaced int) {
		t.Helper()
		if tw.Most() != most || tw.Unplaced() != unplaced {
			t.Errorf("most %d, unplaced %d, want %d and %d", tw.Most(), tw.Unplaced(), most, unplaced)
		}
	}
	enter(1, event.SideConnect, 1)
	enter(2, event.SideConnect, 2)
	expect(2, 0)
	end(1)
	enter(3, event.SideConnect, 1)
	expect(2, 0)
	enter(4, event.SideAccept, 1)   // holds no port
	enter(5, event.SideConnect, 11) // somebody else's
	expect(2, 0)
	enter(6, event.SideConnect, 21) // whose?
	expect(2, 1)
	end(7) // two CPUs write one ring
	enter(7, event.SideConnect, 1)
	expect(2, 1)
	enter(8, event.SideConnect, 1)
	expect(3, 1)
}
