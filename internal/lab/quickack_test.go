// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

// ackTest is a client and a listener to make connections between.
type ackTest struct {
	script
	client, server *lab.Actor
	listener       int
	at             netip.AddrPort
	family         int
}

func (s script) ackTest(ns *lab.NetNS, listen netip.AddrPort, host netip.Addr, family int) *ackTest {
	s.Helper()
	a := &ackTest{script: s, client: s.start(ns, "client"), server: s.start(ns, "server"), family: family}
	var bound netip.AddrPort
	a.listener, bound = s.listen(a.server, listen, 8)
	a.at = netip.AddrPortFrom(host, bound.Port())
	return a
}

// look makes a connection on which the client alone sends a FIN, and gives the
// state in which the client is right after that call.
func (a *ackTest) look() tcp.State {
	a.Helper()
	fd := a.num(a.client.Socket(a.family))
	// The server's ACK follows the route to the client's address.
	a.step(a.client.Bind(fd, netip.AddrPortFrom(a.at.Addr(), 0)))
	a.step(a.client.Connect(fd, a.at))
	conn := a.num(a.server.Accept(a.listener))
	a.step(a.client.Shutdown(fd, unix.SHUT_WR))
	state, step, err := a.client.TCPState(fd)
	a.step(step, err)
	a.step(a.server.CloseFD(conn))
	a.step(a.client.CloseFD(fd))
	return state
}

// immediate wants each of some ACKs at once.
func (a *ackTest) immediate(when string) {
	a.Helper()
	for range 5 {
		if got := a.look(); got != tcp.FinWait2 {
			a.Errorf("%s: %v, want FIN_WAIT2 as the ACK is immediate", when, got)
		}
	}
}

// delayed wants one that is not there yet. Nearly each is not, but on a slow
// machine the 40 ms may be over before the look.
func (a *ackTest) delayed(when string) {
	a.Helper()
	for range 100 {
		if a.look() == tcp.FinWait1 {
			return
		}
	}
	a.Errorf("%s: no ACK is delayed", when)
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
			a := s.ackTest(ns, c.listen, netip.MustParseAddr(c.host), c.family)
			a.immediate("in a new netns")
			s.no(ns.SetQuickACK(false))
			a.delayed("after SetQuickACK(false)")
			for range 2 { // again is allowed
				s.no(ns.SetQuickACK(true))
			}
			a.immediate("after SetQuickACK(true)")
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
	a := s.ackTest(ns, loopback6, loopback6.Addr(), unix.AF_INET6)
	a.delayed("with the kernel's own route")
	s.no(ns.SetQuickACK(true))
	a.immediate("after SetQuickACK(true)")
}
