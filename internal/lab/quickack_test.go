// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

// looks is how many connections are looked at. A delayed ACK shows in nearly each of
// them: its timer may be due already.
const looks = 5

// firstLooks makes connections to at, on each of which the client alone sends a
// FIN, and counts the states in which the client is right after that call.
func (s script) firstLooks(client, server *lab.Actor, listen, at netip.AddrPort, family int) map[tcp.State]int {
	s.Helper()
	listener, bound := s.listen(server, listen, 8)
	at = netip.AddrPortFrom(at.Addr(), bound.Port())
	states := make(map[tcp.State]int)
	for range looks {
		fd := s.num(client.Socket(family))
		// The server's ACK follows the route to the client's address.
		s.step(client.Bind(fd, netip.AddrPortFrom(at.Addr(), 0)))
		s.step(client.Connect(fd, at))
		conn := s.num(server.Accept(listener))
		s.step(client.Shutdown(fd, unix.SHUT_WR))
		state, step, err := client.TCPState(fd)
		s.step(step, err)
		states[state]++
		s.step(server.CloseFD(conn))
		s.step(client.CloseFD(fd))
	}
	s.step(server.CloseFD(listener))
	return states
}

func TestQuickACK(t *testing.T) {
	for _, c := range []struct {
		name   string
		listen netip.AddrPort
		host   string
		family int
	}{
		{"IPv4", loopback4, "127.0.0.1", unix.AF_INET},
		{"IPv4 net", netip.MustParseAddrPort("127.0.0.2:0"), "127.0.0.2", unix.AF_INET},
		{"IPv6", loopback6, "::1", unix.AF_INET6},
		{"v4-mapped", netip.MustParseAddrPort("[::]:0"), "127.0.0.1", unix.AF_INET6},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := script{t}
			ns := s.netns()
			client, server := s.start(ns, "client"), s.start(ns, "server")
			at := netip.AddrPortFrom(netip.MustParseAddr(c.host), 0)
			look := func() map[tcp.State]int {
				t.Helper()
				return s.firstLooks(client, server, c.listen, at, c.family)
			}
			if got := look(); got[tcp.FinWait2] != looks {
				t.Errorf("in a new netns: %v", got)
			}
			s.no(ns.SetQuickACK(false))
			if got := look(); got[tcp.FinWait1] == 0 || got[tcp.FinWait1]+got[tcp.FinWait2] != looks {
				t.Errorf("after SetQuickACK(false): %v", got)
			}
			for range 2 { // again is allowed
				s.no(ns.SetQuickACK(true))
			}
			if got := look(); got[tcp.FinWait2] != looks {
				t.Errorf("after SetQuickACK(true): %v", got)
			}
		})
	}
}

// Without IPv6 there is nothing to set; when it comes back, so does the kernel's
// own route.
func TestQuickACKWhileIPv6IsOff(t *testing.T) {
	s := script{t}
	ns := s.netns()
	const off = "net.ipv6.conf.lo.disable_ipv6"
	s.no(ns.SetSysctl(off, "1"))
	s.no(ns.SetQuickACK(true))
	s.no(ns.SetSysctl(off, "0"))
	client, server := s.start(ns, "client"), s.start(ns, "server")
	if got := s.firstLooks(client, server, loopback6, loopback6, unix.AF_INET6); got[tcp.FinWait1] == 0 {
		t.Errorf("with the kernel's own route: %v", got)
	}
	s.no(ns.SetQuickACK(true))
	if got := s.firstLooks(client, server, loopback6, loopback6, unix.AF_INET6); got[tcp.FinWait2] != looks {
		t.Errorf("after SetQuickACK(true): %v", got)
	}
}
