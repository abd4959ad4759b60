// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"net/netip"
	"testing"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/owner"
	"afterfin/internal/tcp"
)

const (
	sec = time.Second
	ms  = time.Millisecond
	// The look: one socket was dumped at dumped, all was done at looked.
	dumped = 1000 * sec
	looked = 1001 * sec
	tick   = 4 * ms
)

// process began that long after the machine.
func process(pid int, start time.Duration) *owner.Process {
	return &owner.Process{PID: pid, PPID: 1, Start: start, Comm: "app", FDs: 100, FDLimit: 1024}
}

func held(by ...*owner.Process) []owner.Holder {
	var holders []owner.Holder
	for i, p := range by {
		holders = append(holders, owner.Holder{Process: p, FD: 7 + i})
	}
	return holders
}

// socket is one in CLOSE_WAIT for 60 s: the program read the end, and never closed.
func socket(change func(*Socket)) Socket {
	s := Socket{Existing: event.Existing{
		Cookie: 1, Inode: 11, NetNS: 4026531840, State: tcp.CloseWait, After: dumped, Before: dumped,
		Tuple: tcp.Tuple{Local: netip.MustParseAddrPort("10.0.0.5:43210"), Remote: netip.MustParseAddrPort("10.0.4.9:443")},
		Info: event.Info{Known: true, LastDataSent: 90 * sec, LastDataRecv: 80 * sec, LastAckRecv: 59 * sec,
			RTO: 200 * ms, DataSegsOut: 3},
	}}
	s.Holders = held(process(4121, 100*sec))
	if change != nil {
		change(&s)
	}
	return s
}

func found(sockets ...Socket) *Found {
	return &Found{Began: 999 * sec, At: looked, Tick: tick, Sockets: sockets}
}

func TestSocketsThatWait(t *testing.T) {
	orphan := socket(func(s *Socket) { s.State, s.Inode, s.Holders = tcp.FinWait2, 0, nil })
	open := socket(func(s *Socket) { s.State = tcp.FinWait2 })
	young := socket(func(s *Socket) { s.Entered = looked - 9*sec })
	maybe := socket(func(s *Socket) { s.Info.Timer, s.Info.LastAckRecv = event.TimerKeepalive, 0 })
	unknown := socket(func(s *Socket) { s.Info = event.Info{} })
	for name, c := range map[string]struct {
		socket  Socket
		state   tcp.State
		leaks   int
		younger int
	}{
		"old":                            {socket(nil), tcp.CloseWait, 1, 0},
		"young":                          {young, tcp.CloseWait, 0, 1},
		"may be old":                     {maybe, tcp.CloseWait, 1, 0},
		"age unknown":                    {unknown, tcp.CloseWait, 1, 0},
		"another state":                  {socket(nil), tcp.FinWait2, 0, 0},
		"FIN_WAIT2 with a descriptor":    {open, tcp.FinWait2, 1, 0},
		"FIN_WAIT2 that nobody can hold": {orphan, tcp.FinWait2, 0, 0},
	} {
		r := Make(found(c.socket), c.state, 10*sec, nil)
		if r.Total() != c.leaks || r.Younger != c.younger {
			t.Errorf("%s: %d leaks, %d younger; want %d, %d", name, r.Total(), r.Younger, c.leaks, c.younger)
		}
	}
}

func TestOwner(t *testing.T) {
	parent, child := process(10, 5*sec), process(9, 6*sec)
	listener := &Listener{Holders: held(child, parent)}
	init := process(1, 1*sec)
	activated := &Listener{Holders: held(init, child)}
	carrier := &owner.Carrier{Holder: owner.Holder{Process: child}}
	for name, c := range map[string]struct {
		leak Leak
		want *owner.Process
	}{
		"the oldest holder, not the lowest pid": {Leak{Socket: &Socket{Holders: held(child, parent)}}, parent},
		"of an io_uring":                        {Leak{Socket: &Socket{Fixed: held(child)}}, child},
		"a descriptor before an io_uring":       {Leak{Socket: &Socket{Holders: held(child), Fixed: held(parent)}}, child},
		"not accepted: the listener's":          {Leak{Socket: &Socket{Listener: listener}, Verdict: NotAccepted}, parent},
		"not accepted, socket activation":       {Leak{Socket: &Socket{Listener: activated}, Verdict: NotAccepted}, child},
		"not accepted, init listens itself":     {Leak{Socket: &Socket{Listener: &Listener{Holders: held(init)}}, Verdict: NotAccepted}, init},
		"inside a Unix socket":                  {Leak{Socket: &Socket{}, Verdict: InFlight, Carrier: carrier}, child},
		"accepted, and held by nobody":          {Leak{Socket: &Socket{Listener: listener}, Verdict: NoFD}, nil},
		"not accepted, no listener":             {Leak{Socket: &Socket{}, Verdict: NotAccepted}, nil},
	} {
		if got := c.leak.Owner(); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestInherited(t *testing.T) {
	// The kernel's oldest time of it is 90 s before the dump: it was there at 910 s.
	older, same, younger := process(1, 910*sec), process(2, 910*sec+tick), process(3, 910*sec+tick+1)
	made := func(pid uint32) func(*Socket) { return func(s *Socket) { s.Maker.PID = pid } }
	for name, c := range map[string]struct {
		holders []owner.Holder
		boot    time.Duration
		change  func(*Socket)
		want    bool
	}{
		"holder older":              {held(older), 0, nil, false},
		"holder as old, to a tick":  {held(same), 0, nil, false},
		"holder younger":            {held(younger), 0, nil, true},
		"one of them older":         {held(younger, older), 0, nil, false},
		"nobody holds it":           {nil, 0, nil, false},
		"suspended: its clock runs": {held(process(4, 1500*sec)), 600 * sec, nil, false},
		"younger, and suspended":    {held(process(4, 1511*sec)), 600 * sec, nil, true},
		"its maker holds it":        {held(younger), 0, made(3), false},
		"its maker is among them":   {held(older, younger), 0, made(3), false},
		"its maker does not":        {held(older), 0, made(3), true},
		"no times":                  {held(younger), 0, func(s *Socket) { s.Info = event.Info{} }, false},
		"no times, maker seen":      {held(older), 0, func(s *Socket) { s.Info, s.Maker.PID = event.Info{}, 3 }, true},
	} {
		s := socket(c.change)
		s.Holders = c.holders
		f := found(s)
		f.Boot = c.boot
		if got := Judge(f, tcp.CloseWait, 0)[0].Inherited; got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
