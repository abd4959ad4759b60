// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

// owners are the ways in which a socket comes to its owner, and changes hands.
var owners = map[string]func(*scene){
	"SIGKILL of a holder": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		kill := lab.Step{Before: lab.Mono()}
		s.must(srv.Kill())
		kill.After = lab.Mono()
		s.order[0].row("LISTEN→CLOSE", who{"listen": {srv}}, kill)
		a.row("ESTABLISHED→FIN_WAIT1", closedBy(srv), kill)
		c.later("ESTABLISHED→CLOSE_WAIT", who{"connect": {client}}, kill)
		a.later("FIN_WAIT1→FIN_WAIT2", closedBy(srv), kill)
	},
	"shared by fork, the child closes last": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		child, err := srv.Spawn("child", a.fd)
		s.must(err)
		defer child.Close()
		s.step(srv.CloseFD(a.fd)) // no row: the child holds it
		fin := s.step(client.Shutdown(c.fd, unix.SHUT_WR))
		c.row("ESTABLISHED→FIN_WAIT1", who{"connect": {client}}, fin)
		// Seen holding it: the parent, if somebody looked before it closed, or the child.
		a.later("ESTABLISHED→CLOSE_WAIT", who{"listen": {srv}, "accept": {srv}, "fd": {srv, child}}, fin)
		s.state(child, a.fd, tcp.CloseWait)
		end := s.step(child.CloseFD(a.fd))
		a.row("CLOSE_WAIT→LAST_ACK", closedBy(child), end)
		a.later("LAST_ACK→CLOSE", closedBy(child), end)
		c.later("FIN_WAIT1→FIN_WAIT2", who{"connect": {client}}, fin)
		c.later("FIN_WAIT2→TIME_WAIT", who{"connect": {client}}, end)
	},
	"handed over by SCM_RIGHTS": func(s *scene) {
		client, srv, other := s.actor("client"), s.actor("server"), s.actor("other")
		_, c, a := s.pair(client, srv)
		fd, err := srv.SendFD(other, a.fd)
		s.must(err)
		s.step(srv.CloseFD(a.fd))
		end := s.step(other.CloseFD(fd))
		a.row("ESTABLISHED→FIN_WAIT1", closedBy(other), end)
		c.later("ESTABLISHED→CLOSE_WAIT", who{"connect": {client}}, end)
		a.later("FIN_WAIT1→FIN_WAIT2", closedBy(other), end)
	},
	"accepted late": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		l := s.server(srv, 8)
		c := s.connect(client, l)
		a := s.arrived(l, c)
		fin := s.step(client.Shutdown(c.fd, unix.SHUT_WR))
		c.row("ESTABLISHED→FIN_WAIT1", who{"connect": {client}}, fin)
		a.later("ESTABLISHED→CLOSE_WAIT", who{"listen": {srv}}, fin).isAccepted(false)
		s.state(client, c.fd, tcp.FinWait2) // it has come, before the accept()
		s.accept(&srv.Thread, l, a)
		end := s.step(srv.CloseFD(a.fd))
		a.row("CLOSE_WAIT→LAST_ACK", closedBy(srv), end).isAccepted(true)
		a.later("LAST_ACK→CLOSE", closedBy(srv), end).isAccepted(true)
		c.later("FIN_WAIT1→FIN_WAIT2", who{"connect": {client}}, fin)
		c.later("FIN_WAIT2→TIME_WAIT", who{"connect": {client}}, end)
	},
	"prefork server with four workers": func(s *scene) {
		client, master := s.actor("client"), s.actor("master")
		l := s.server(master, 8)
		for i := range 4 {
			worker, err := master.Spawn(fmt.Sprintf("worker-%d", i), l.fd)
			s.must(err)
			defer worker.Close()
			c := s.connect(client, l)
			a := s.arrived(l, c)
			s.accept(&worker.Thread, l, a)
			fin := s.step(worker.CloseFD(a.fd))
			a.row("ESTABLISHED→FIN_WAIT1", closedBy(worker), fin)
			c.later("ESTABLISHED→CLOSE_WAIT", who{"connect": {client}}, fin)
			a.later("FIN_WAIT1→FIN_WAIT2", closedBy(worker), fin)
		}
	},
	"SO_REUSEPORT, two listeners on one port": func(s *scene) {
		client := s.actor("client")
		servers := []*lab.Actor{s.actor("first"), s.actor("second")}
		at := s.family.address
		listeners := make(map[*lab.Actor]*server)
		for _, a := range servers {
			fd := s.fd(a.Socket(s.family.domain))
			s.step(a.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
			s.step(a.Bind(fd, at))
			e := s.expect("listener of "+a.Name(), &a.Thread, fd, "")
			e.row("CLOSE→LISTEN", who{"listen": {a}}, s.step(a.Listen(fd, 8)))
			at = s.addr(a.LocalAddr(fd))
			listeners[a] = &server{a, fd, at}
			s.step(a.SetNonblock(fd, true))
		}
		// The kernel picks one by a hash of the tuple; the one that can accept it is the truth.
		for range 8 {
			c := s.connect(client, listeners[servers[0]])
			for _, a := range servers {
				l := listeners[a]
				fd, step, err := a.Accept(l.fd)
				if step.Errno == unix.EAGAIN {
					continue
				}
				s.must(err)
				in := s.arrived(l, c)
				in.cookie = num[uint64](s)(a.Cookie(fd))
				s.sock[in.cookie] = in.expected
			}
		}
	},
	"short-lived process": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		exit := lab.Step{Before: lab.Mono()}
		s.must(client.Close())
		exit.After = lab.Mono()
		c.row("ESTABLISHED→FIN_WAIT1", who{"connect": {client}}, exit)
		a.later("ESTABLISHED→CLOSE_WAIT", held(srv, srv), exit)
		s.state(srv, a.fd, tcp.CloseWait)
		end := s.step(srv.CloseFD(a.fd))
		a.row("CLOSE_WAIT→LAST_ACK", closedBy(srv), end)
		a.later("LAST_ACK→CLOSE", closedBy(srv), end)
		c.later("FIN_WAIT1→FIN_WAIT2", who{"connect": {client}}, exit) // long after its death
		c.later("FIN_WAIT2→TIME_WAIT", who{"connect": {client}}, exit)
	},
	"threads with names of their own": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		connector, err := client.OnThread("connector")
		s.must(err)
		acceptor, err := srv.OnThread("acceptor")
		s.must(err)
		l := s.server(srv, 8)
		c := s.connectFrom(connector, client, l, s.fd(connector.Socket(s.family.domain)))
		a := s.arrived(l, c)
		s.accept(acceptor, l, a)
		fin := s.step(acceptor.CloseFD(a.fd))
		a.row("ESTABLISHED→FIN_WAIT1", closedBy(srv), fin)
		c.later("ESTABLISHED→CLOSE_WAIT", who{"connect": {client}}, fin)
		a.later("FIN_WAIT1→FIN_WAIT2", closedBy(srv), fin)
	},
	"Go's default listener, MPTCP": func(s *scene) {
		client, srv := s.actor("client"), s.actor("server")
		// SO_COOKIE of an MPTCP socket is not that of the TCP socket under it.
		_, at, step, err := srv.NetListen(s.family.address)
		s.must(err)
		e := &expected{name: "listener", local: at.String(), remote: "0.0.0.0:0"}
		if at.Addr().Is6() {
			e.remote = "[::]:0"
		}
		s.order = append(s.order, e)
		e.row("CLOSE→LISTEN", who{"listen": {srv}}, step)
		c := s.connect(client, &server{srv, 0, at})
		a := s.arrived(&server{srv, 0, at}, c)
		_, _, _, err = srv.NetAccept()
		s.must(err)
		fin, err := srv.NetCloseConn()
		s.must(err)
		a.row("ESTABLISHED→FIN_WAIT1", closedBy(srv), fin)
		c.later("ESTABLISHED→CLOSE_WAIT", who{"connect": {client}}, fin)
		s.state(client, c.fd, tcp.CloseWait)
		end := s.step(client.CloseFD(c.fd))
		c.row("CLOSE_WAIT→LAST_ACK", who{"connect": {client}}, end)
		c.later("LAST_ACK→CLOSE", who{"connect": {client}}, end)
		a.later("FIN_WAIT1→FIN_WAIT2", closedBy(srv), fin)
		a.later("FIN_WAIT2→TIME_WAIT", closedBy(srv), end)
	},
}

// TestOwners is TestEnds for owners.
func TestOwners(t *testing.T) { play(t, owners, families, os.Getenv(wantAccept)) }

// TestSameTupleTwice: two namespaces, one tuple, two owners each.
func TestSameTupleTwice(t *testing.T) {
	w := startWatch(t)
	family := families[0]
	family.address = netip.MustParseAddrPort("127.0.0.1:7000")
	var scenes []*scene
	for range 2 {
		s := &scene{T: t, begin: lab.Mono(), ns: newNetNS(t), family: family, sock: make(map[uint64]*expected)}
		client, srv := s.actor("client"), s.actor("server")
		l := s.server(srv, 8)
		fd := s.fd(client.Socket(unix.AF_INET))
		s.step(client.Bind(fd, netip.MustParseAddrPort("127.0.0.1:7001")))
		s.arrived(l, s.connectFrom(&client.Thread, client, l, fd))
		scenes = append(scenes, s)
	}
	for _, s := range scenes {
		s.check(w)
	}
	if scenes[0].order[1].local != scenes[1].order[1].local {
		t.Error("the two tuples differ")
	}
}

// TestFromBefore: connections, listeners and owners that were there before the
// tracer, in another netns, are known from its first row on.
func TestFromBefore(t *testing.T) {
	for _, f := range families {
		for _, flag := range []string{"", "--exact-owner"} {
			t.Run(f.name+flag, func(t *testing.T) { fromBefore(t, f, flag) })
		}
	}
}

func fromBefore(t *testing.T, f family, flag string) {
	s := &scene{T: t, ns: newNetNS(t), family: f, sock: make(map[uint64]*expected)}
	client, srv, gone := s.actor("client"), s.actor("server"), s.actor("gone")
	l, c, a := s.pair(client, srv)
	g := s.connect(gone, l)
	queued := s.arrived(l, g) // nobody accepts it before the tracer is there
	_, goAt, _, err := srv.NetListen(f.address)
	s.must(err)
	for _, e := range s.order {
		e.rows = nil // all of that was before
	}
	s.begin = lab.Mono()
	var args []string
	if flag != "" {
		args = append(args, flag)
	}
	w := startWatch(t, args...)

	fin := s.step(client.Shutdown(c.fd, unix.SHUT_WR))
	c.side, a.side, queued.side = "", "", "" // nothing tells which end connected
	c.row("ESTABLISHED→FIN_WAIT1", closedBy(client), fin).min = true
	a.later("ESTABLISHED→CLOSE_WAIT", closedBy(srv), fin).min = true
	s.state(srv, a.fd, tcp.CloseWait)
	end := s.step(srv.CloseFD(a.fd))
	a.row("CLOSE_WAIT→LAST_ACK", closedBy(srv), end)
	a.later("LAST_ACK→CLOSE", closedBy(srv), end)
	c.later("FIN_WAIT1→FIN_WAIT2", closedBy(client), fin)
	c.later("FIN_WAIT2→TIME_WAIT", closedBy(client), end)

	// A connection that waits in the queue has no owner; that nobody accepted it is known,
	// and so is its side: only accepting makes sockets without a file.
	g.side = ""
	fin = s.step(gone.Shutdown(g.fd, unix.SHUT_WR))
	g.row("ESTABLISHED→FIN_WAIT1", closedBy(gone), fin).min = true
	queued.side = "accept"
	queued.rows = append(queued.rows, want{change: "ESTABLISHED→CLOSE_WAIT", who: who{"unknown": nil}, from: fin.Before, min: true})
	s.state(gone, g.fd, tcp.FinWait2)
	g.later("FIN_WAIT1→FIN_WAIT2", closedBy(gone), fin)

	// New connections to old listeners, a plain one and Go's, name the listener's owner.
	for _, at := range []*server{l, {srv, 0, goAt}} {
		fresh := s.connect(client, at)
		in := s.arrived(at, fresh)
		in.rows[0].who, in.rows[1].who = who{"fd": {srv}, "listen": {srv}}, who{"fd": {srv}, "listen": {srv}}
	}
	s.check(w)
}
