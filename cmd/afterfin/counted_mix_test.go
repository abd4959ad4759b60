// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

// mix leaves connections of all kinds in a netns, and notes what becomes of them.
type mix struct {
	*testing.T
	ns            *lab.NetNS
	one, two, srv *lab.Actor
	listener      int
	at            netip.AddrPort
	entered       sides
	causes        map[string]int
	makers        map[int]int // by pid
	halfway       int         // orphans that died in FIN_WAIT2
	closedFirst   int
	made          int // connections
}

// must is for calls that cannot fail.
func (m *mix) must(_ lab.Step, err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *mix) value(n int, _ lab.Step, err error) int {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
	return n
}

// connect gives both ends; from may be an address to take again.
func (m *mix) connect(client *lab.Actor, from netip.AddrPort) (c, s int, local netip.AddrPort) {
	m.Helper()
	m.made++
	c = m.value(client.Socket(unix.AF_INET))
	m.must(client.SetsockoptInt(c, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	if from.IsValid() {
		m.must(client.Bind(c, from))
	}
	m.must(client.Connect(c, m.at))
	s = m.value(m.srv.Accept(m.listener))
	local, _, err := client.LocalAddr(c)
	if err != nil {
		m.Fatal(err)
	}
	return c, s, local
}

// closes has one end closed first, which leaves it in TIME_WAIT.
func (m *mix) closes(first *lab.Actor, a int, second *lab.Actor, b int) {
	m.Helper()
	m.must(first.CloseFD(a))
	m.value(second.Read(b, 1)) // its end
	m.must(second.CloseFD(b))
	m.left(first)
}

// shuts does the same, and returns when the kernel has come to TIME_WAIT: then the socket, which
// still has its descriptor, is in CLOSE.
func (m *mix) shuts(first *lab.Actor, a int, second *lab.Actor, b int) {
	m.Helper()
	m.must(first.Shutdown(a, unix.SHUT_WR))
	m.value(second.Read(b, 1))
	m.must(second.CloseFD(b))
	for begin := lab.Mono(); ; {
		state, _, err := first.TCPState(a)
		if err != nil {
			m.Fatal(err)
		}
		if state == tcp.Close {
			break
		}
		if lab.Mono()-begin > patience {
			m.Fatalf("still in %v", state)
		}
	}
	m.must(first.CloseFD(a))
	m.left(first)
}

// left notes a TIME_WAIT.
func (m *mix) left(first *lab.Actor) {
	m.closedFirst++
	m.makers[first.PID()]++
	if first == m.srv {
		m.entered.Accept++
	} else {
		m.entered.Connect++
	}
}

// reset ends a connection without one.
func (m *mix) reset(client *lab.Actor, c, s int) {
	m.Helper()
	m.must(client.SetLinger0(c))
	m.must(client.CloseFD(c))
	m.must(m.srv.CloseFD(s))
}

var nowhere netip.AddrPort

// fresh is an address that no connection has come from: where the server is in TIME_WAIT the
// client's port is free, and the next connect() may take it.
func (m *mix) fresh() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.3"), uint16(1024+m.made))
}

// kinds of connections, and how many of twenty are of each.
var kinds = []struct {
	of20 int
	play func(m *mix)
}{
	{7, func(m *mix) { // expires
		c, s, _ := m.connect(m.one, nowhere)
		m.closes(m.one, c, m.srv, s)
		m.causes["expired"]++
	}},
	{4, func(m *mix) {
		c, s, _ := m.connect(m.two, nowhere)
		m.value(m.two.Write(c, 100))
		m.value(m.srv.Read(s, 1000))
		m.value(m.srv.Write(s, 100))
		m.value(m.two.Read(c, 1000))
		m.closes(m.two, c, m.srv, s)
		m.causes["expired"]++
	}},
	{3, func(m *mix) { // the server's
		c, s, _ := m.connect(m.one, m.fresh())
		m.closes(m.srv, s, m.one, c)
		m.causes["expired"]++
	}},
	{2, func(m *mix) {
		c, s, local := m.connect(m.one, nowhere)
		m.shuts(m.one, c, m.srv, s)
		c, s, _ = m.connect(m.two, local)
		m.causes["reused_connect"]++
		m.reset(m.two, c, s)
	}},
	{1, func(m *mix) {
		c, s, local := m.connect(m.one, m.fresh())
		m.shuts(m.srv, s, m.one, c)
		c, s, _ = m.connect(m.two, local)
		m.causes["reused_syn"]++
		m.reset(m.two, c, s)
	}},
	{1, func(m *mix) {
		c, s, local := m.connect(m.two, nowhere)
		m.shuts(m.two, c, m.srv, s)
		if err := m.ns.Do(func() error { return destroySocket(local, m.at) }); err != nil {
			m.Fatal(err)
		}
		m.causes["destroyed"]++
	}},
	{1, func(m *mix) {
		c, s, _ := m.connect(m.one, nowhere)
		m.reset(m.one, c, s)
	}},
	{1, func(m *mix) { // an orphan in FIN_WAIT2 that gets data never comes to TIME_WAIT
		c, s, _ := m.connect(m.two, nowhere)
		m.must(m.two.CloseFD(c))
		m.value(m.srv.Read(s, 1))
		m.value(m.srv.Write(s, 1))
		m.must(m.srv.CloseFD(s))
		m.closedFirst++
		m.halfway++
	}},
}

func newMix(t *testing.T) *mix {
	t.Helper()
	m := &mix{T: t, ns: newNetNS(t), causes: make(map[string]int), makers: make(map[int]int)}
	keepTimeWaits(t, m.ns)
	for name, actor := range map[string]**lab.Actor{"one": &m.one, "two": &m.two, "srv": &m.srv} {
		a, err := m.ns.Start(name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close() })
		*actor = a
	}
	m.listener = m.value(m.srv.Socket(unix.AF_INET))
	m.must(m.srv.Bind(m.listener, netip.MustParseAddrPort("127.0.0.1:0")))
	m.must(m.srv.Listen(m.listener, 64))
	var err error
	if m.at, _, err = m.srv.LocalAddr(m.listener); err != nil {
		t.Fatal(err)
	}
	return m
}

// miniSockets counts those of a netns.
func miniSockets(t *testing.T, ns *lab.NetNS) (n int) {
	t.Helper()
	err := ns.Do(func() error {
		raw, err := os.ReadFile("/proc/thread-self/net/sockstat")
		if err != nil {
			return err
		}
		_, rest, ok := bytes.Cut(raw, []byte("\nTCP: "))
		if !ok {
			return fmt.Errorf("no TCP in %q", raw)
		}
		var inuse, orphan int
		_, err = fmt.Sscanf(string(rest), "inuse %d orphan %d tw %d", &inuse, &orphan, &n)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// awaitMiniSockets returns when a netns has none any more.
func awaitMiniSockets(t *testing.T, ns *lab.NetNS) {
	t.Helper()
	for begin := lab.Mono(); miniSockets(t, ns) > 0; time.Sleep(time.Second / 5) {
		if lab.Mono()-begin > 2*time.Minute {
			t.Fatal("mini-sockets are left after two minutes")
		}
	}
}
