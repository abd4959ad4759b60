// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

// oneFamily is a scene that takes a second, and its timer is the same in all families.
const oneFamily = "connect given up by the kernel"

// ends are the ways in which a connection can begin and end.
var ends = map[string]func(*scene){
	"client closes first": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		fin := s.step(client.CloseFD(c.fd))
		c.row("ESTABLISHED→FIN_WAIT1", who{"connect": {client}}, fin)
		a.later("ESTABLISHED→CLOSE_WAIT", held(srv, srv), fin).isAccepted(true)
		s.state(srv, a.fd, tcp.CloseWait)
		end := s.step(srv.CloseFD(a.fd))
		a.row("CLOSE_WAIT→LAST_ACK", closedBy(srv), end).isAccepted(true)
		a.later("LAST_ACK→CLOSE", closedBy(srv), end)
		c.later("FIN_WAIT1→FIN_WAIT2", who{"connect": {client}}, fin)
		c.later("FIN_WAIT2→TIME_WAIT", who{"connect": {client}}, fin)
	},
	"server closes first": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		fin := s.step(srv.CloseFD(a.fd))
		a.row("ESTABLISHED→FIN_WAIT1", closedBy(srv), fin)
		c.later("ESTABLISHED→CLOSE_WAIT", who{"connect": {client}}, fin)
		s.state(client, c.fd, tcp.CloseWait)
		end := s.step(client.CloseFD(c.fd))
		c.row("CLOSE_WAIT→LAST_ACK", who{"connect": {client}}, end)
		c.later("LAST_ACK→CLOSE", who{"connect": {client}}, end)
		a.later("FIN_WAIT1→FIN_WAIT2", closedBy(srv), fin)
		// Nobody holds it any more: it waits in FIN_WAIT2 as a mini-socket already.
		a.later("FIN_WAIT2→TIME_WAIT", closedBy(srv), end)
	},
	"half-close with data after it": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		fin := s.step(client.Shutdown(c.fd, unix.SHUT_WR))
		c.row("ESTABLISHED→FIN_WAIT1", who{"connect": {client}}, fin)
		a.later("ESTABLISHED→CLOSE_WAIT", held(srv, srv), fin)
		s.state(srv, a.fd, tcp.CloseWait)
		_, data, err := srv.Write(a.fd, 1000)
		s.must(err)
		c.later("FIN_WAIT1→FIN_WAIT2", who{"connect": {client}}, fin)
		if n := s.fd(client.Read(c.fd, 2000)); n != 1000 {
			s.Errorf("read %d bytes after the half-close", n)
		}
		end := s.step(srv.CloseFD(a.fd))
		a.row("CLOSE_WAIT→LAST_ACK", closedBy(srv), end)
		a.later("LAST_ACK→CLOSE", closedBy(srv), end)
		c.later("FIN_WAIT2→TIME_WAIT", who{"connect": {client}}, data)
	},
	"RST by SO_LINGER 0": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		s.step(client.SetLinger0(c.fd))
		rst := s.step(client.CloseFD(c.fd))
		c.row("ESTABLISHED→CLOSE", who{"connect": {client}}, rst).because("linger")
		a.later("ESTABLISHED→CLOSE", held(srv, srv), rst).saying("ECONNRESET").isAccepted(true)
	},
	"RST by SO_LINGER 0 of the server": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		s.step(srv.SetLinger0(a.fd))
		rst := s.step(srv.CloseFD(a.fd))
		a.row("ESTABLISHED→CLOSE", closedBy(srv), rst).because("linger")
		c.later("ESTABLISHED→CLOSE", who{"connect": {client}}, rst).saying("ECONNRESET")
	},
	"RST by unread data": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		s.fd(client.Write(c.fd, 10))
		s.readable(srv, a.fd)
		rst := s.step(srv.CloseFD(a.fd))
		a.row("ESTABLISHED→CLOSE", closedBy(srv), rst).because("unread_data")
		c.later("ESTABLISHED→CLOSE", who{"connect": {client}}, rst).saying("ECONNRESET")
	},
	"RST in CLOSE_WAIT": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		fin := s.step(client.Shutdown(c.fd, unix.SHUT_WR))
		c.row("ESTABLISHED→FIN_WAIT1", who{"connect": {client}}, fin)
		a.later("ESTABLISHED→CLOSE_WAIT", held(srv, srv), fin)
		s.state(srv, a.fd, tcp.CloseWait)
		// Data that the client closes over draws the RST; it also acknowledges the FIN.
		s.fd(srv.Write(a.fd, 10))
		s.readable(client, c.fd)
		c.later("FIN_WAIT1→FIN_WAIT2", who{"connect": {client}}, fin)
		rst := s.step(client.CloseFD(c.fd))
		c.row("FIN_WAIT2→CLOSE", who{"connect": {client}}, rst).because("unread_data")
		a.later("CLOSE_WAIT→CLOSE", held(srv, srv), rst).saying("EPIPE")
	},
	"refused connect": func(s *scene) {
		client := s.actor("client")
		fd := s.fd(client.Socket(s.family.domain))
		e := s.expect("client", &client.Thread, fd, "connect")
		to := netip.AddrPortFrom(s.family.address.Addr(), 9)
		step, err := client.Connect(fd, to)
		if step.Errno != unix.ECONNREFUSED {
			s.Fatalf("connect: %v", err)
		}
		e.row("CLOSE→SYN_SENT", who{"connect": {client}}, step)
		e.row("SYN_SENT→CLOSE", who{"connect": {client}}, step).saying("ECONNREFUSED")
	},
	"refused, then connected with the same socket": func(s *scene) {
		client, a := s.actor("client"), s.actor("server")
		srv := s.server(a, 8)
		fd := s.fd(client.Socket(s.family.domain))
		step, err := client.Connect(fd, netip.AddrPortFrom(s.family.address.Addr(), 9))
		if step.Errno != unix.ECONNREFUSED {
			s.Fatalf("connect: %v", err)
		}
		c := s.connectFrom(&client.Thread, client, srv, fd)
		refused := []want{
			{change: "CLOSE→SYN_SENT", who: who{"connect": {client}}, from: step.Before, to: step.After},
			{change: "SYN_SENT→CLOSE", who: who{"connect": {client}}, from: step.Before, to: step.After, err: "ECONNREFUSED"},
		}
		c.rows = slices.Concat(refused, c.rows)
		s.arrived(srv, c)
	},
	"connect given up by close": func(s *scene) {
		client, a := s.actor("client"), s.actor("server")
		srv := s.server(a, 0)
		s.fill(client, srv)
		fd := s.fd(client.Socket(s.family.domain, unix.SOCK_NONBLOCK))
		e := s.expect("client", &client.Thread, fd, "connect")
		step, err := client.Connect(fd, srv.at)
		if step.Errno != unix.EINPROGRESS {
			s.Fatalf("connect: %v", err)
		}
		e.row("CLOSE→SYN_SENT", who{"connect": {client}}, step)
		e.row("SYN_SENT→CLOSE", who{"connect": {client}}, s.step(client.CloseFD(fd)))
	},
	oneFamily: func(s *scene) {
		client, a := s.actor("client"), s.actor("server")
		srv := s.server(a, 0)
		s.fill(client, srv)
		fd := s.fd(client.Socket(s.family.domain))
		e := s.expect("client", &client.Thread, fd, "connect")
		s.step(client.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 10))
		step, err := client.Connect(fd, srv.at)
		if step.Errno != unix.ETIMEDOUT {
			s.Fatalf("connect: %v", err)
		}
		e.row("CLOSE→SYN_SENT", who{"connect": {client}}, step)
		e.row("SYN_SENT→CLOSE", who{"connect": {client}}, step).saying("ETIMEDOUT")
	},
	"nonblocking connect": func(s *scene) {
		client, a := s.actor("client"), s.actor("server")
		srv := s.server(a, 8)
		fd := s.fd(client.Socket(s.family.domain, unix.SOCK_NONBLOCK))
		e := s.expect("client", &client.Thread, fd, "connect")
		step, err := client.Connect(fd, srv.at)
		if step.Errno != unix.EINPROGRESS {
			s.Fatalf("connect: %v", err)
		}
		_, done, err := client.Poll(fd, unix.POLLOUT, patience)
		s.must(err)
		e.local, e.remote = s.addr(client.LocalAddr(fd)).String(), srv.at.String()
		e.row("CLOSE→SYN_SENT", who{"connect": {client}}, step)
		e.rows = append(e.rows, want{change: "SYN_SENT→ESTABLISHED", who: who{"connect": {client}}, from: step.Before, to: done.After})
		s.arrived(srv, &end{e, fd, step})
	},
	"EADDRNOTAVAIL": func(s *scene) {
		client, a := s.actor("client"), s.actor("server")
		srv := s.server(a, 8)
		s.must(s.ns.SetSysctl("net.ipv4.ip_local_port_range", "40000 40000"))
		first := s.connect(client, srv)
		s.arrived(srv, first)
		fd := s.fd(client.Socket(s.family.domain))
		e := s.expect("no port left", &client.Thread, fd, "connect")
		step, err := client.Connect(fd, srv.at)
		if step.Errno != unix.EADDRNOTAVAIL {
			s.Fatalf("connect: %v", err)
		}
		e.local, e.remote = netip.AddrPortFrom(s.family.address.Addr(), 0).String(), srv.at.String()
		e.row("CLOSE→SYN_SENT", who{"connect": {client}}, step)
		e.row("SYN_SENT→CLOSE", who{"connect": {client}}, step).because("no_port")
	},
	"EADDRNOTAVAIL after bind()": func(s *scene) { // the tuple is in use
		client, a := s.actor("client"), s.actor("server")
		srv := s.server(a, 8)
		first := s.fd(client.Socket(s.family.domain))
		second := s.fd(client.Socket(s.family.domain))
		for _, fd := range []int{first, second} {
			if _, err := client.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
				s.Fatal(err)
			}
			if _, err := client.Bind(fd, netip.AddrPortFrom(s.family.address.Addr(), 41000)); err != nil {
				s.Fatal(err)
			}
		}
		one := s.connectFrom(&client.Thread, client, srv, first)
		s.arrived(srv, one)
		e := s.expect("tuple in use", &client.Thread, second, "connect")
		step, err := client.Connect(second, srv.at)
		if step.Errno != unix.EADDRNOTAVAIL {
			s.Fatalf("connect: %v", err)
		}
		e.local, e.remote = netip.AddrPortFrom(s.family.address.Addr(), 41000).String(), srv.at.String()
		e.row("CLOSE→SYN_SENT", who{"connect": {client}}, step)
		e.row("SYN_SENT→CLOSE", who{"connect": {client}}, step).because("no_port")
	},
	"never accepted, then the listener is closed": func(s *scene) {
		client, a := s.actor("client"), s.actor("server")
		srv := s.server(a, 8)
		c := s.connect(client, srv)
		in := s.arrived(srv, c)
		fin := s.step(client.Shutdown(c.fd, unix.SHUT_WR))
		c.row("ESTABLISHED→FIN_WAIT1", who{"connect": {client}}, fin)
		in.later("ESTABLISHED→CLOSE_WAIT", who{"listen": {a}}, fin).isAccepted(false)
		// The acknowledgement may be delayed: the reset must not overtake it.
		s.state(client, c.fd, tcp.FinWait2)
		c.later("FIN_WAIT1→FIN_WAIT2", who{"connect": {client}}, fin)
		end := s.step(a.CloseFD(srv.fd))
		s.order[0].row("LISTEN→CLOSE", who{"listen": {a}}, end)
		in.row("CLOSE_WAIT→CLOSE", who{"listen": {a}}, end).isAccepted(false).because("listener_closed")
		c.later("FIN_WAIT2→CLOSE", who{"connect": {client}}, end).saying("ECONNRESET")
	},
	"disconnected by connect(AF_UNSPEC)": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		rst := s.step(client.Disconnect(c.fd))
		c.row("ESTABLISHED→CLOSE", who{"connect": {client}}, rst).because("disconnected")
		a.later("ESTABLISHED→CLOSE", held(srv, srv), rst).saying("ECONNRESET")
	},
}

// state asks the kernel until the socket is in that state: a segment may be delivered by
// ksoftirqd, after the call that sent it has returned, and what is done next would overtake it.
func (s *scene) state(a *lab.Actor, fd int, want tcp.State) {
	s.Helper()
	for begin := lab.Mono(); lab.Mono()-begin < patience; {
		if got, _, err := a.TCPState(fd); err != nil {
			s.Fatal(err)
		} else if got == want {
			return
		}
	}
	s.Fatalf("%s: fd %d never came to %v", a.Name(), fd, want)
}

// readable waits until there is something to read.
func (s *scene) readable(a *lab.Actor, fd int) {
	s.Helper()
	got, _, err := a.Poll(fd, unix.POLLIN, patience)
	s.must(err)
	if got&unix.POLLIN == 0 {
		s.Fatalf("%s: nothing came to fd %d", a.Name(), fd)
	}
}

// fill takes every place in the listener's queue, so that the next SYN is dropped.
func (s *scene) fill(client *lab.Actor, srv *server) {
	s.Helper()
	s.must(s.ns.SetSysctl("net.ipv4.tcp_syncookies", "0"))
	s.arrived(srv, s.connect(client, srv))
}

// TestEnds plays each situation over IPv4, IPv6 and v4-mapped, under load from
// processes that have nothing to do with it, before two tracers at once.
func TestEnds(t *testing.T) { play(t, ends, families, os.Getenv(wantAccept)) }

// newNetNS lives as long as all scenes do, so that no two of them have the same
// inode number.
func newNetNS(t *testing.T) *lab.NetNS {
	t.Helper()
	ns, err := lab.NewNetNS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func play(t *testing.T, scenes map[string]func(*scene), families []family, accept string) {
	parent := t
	watchers := []*watcher{startWatch(t), startWatch(t, "--exact-owner")}
	for _, w := range watchers {
		checkHooks(t, w, accept)
	}
	noise, err := lab.StartNoise(knob(t, noiseSize, 4))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { noise.Stop() })
	var mu sync.Mutex
	played := make(map[string]*scene)
	// In a group, since it ends when all of its parallel tests have.
	t.Run("live", func(t *testing.T) {
		for name, script := range scenes {
			for _, f := range families {
				if name == oneFamily && f.name != "ipv4" {
					continue
				}
				t.Run(name+"/"+f.name, func(t *testing.T) {
					t.Parallel()
					s := &scene{T: t, begin: lab.Mono(), ns: newNetNS(parent), family: f, sock: make(map[uint64]*expected)}
					mu.Lock()
					played[name+"/"+f.name] = s
					mu.Unlock()
					script(s)
					for _, w := range watchers {
						s.check(w)
					}
					s.end = lab.Mono()
					// A silent move may be dated a jiffy early. What the cleanup brings about
					// must not be dated before the end.
					time.Sleep(jiffy(t))
				})
			}
		}
	})
	// Once more when the streams have ended: nothing may have come after the last expected row.
	for _, w := range watchers {
		w.stop(t)
	}
	for name, s := range played {
		t.Run("in the end/"+name, func(t *testing.T) {
			s.T = t
			for _, w := range watchers {
				s.check(w)
			}
		})
	}
	for _, w := range watchers {
		if sum := w.stop(t); sum.LostRing+sum.Recursion+sum.LostAccept+sum.LostMap+sum.LostRead+sum.Evicted != 0 {
			t.Errorf("[%s] lost something: %+v", w.name, sum)
		}
	}
}
