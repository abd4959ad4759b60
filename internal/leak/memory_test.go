// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/owner"
	"afterfin/internal/tcp"
)

var maker = event.Owner{PID: 4121, How: event.HowConnect}

// ch is a change of the socket with cookie 1 and inode 11.
func ch(at time.Duration, from, to tcp.State) *conn.Change {
	return &conn.Change{Transition: event.Transition{Mono: at, Cookie: 1, Inode: 11, From: from, To: to,
		Tuple: tcp.Tuple{Local: netip.MustParseAddrPort("10.0.0.5:1"), Remote: netip.MustParseAddrPort("10.0.4.9:443")}}}
}

func by(c *conn.Change, side event.Side, o event.Owner) *conn.Change {
	c.Side, c.Owner = side, o
	return c
}

func reset(at time.Duration, from tcp.State) *conn.Change {
	c := ch(at, from, tcp.Close)
	c.SkErr = uint16(syscall.EPIPE)
	return c
}

func TestMemoryOfWaiting(t *testing.T) {
	enter := func(at time.Duration) *conn.Change { return ch(at, tcp.Established, tcp.CloseWait) }
	leave := func(at time.Duration) *conn.Change { return ch(at, tcp.CloseWait, tcp.LastAck) }
	listens := event.Owner{PID: 80, How: event.HowListen}
	accepts := event.Owner{PID: 81, How: event.HowAccept}
	for name, c := range map[string]struct {
		changes []*conn.Change
		entered time.Duration
		side    event.Side
		maker   event.Owner
	}{
		"not seen":                   {nil, 0, event.SideAccept, event.Owner{}},
		"seen":                       {[]*conn.Change{enter(5 * sec)}, 5 * sec, event.SideAccept, event.Owner{}},
		"who connected":              {[]*conn.Change{by(enter(5*sec), event.SideConnect, maker)}, 5 * sec, event.SideConnect, maker},
		"who accepted":               {[]*conn.Change{by(enter(5*sec), event.SideAccept, accepts)}, 5 * sec, event.SideAccept, accepts},
		"the listener is no maker":   {[]*conn.Change{by(enter(5*sec), event.SideAccept, listens)}, 5 * sec, event.SideAccept, event.Owner{}},
		"left":                       {[]*conn.Change{enter(5 * sec), leave(6 * sec)}, 0, event.SideAccept, event.Owner{}},
		"connected again":            {[]*conn.Change{enter(5 * sec), ch(6*sec, tcp.CloseWait, tcp.Close), enter(8 * sec)}, 8 * sec, event.SideAccept, event.Owner{}},
		"the end of the first, late": {[]*conn.Change{enter(5 * sec), enter(8 * sec), leave(6 * sec)}, 8 * sec, event.SideAccept, event.Owner{}},
		"all of the first, late":     {[]*conn.Change{enter(8 * sec), enter(5 * sec), leave(6 * sec)}, 8 * sec, event.SideAccept, event.Owner{}},
		"another state":              {[]*conn.Change{ch(5*sec, tcp.FinWait1, tcp.FinWait2)}, 0, event.SideAccept, event.Owner{}},
	} {
		m := NewMemory(tcp.CloseWait)
		for _, change := range c.changes {
			m.Apply(change)
		}
		f := found(socket(func(s *Socket) { s.Side = event.SideAccept }), socket(func(s *Socket) { s.Cookie = 2 }))
		m.Complete(f)
		if s := f.Sockets[0]; s.Entered != c.entered || s.Side != c.side || s.Maker != c.maker {
			t.Errorf("%s: entered %v, side %v, maker %+v; want %v, %v, %+v", name, s.Entered, s.Side, s.Maker, c.entered, c.side, c.maker)
		}
		if s := f.Sockets[1]; s.Entered != 0 {
			t.Errorf("%s: the other socket entered %v", name, s.Entered)
		}
	}
}

func stray(inode uint64, known bool) owner.Stray {
	return owner.Stray{Holder: owner.Holder{Process: process(1, 0), FD: int(inode)}, Inode: inode, Known: known}
}

func TestMemoryOfDeaths(t *testing.T) {
	other := stray(12, true)
	other.Remote = netip.MustParseAddrPort("10.0.4.10:80")
	for name, c := range map[string]struct {
		change  *conn.Change
		strays  []owner.Stray
		dead    []Dead
		unclear int
	}{
		"reset, still open":        {reset(900*sec, tcp.CloseWait), []owner.Stray{stray(11, true)}, []Dead{{Stray: stray(11, true), At: 900 * sec}}, 0},
		"reset in any state":       {reset(900*sec, tcp.Established), []owner.Stray{stray(11, true)}, []Dead{{Stray: stray(11, true), At: 900 * sec}}, 0},
		"closed meanwhile":         {reset(900*sec, tcp.CloseWait), nil, nil, 0},
		"died since the look":      {reset(1002*sec, tcp.CloseWait), nil, nil, 0},
		"not seen, the kernel may": {nil, []owner.Stray{other}, []Dead{{Stray: other}}, 0},
		"neither":                  {nil, []owner.Stray{stray(11, false)}, nil, 1},
		"closed in order":          {ch(900*sec, tcp.LastAck, tcp.Close), []owner.Stray{stray(11, false)}, nil, 1},
	} {
		m := NewMemory(tcp.CloseWait)
		if c.change != nil {
			m.Apply(c.change)
		}
		f := found()
		f.Strays = c.strays
		m.Complete(f)
		dead, unclear := f.dead()
		if len(dead) != len(c.dead) || unclear != c.unclear {
			t.Errorf("%s: %+v and %d unclear, want %+v and %d", name, dead, unclear, c.dead, c.unclear)
			continue
		}
		for i, d := range dead {
			if w := c.dead[i]; d.FD != w.FD || d.At != w.At || d.Remote != w.Remote {
				t.Errorf("%s: %+v, want %+v", name, d, w)
			}
		}
	}

	m := NewMemory(tcp.CloseWait) // where the kernel may not be asked, the end that was seen tells the addresses
	m.Apply(reset(900*sec, tcp.CloseWait))
	f := found()
	f.Strays = []owner.Stray{stray(11, false)}
	m.Complete(f)
	if dead, unclear := f.dead(); unclear != 0 || len(dead) != 1 || dead[0].Local.Port() != 1 || dead[0].Remote.Port() != 443 {
		t.Errorf("%+v, %d unclear", dead, unclear)
	}
}

// What waits is kept, what is over is not, also if its end was lost.
func TestMemoryForgets(t *testing.T) {
	m := NewMemory(tcp.CloseWait)
	add := func(cookie uint64, at time.Duration) {
		enter, dies := ch(at, tcp.Established, tcp.CloseWait), reset(at, tcp.Established)
		enter.Cookie, dies.Inode = cookie, cookie
		m.Apply(enter)
		m.Apply(dies)
	}
	for cookie := range uint64(1000) {
		add(cookie, 900*sec)
	}
	add(5000, 1000*sec) // after the look began
	f := found(socket(nil))
	f.Strays = []owner.Stray{stray(7, true)}
	m.Complete(f)
	if _, ok := m.waits[5000]; !ok || len(m.waits) != 2 || m.waits[1].Entered != 900*sec {
		t.Errorf("waits %v", m.waits)
	}
	if _, ok := m.deaths[5000]; !ok || len(m.deaths) != 2 || m.deaths[7].At != 900*sec {
		t.Errorf("deaths %v", m.deaths)
	}
	later := found()
	later.Began = 1002 * sec
	m.Complete(later)
	if len(m.waits)+len(m.deaths) != 0 {
		t.Errorf("kept %v, %v", m.waits, m.deaths)
	}
}
