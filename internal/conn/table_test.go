// SPDX-License-Identifier: Apache-2.0

package conn

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

const (
	sec    = time.Second
	cookie = 42
)

var (
	nginx  = event.Owner{PID: 80, How: event.HowListen}
	worker = event.Owner{PID: 81, How: event.HowClose}
	holder = event.Owner{PID: 82, How: event.HowFD}
)

// tr is a transition as the ring tells it; entered 0: the kernel did not see From begin.
func tr(mono, entered time.Duration, from, to tcp.State) *event.Transition {
	return &event.Transition{Mono: mono, Entered: entered, Cookie: cookie, From: from, To: to}
}

func existing(state tcp.State, after, before time.Duration) *event.Existing {
	return &event.Existing{Cookie: cookie, State: state, After: after, Before: before}
}

// step is a transition to apply, and what must come of it.
type step struct {
	tr    *event.Transition
	want  Span
	state tcp.State // the table's afterwards; 0: not in it
}

func applied(t *Table, tr *event.Transition) (ch Change) {
	ch.Owner.PID = 12345 // what is there does not matter
	t.Apply(tr, &ch)
	return ch
}

func TestApply(t *testing.T) {
	for name, c := range map[string]struct {
		dump  *event.Existing
		steps []step
	}{
		"the kernel saw both ends": {nil, []step{
			{tr(5*sec, 0, tcp.Close, tcp.SynSent), Span{}, tcp.SynSent},
			{tr(6*sec, 5*sec, tcp.SynSent, tcp.Established), Span{sec, Exact}, tcp.Established},
			{tr(9*sec, 6*sec, tcp.Established, tcp.Close), Span{3 * sec, Exact}, 0},
		}},
		"there before us: a lower bound": {existing(tcp.CloseWait, 10*sec, 11*sec), []step{
			{tr(15*sec, 0, tcp.CloseWait, tcp.LastAck), Span{4 * sec, AtLeast}, tcp.LastAck},
			{tr(16*sec, 15*sec, tcp.LastAck, tcp.Close), Span{sec, Exact}, 0},
		}},
		"TIME_WAIT there before us: the kernel side gives a lower bound": {nil, []step{
			{&event.Transition{Mono: 70 * sec, Entered: 10 * sec, AtLeast: true, Cookie: cookie, From: tcp.TimeWait, To: tcp.Close}, Span{60 * sec, AtLeast}, 0},
		}},
		"changed before it was dumped: the dump is newer": {existing(tcp.CloseWait, 10*sec, 11*sec), []step{
			{tr(9*sec, 0, tcp.Established, tcp.CloseWait), Span{}, tcp.CloseWait},
			{tr(12*sec, 9*sec, tcp.CloseWait, tcp.LastAck), Span{3 * sec, Exact}, tcp.LastAck},
		}},
		"while the dump ran, after this socket": {existing(tcp.Established, 10*sec, 11*sec), []step{
			{tr(10500*time.Millisecond, 0, tcp.Established, tcp.CloseWait), Span{}, tcp.CloseWait},
		}},
		"while the dump ran, before this socket": {existing(tcp.CloseWait, 10*sec, 11*sec), []step{
			{tr(10500*time.Millisecond, 0, tcp.Established, tcp.CloseWait), Span{}, tcp.CloseWait},
			{tr(10700*time.Millisecond, 10500*time.Millisecond, tcp.CloseWait, tcp.LastAck), Span{200 * time.Millisecond, Exact}, tcp.LastAck},
		}},
		"closed before it was dumped is not closed for the table": {existing(tcp.CloseWait, 10*sec, 11*sec), []step{
			{tr(9*sec, 0, tcp.CloseWait, tcp.Close), Span{}, tcp.CloseWait},
		}},
		"a transition was lost: unknown, never 0": {nil, []step{
			{tr(5*sec, 0, tcp.Close, tcp.SynSent), Span{}, tcp.SynSent},
			{tr(9*sec, 0, tcp.Established, tcp.CloseWait), Span{}, tcp.CloseWait},
		}},
		"late: makes a row and changes nothing": {nil, []step{
			{tr(9*sec, 8*sec, tcp.Established, tcp.FinWait1), Span{sec, Exact}, tcp.FinWait1},
			{tr(8*sec, 7*sec, tcp.SynSent, tcp.Established), Span{sec, Exact}, tcp.FinWait1},
		}},
		"late after the end does not bring it back": {nil, []step{
			{tr(9*sec, 8*sec, tcp.LastAck, tcp.Close), Span{sec, Exact}, 0},
			{tr(8*sec, 7*sec, tcp.CloseWait, tcp.LastAck), Span{sec, Exact}, 0},
		}},
		"the same socket connects again": {nil, []step{
			{tr(5*sec, 4*sec, tcp.SynSent, tcp.Close), Span{sec, Exact}, 0},
			{tr(7*sec, 5*sec, tcp.Close, tcp.SynSent), Span{2 * sec, Exact}, tcp.SynSent},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			table := NewTable(10)
			if c.dump != nil {
				table.AddExisting(c.dump)
			}
			for i, s := range c.steps {
				if got := applied(table, s.tr).InState; got != s.want {
					t.Errorf("step %d: in state %+v, want %+v", i, got, s.want)
				}
				var state tcp.State
				if e := table.conns[cookie]; e != nil {
					state = e.state
				}
				if state != s.state {
					t.Errorf("step %d: table has %v, want %v", i, state, s.state)
				}
			}
		})
	}
}

func TestOwner(t *testing.T) {
	table := NewTable(10)
	table.AddExisting(existing(tcp.Established, sec, 2*sec))
	table.AddHolder(&event.Holder{Cookie: cookie, Owner: holder})
	table.AddHolder(&event.Holder{Cookie: cookie, Owner: event.Owner{PID: 99, How: event.HowFD}})
	table.AddHolder(&event.Holder{Cookie: 1, Owner: holder}) // of a socket we do not know

	if got := applied(table, tr(3*sec, 0, tcp.Established, tcp.CloseWait)).Owner; got != holder {
		t.Errorf("owner %+v, want the first holder %+v", got, holder)
	}
	last := tr(4*sec, 3*sec, tcp.CloseWait, tcp.LastAck)
	last.Owner = worker
	if got := applied(table, last).Owner; got != worker {
		t.Errorf("owner %+v, want who closed %+v", got, worker)
	}
	if got := applied(table, tr(5*sec, 4*sec, tcp.LastAck, tcp.Close)).Owner; got != worker {
		t.Errorf("owner %+v, want still %+v", got, worker)
	}
}

func TestListenerOwnerGivesWay(t *testing.T) {
	table := NewTable(10)
	in := tr(sec, 0, tcp.SynRecv, tcp.Established)
	in.Owner = nginx
	applied(table, in)
	table.AddHolder(&event.Holder{Cookie: cookie, Owner: holder})
	next := tr(2*sec, sec, tcp.Established, tcp.CloseWait)
	next.Owner = nginx // all that the kernel knows
	if got := applied(table, next).Owner; got != holder {
		t.Errorf("owner %+v, want the holder %+v", got, holder)
	}
}

func TestListenerKeepsItsOwner(t *testing.T) {
	table := NewTable(10)
	in := tr(sec, 0, tcp.Close, tcp.Listen)
	in.Owner = nginx
	applied(table, in)
	table.AddHolder(&event.Holder{Cookie: cookie, Owner: holder}) // it was inherited
	last := tr(2*sec, sec, tcp.Listen, tcp.Close)
	last.Owner = nginx
	if got := applied(table, last).Owner; got != nginx {
		t.Errorf("owner %+v, want who listens %+v", got, nginx)
	}
}

func TestDumpAfterEvents(t *testing.T) {
	table := NewTable(10)
	applied(table, tr(5*sec, 4*sec, tcp.Established, tcp.CloseWait))
	table.AddExisting(existing(tcp.Established, 3*sec, 4*sec))
	if got := table.conns[cookie].state; got != tcp.CloseWait {
		t.Errorf("the dump changed the state to %v", got)
	}
	applied(table, tr(6*sec, 5*sec, tcp.CloseWait, tcp.Close))
	table.AddExisting(existing(tcp.CloseWait, 3*sec, 7*sec))
	if len(table.conns) != 0 {
		t.Error("a dump that began before the end brought the socket back")
	}
}

func TestWhatEndsUntoldIsNotKept(t *testing.T) {
	table := NewTable(10)
	for _, state := range []tcp.State{tcp.TimeWait, tcp.FinWait2, tcp.SynRecv} {
		table.AddExisting(existing(state, sec, 2*sec))
		if len(table.conns) != 0 {
			t.Errorf("%v without a file was kept, and nothing would ever take it out", state)
		}
	}
	held := existing(tcp.FinWait2, sec, 2*sec)
	held.Inode = 9
	table.AddExisting(held)
	if len(table.conns) != 1 {
		t.Error("FIN_WAIT2 with a file was not kept")
	}
	table.Clear()
	if len(table.conns) != 0 {
		t.Error("not cleared")
	}
}

func TestForget(t *testing.T) {
	table := NewTable(10)
	table.AddExisting(existing(tcp.Established, sec, 2*sec))
	if got := applied(table, tr(5*sec, 0, tcp.Established, tcp.CloseWait)).InState; got != (Span{3 * sec, AtLeast}) {
		t.Errorf("in state %+v", got)
	}
	table.Forget(cookie)
	if len(table.conns) != 0 {
		t.Error("still there")
	}
}

func TestFull(t *testing.T) {
	table := NewTable(2)
	for c := range uint64(5) {
		in := tr(sec, 0, tcp.Close, tcp.SynSent)
		in.Cookie = c + 1
		applied(table, in)
	}
	if len(table.conns) != 2 || table.Evicted() != 3 {
		t.Errorf("%d kept and %d counted, want 2 and 3", len(table.conns), table.Evicted())
	}
}

// Tombstones are bounded: the oldest gives way.
func TestTombstones(t *testing.T) {
	var s tombstones
	for c := range uint64(2 * len(s)) {
		s.add(c+1, sec)
	}
	if s.has(1, sec) || !s.has(uint64(len(s)+1), sec) || !s.has(uint64(2*len(s)), sec) || s.has(uint64(2*len(s)), sec+1) {
		t.Error("the last ones are remembered, and no others")
	}
}

// BenchmarkApply plays connections that begin and end, two sockets with five changes each,
// while so many others are there.
func BenchmarkApply(b *testing.B) {
	for _, live := range []int{0, 1_000, 10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("live=%d", live), func(b *testing.B) {
			table := NewTable(MaxConns)
			begin := heap()
			var ch Change
			for c := range live {
				in := tr(sec, 1, tcp.SynSent, tcp.Established)
				in.Cookie = uint64(c) + 1
				table.Apply(in, &ch)
			}
			size := heap() - begin
			path := []tcp.State{tcp.Close, tcp.SynSent, tcp.Established, tcp.FinWait1, tcp.FinWait2, tcp.Close}
			in := tr(sec, 1, tcp.Close, tcp.SynSent)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i++ {
				step := i / 2 % 5
				in.Cookie = uint64(live + i/10*2 + i%2 + 1)
				in.From, in.To = path[step], path[step+1]
				in.Mono++
				table.Apply(in, &ch)
			}
			if live > 0 {
				b.ReportMetric(float64(size)/float64(live), "bytes/connection")
			}
		})
	}
}

func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestApplyAllocatesNothing(t *testing.T) {
	table := NewTable(MaxConns)
	var ch Change
	in := tr(sec, 1, tcp.Close, tcp.SynSent)
	if n := testing.AllocsPerRun(100_000, func() {
		in.Cookie++
		in.From, in.To = tcp.Close, tcp.SynSent
		table.Apply(in, &ch)
		in.From, in.To = tcp.SynSent, tcp.Close
		table.Apply(in, &ch)
	}); n != 0 {
		t.Errorf("%v allocations a connection", n)
	}
}
