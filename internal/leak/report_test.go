// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"testing"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/owner"
	"afterfin/internal/tcp"
)

func TestMake(t *testing.T) {
	known := &owner.Process{PID: 2, Comm: "known"}
	since := func(age time.Duration, by *owner.Process) Socket {
		return socket(func(s *Socket) { s.Entered, s.Holders, s.RecvQ = looked-age, held(by), 1 })
	}
	leaky, pool := process(3, 0), process(4, 0)
	f := found(since(time.Hour, known), since(20*sec, leaky), since(3*sec, leaky), since(time.Hour, pool), since(2*time.Hour, pool),
		socket(func(s *Socket) { s.State = tcp.FinWait2 }))
	f.Strays = []owner.Stray{stray(21, true), stray(22, true), stray(23, false), stray(24, true), stray(25, true)}
	f.Strays[0].Process = known
	f.Strays[1].Process = leaky
	f.deaths = map[uint64]Death{24: {At: looked - 9*sec}, 25: {At: looked - 10*sec}}
	ignore := &Ignore{}
	if err := ignore.Add("comm=known"); err != nil {
		t.Fatal(err)
	}
	r := Make(f, tcp.CloseWait, 10*sec, ignore)
	// Leaks: one of leaky, and two dead descriptors; one died just now. The pool does not count.
	if r.Total() != 3 || r.Younger != 1 || r.Ignored != 2 || r.Unclear != 1 || len(r.Groups) != 3 {
		t.Errorf("total %d, younger %d, ignored %d, unclear %d in %d groups", r.Total(), r.Younger, r.Ignored, r.Unclear, len(r.Groups))
	}
	if last := r.Groups[2]; last.Process != pool || !last.Pool {
		t.Errorf("last is %+v", last.Process)
	}
	if r.Oldest() != 20*sec {
		t.Errorf("oldest %v", r.Oldest())
	}
	if r.State != tcp.CloseWait || r.OlderThan != 10*sec {
		t.Errorf("%v older than %v", r.State, r.OlderThan)
	}
	all := Make(f, tcp.CloseWait, 0, nil)
	if all.Total() != 6+1 || all.Younger != 0 || all.Ignored != 0 || all.Oldest() != time.Hour {
		t.Errorf("of any age: total %d, younger %d, ignored %d, oldest %v", all.Total(), all.Younger, all.Ignored, all.Oldest())
	}
	if half := Make(f, tcp.FinWait2, 0, nil); half.Total() != 1 || half.Unclear != 0 || half.Younger != 0 {
		t.Errorf("in FIN_WAIT2: %+v", half)
	}
	if none := Make(found(), tcp.CloseWait, 0, nil); none.Total() != 0 || none.Oldest() != 0 {
		t.Errorf("of nothing: %+v", none)
	}
}

// Only what is proven counts as old.
func TestOldestIsProven(t *testing.T) {
	s := socket(func(s *Socket) { s.Info.Timer = event.TimerKeepalive })
	if got, want := Make(found(s), tcp.CloseWait, 0, nil).Oldest(), 60*sec-tick; got != want {
		t.Errorf("%v, want %v", got, want)
	}
}

// 20,000 sockets of 50 processes.
func BenchmarkMake(b *testing.B) {
	f := found()
	var processes []*owner.Process
	for pid := range 50 {
		processes = append(processes, process(pid+1, time.Duration(pid)*sec))
	}
	for i := range 20_000 {
		f.Sockets = append(f.Sockets, socket(func(s *Socket) {
			s.Cookie, s.Holders = uint64(i), held(processes[i%50])
			s.Info.LastAckRecv += time.Duration(i*7919%20_000) * ms
		}))
	}
	b.ReportAllocs()
	for b.Loop() {
		if r := Make(f, tcp.CloseWait, 10*sec, nil); r.Total() != 20_000 || len(r.Groups) != 50 {
			b.Fatal(r.Total(), len(r.Groups))
		}
	}
}
