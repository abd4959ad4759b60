// SPDX-License-Identifier: Apache-2.0

package folklore

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/survey"
	"afterfin/internal/tcp"
)

var exhaustion = Claim{
	Name:  "exhaustion",
	Text:  "TIME_WAIT fills ip_local_port_range, until connect() fails",
	Given: "the client closes first",
	Takes: 2 * time.Second,
	Why: prose(`A TIME_WAIT holds its four numbers, so towards one destination a port each on the side that connected. When all of ip_local_port_range
		are held, __inet_hash_connect() (net/ipv4/inet_hashtables.c) finds none and connect() fails with EADDRNOTAVAIL, before any segment is sent.
		Where the server closes first the TIME_WAIT are the server's, on its one port, and take nothing from the client. tcp_tw_reuse is 0 here; its
		default 2 would take those of loopback again after a second.`),
	try: func(s *stage) judged {
		const ports = 20
		e := s.ends()
		s.set("ip_local_port_range", "40000 40019")
		s.set("tcp_tw_reuse", "0")
		made, failed := 0, false
		for range 3 * ports {
			c, err := e.dial(e.at)
			if failed = errors.Is(err, unix.EADDRNOTAVAIL); failed {
				break
			}
			s.check(err)
			srv := e.num(e.server.Accept(e.listener))
			if s.control {
				e.ok(e.server.CloseFD(srv))
				e.num(e.client.Read(c, 1))
				e.ok(e.client.CloseFD(c))
			} else {
				e.finish(c, srv)
			}
			e.settle() // a port is free, or in TIME_WAIT, when the last segment is through
			made++
		}
		s.did("a client with %d ports connected again and again to one destination, and one end closed first", ports)
		verdict := Fails
		if failed && made == ports {
			verdict = Holds
		}
		return judged{Verdict: verdict, Figures: []Figure{{"ports", ports}, {"connections", made}, {"eaddrnotavail", failed}, {"time_waits", s.count(tcp.TimeWait)}}}
	},
}

var morePorts = Claim{
	Name:  "more-ports",
	Text:  "More server ports or more client addresses multiply the ports; long-lived connections avoid TIME_WAIT, at a cost",
	Given: "connect() chooses the port, and not bind()",
	Takes: 4 * time.Second,
	Why: prose(`What must be unique is the four numbers together: __inet_hash_connect() takes a port that another connection has where the
		destination, or the own address, is another one. bind() does not know the destination yet, so a port that it chose serves for one connection
		at a time, whatever the destination; IP_BIND_ADDRESS_NO_PORT leaves the choice to connect(). A connection that is kept costs a socket and a
		descriptor on each side instead of a mini-socket on one, and takes part in keepalives, restarts and load balancing for as long as it lives.`),
	try: func(s *stage) judged {
		const ports, requests = 10, 20
		e := s.ends()
		s.set("ip_local_port_range", "40000 40009")
		s.set("tcp_tw_reuse", "0")
		other := netip.MustParseAddr("127.0.0.2")
		choose := func(from netip.Addr) option { // the address, and in the control the port too
			return func(fd int) error {
				if !s.control {
					if _, err := e.client.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
						return err
					}
				}
				_, err := e.client.Bind(fd, netip.AddrPortFrom(from, 0))
				return err
			}
		}
		first := e.fill(e.at, choose(e.at.Addr()))
		port := netip.AddrPortFrom(e.at.Addr(), e.at.Port()+1)
		e.listener = e.listen(port)
		second := e.fill(port, choose(e.at.Addr()))
		address := e.fill(port, choose(other))
		s.did("a client with %d ports connected to one server port until that failed, then to another one, then from another address", ports)

		before, fds := s.count(tcp.TimeWait), s.descriptors(e.client)+s.descriptors(e.server)
		s.set("ip_local_port_range", "41000 41009")
		c, err := e.dial(port)
		s.check(err)
		srv := e.num(e.server.Accept(e.listener))
		open := s.descriptors(e.client) + s.descriptors(e.server) - fds
		for range requests {
			e.num(e.client.Write(c, 10))
			e.num(e.server.Read(srv, 10))
		}
		e.finish(c, srv)
		e.settle()
		left := s.count(tcp.TimeWait) - before
		s.did("made %d requests over one connection", requests)
		sizes := survey.Slabs()
		held := 0
		for _, slab := range []string{"TCP", "sock_inode_cache", "filp", "dentry"} {
			if sizes[slab] == 0 { // merged with others: then the sum is not known
				held = 0
				break
			}
			held += sizes[slab]
		}
		verdict := Fails
		if first == ports && second == ports && address == ports && left == 1 {
			verdict = Holds
		}
		return judged{Verdict: verdict, Figures: []Figure{
			{"ports", ports}, {"connections", first}, {"more_to_another_port", second}, {"more_from_another_address", address},
			{"requests", requests}, {"time_waits_of_long_lived", left}, {"descriptors_of_long_lived", open},
			{"long_lived_idle_end_bytes", known(held)}, {"minisocket_bytes", known(sizes["tw_sock_TCP"])},
		}}
	},
}

// fill makes connections, each closed by the client first, until there is no port, and counts them.
func (e *ends) fill(to netip.AddrPort, o option) (n int) {
	for ; ; n++ {
		if n > 1000 {
			e.fail("after %d connections there are still ports", n)
		}
		c, err := e.dial(to, o)
		if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EADDRINUSE) { // of connect(), of bind()
			return n
		}
		e.check(err)
		e.finish(c, e.num(e.server.Accept(e.listener)))
		e.settle()
	}
}
