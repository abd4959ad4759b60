// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

// closeWait has the server close, so that the client waits in CLOSE_WAIT.
func (s *scene) closeWait(client, srv *lab.Actor, c, a *end) lab.Step {
	s.Helper()
	fin := s.step(srv.CloseFD(a.fd))
	s.state(client, c.fd, tcp.CloseWait)
	return fin
}

// waiting is a client's socket that somebody else closed.
func waiting(verdict string, by *lab.Actor, c *end, since lab.Step) leaked {
	return leaked{verdict: verdict, by: by, fd: c.fd, since: since, local: c.local, remote: c.remote}
}

// leakScenes each make a leak and say what must be found.
var leakScenes = map[string]func(*scene){
	"end of stream unread": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		fin := s.closeWait(client, srv, c, a)
		doc, when := s.leaksOf()
		s.leaks(doc, when, waiting("eof_unread", client, c, fin))
		if g := doc.Leaks[0]; g.Count != 1 || g.Verdict != "eof_unread" || doc.State != "CLOSE_WAIT" || doc.Lost != nil {
			s.Errorf("document %+v", doc)
		}
		if doc, _ := s.leaksOf("--older-than", "10m"); len(doc.Leaks) != 0 || doc.Younger != 1 {
			s.Errorf("older than 10 m: %+v", doc)
		}
	},
	"end of stream read": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		fin := s.closeWait(client, srv, c, a)
		if n := s.fd(client.Read(c.fd, 1)); n != 0 {
			s.Fatalf("read %d", n)
		}
		doc, when := s.leaksOf()
		s.leaks(doc, when, waiting("eof_read", client, c, fin))
	},
	"data unread":       func(s *scene) { s.unread(100, "data_unread", false) },
	"TLS 1.3's goodbye": func(s *scene) { s.unread(24, "tls_close_unread", true) },
	"TLS 1.2's goodbye": func(s *scene) { s.unread(31, "tls_close_unread", true) },
	"still sending": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		fin := s.step(srv.Shutdown(a.fd, unix.SHUT_WR))
		s.state(client, c.fd, tcp.CloseWait)
		s.step(client.SetNonblock(c.fd, true))
		s.fd(client.Write(c.fd, 16<<20)) // more than fits into both ends: the server does not read
		doc, when := s.leaksOf()
		s.leaks(doc, when, waiting("still_sending", client, c, fin))
	},
	"never accepted": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		l := s.server(srv, 8)
		c := s.connect(client, l)
		fin := s.step(client.CloseFD(c.fd))
		doc, when := s.leaksSoon()
		s.leaks(doc, when, leaked{verdict: "not_accepted", by: srv, fd: -1, side: "accept", since: fin, local: c.remote, remote: c.local})
		if b := doc.Leaks[0].Sockets[0].Backlog; b == nil || b.Listener != l.at.String() || b.Waiting != 1 || b.Size != 8 {
			s.Errorf("backlog %+v", b)
		}
	},
	"accepted": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		fin := s.step(client.CloseFD(c.fd))
		s.state(srv, a.fd, tcp.CloseWait)
		doc, when := s.leaksOf()
		s.leaks(doc, when, leaked{verdict: "eof_unread", by: srv, fd: a.fd, side: "accept", since: fin, local: a.local, remote: a.remote})
	},
	"two holders": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		child, err := client.Spawn("child", c.fd)
		s.must(err)
		s.Cleanup(func() { child.Close() })
		want := waiting("eof_unread", client, c, s.closeWait(client, srv, c, a))
		want.others = []*lab.Actor{child}
		doc, when := s.leaksOf()
		s.leaks(doc, when, want)
	},
	"inherited": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		// Processes begin by a clock of 10 ms, and the socket's by jiffies: the child must be
		// the younger one by both.
		time.Sleep(20*time.Millisecond + 2*jiffy(s.T))
		child, err := client.Spawn("child", c.fd)
		s.must(err)
		s.Cleanup(func() { child.Close() })
		s.step(client.CloseFD(c.fd))
		fin := s.step(srv.CloseFD(a.fd))
		s.state(child, c.fd, tcp.CloseWait)
		want := waiting("eof_unread", child, c, fin)
		want.inherited = true
		doc, when := s.leaksOf()
		s.leaks(doc, when, want)
		if g := doc.Leaks[0]; !g.Inherited || g.PPID != client.PID() {
			s.Errorf("group %+v, want the parent %d", g, client.PID())
		}
	},
	"reset while the program holds it": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		s.step(client.SetLinger0(c.fd))
		s.step(client.CloseFD(c.fd))
		s.state(srv, a.fd, tcp.Close)
		doc, when := s.leaksOf()
		s.leaks(doc, when, leaked{verdict: "dead_fd", by: srv, fd: a.fd, local: a.local, remote: a.remote})
		if g := doc.Leaks[0]; g.Dead != 1 || g.Count != 0 || g.Verdict != "dead_fd" {
			s.Errorf("group %+v", g)
		}
		if doc, _ := s.leaksOf("-L", "1"); len(doc.Leaks) != 0 {
			s.Errorf("of another port: %+v", doc)
		}
	},
	"reset in CLOSE_WAIT": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		s.step(client.Shutdown(c.fd, unix.SHUT_WR))
		s.state(srv, a.fd, tcp.CloseWait)
		s.step(client.SetLinger0(c.fd))
		s.step(client.CloseFD(c.fd))
		s.state(srv, a.fd, tcp.Close)
		doc, when := s.leaksOf()
		s.leaks(doc, when, leaked{verdict: "dead_fd", by: srv, fd: a.fd, local: a.local, remote: a.remote})
	},
	"not dead: never connected": func(s *scene) {
		client := s.actor("client")
		s.fd(client.Socket(s.family.domain))
		bound := s.fd(client.Socket(s.family.domain))
		s.step(client.Bind(bound, s.family.address))
		doc, when := s.leaksOf()
		s.leaks(doc, when)
	},
	"the peer does not close": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, _ := s.pair(client, srv)
		fin := s.step(client.Shutdown(c.fd, unix.SHUT_WR))
		s.state(client, c.fd, tcp.FinWait2)
		doc, when := s.leaksOf("--state", "fin-wait-2")
		s.leaks(doc, when, waiting("peer_open", client, c, fin))
	},
	"inside a Unix socket": func(s *scene) {
		srv := s.actor("server")
		l := s.server(srv, 8)
		fd, local := s.own(l)
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		s.must(err)
		s.Cleanup(func() { unix.Close(pair[0]); unix.Close(pair[1]) })
		fin := s.acceptAndClose(srv, l, fd)
		s.must(unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(fd), nil, 0))
		s.must(unix.Close(fd))
		doc, when := s.leaksOf()
		s.heldBy(doc, leaked{verdict: "in_flight", inferred: true, since: fin, local: local, remote: l.at.String()}, when, pair[1])
	},
	"registered with io_uring": func(s *scene) {
		srv := s.actor("server")
		l := s.server(srv, 8)
		fd, local := s.own(l)
		fin := s.acceptAndClose(srv, l, fd)
		ring, err := lab.Ring(int32(fd))
		s.must(err)
		s.Cleanup(func() { unix.Close(ring) })
		s.must(unix.Close(fd))
		doc, when := s.leaksOf()
		// From 6.14 on the kernel says what a ring holds.
		_, socket := find(doc, leaked{local: local, remote: l.at.String()})
		named := socket != nil && len(socket.Holders) == 1
		s.heldBy(doc, leaked{verdict: "no_fd", inferred: !named, since: fin, local: local, remote: l.at.String()}, when, ring)
	},
}

// heldBy expects a socket without descriptor of its own in this process, and the
// descriptor through which it is held.
func (s *scene) heldBy(doc leaksDoc, want leaked, when lab.Step, fd int) {
	s.Helper()
	g, l := find(doc, want)
	if l == nil || g.PID != os.Getpid() {
		raw, _ := json.Marshal(doc)
		s.Fatalf("not held by this process: %s", raw)
	}
	if want.inferred && (l.CarrierFD == nil || *l.CarrierFD != fd) || !want.inferred && l.Holders[0].FD != fd || l.FD != nil {
		s.Errorf("fd %d is to hold it: %+v", fd, l)
	}
	g.PID, l.Holders, want.fd = 0, nil, -1
	s.leaks(doc, when, want)
}

// unread has the server write so many bytes and close.
func (s *scene) unread(n int, verdict string, inferred bool) {
	s.Helper()
	client, srv := s.actor("client"), s.actor("server")
	_, c, a := s.pair(client, srv)
	s.fd(srv.Write(a.fd, n))
	want := waiting(verdict, client, c, s.closeWait(client, srv, c, a))
	want.inferred = inferred
	doc, when := s.leaksOf()
	s.leaks(doc, when, want)
}

// own connects a socket of the test's own process.
func (s *scene) own(l *server) (fd int, local string) {
	s.Helper()
	s.must(s.ns.Do(func() (err error) {
		if fd, err = unix.Socket(s.family.domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err = unix.Connect(fd, s.sockaddr(l.at)); err != nil {
			return err
		}
		local, err = localAddr(fd)
		return err
	}))
	return fd, local
}

func (s *scene) sockaddr(at netip.AddrPort) unix.Sockaddr {
	if s.family.domain == unix.AF_INET {
		return &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
}

func localAddr(fd int) (string, error) {
	switch at, err := unix.Getsockname(fd); at := at.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(at.Addr), uint16(at.Port)).String(), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(at.Addr).Unmap(), uint16(at.Port)).String(), nil
	default:
		return "", err
	}
}

// acceptAndClose ends the test's own connection from the other side.
func (s *scene) acceptAndClose(srv *lab.Actor, l *server, fd int) lab.Step {
	s.Helper()
	a := s.fd(srv.Accept(l.fd))
	fin := s.step(srv.CloseFD(a))
	for begin := lab.Mono(); lab.Mono()-begin < patience; {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		s.must(err)
		if tcp.State(info.State) == tcp.CloseWait {
			return fin
		}
	}
	s.Fatal("not in CLOSE_WAIT")
	return fin
}

// TestLeaks plays them over IPv4, IPv6 and v4-mapped addresses.
func TestLeaks(t *testing.T) { playLeaks(t, leakScenes) }

// TestLeaksMPTCP: MPTCP reads the TCP socket in the program's stead, here after it
// fell back to TCP, so Recv-Q says nothing about the program.
func TestLeaksMPTCP(t *testing.T) {
	playLeaks(t, map[string]func(*scene){
		"fallen back": func(s *scene) {
			client, srv := s.actor("client"), s.actor("server")
			l := s.server(srv, 8)
			fd := s.fd(client.SocketProto(s.family.domain, unix.IPPROTO_MPTCP))
			s.step(client.Connect(fd, l.at))
			local := s.addr(client.LocalAddr(fd)).String()
			a := s.fd(srv.Accept(l.fd))
			fin := s.step(srv.CloseFD(a))
			doc, when := s.leaksSoon()
			s.leaks(doc, when, leaked{verdict: "unknown", by: client, fd: fd, since: fin, local: local, remote: l.at.String()})
		},
	})
}

func playLeaks(t *testing.T, scenes map[string]func(*scene)) {
	for name, scenePlay := range scenes {
		for _, f := range families {
			t.Run(name+"/"+f.name, func(t *testing.T) {
				scenePlay(&scene{T: t, begin: lab.Mono(), ns: newNetNS(t), family: f, sock: make(map[uint64]*expected)})
			})
		}
	}
}
