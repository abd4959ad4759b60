// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

// noRoom makes mini-sockets impossible in the scene's netns.
func (s *scene) noRoom() {
	s.Helper()
	s.must(s.ns.SetSysctl("net.ipv4.tcp_max_tw_buckets", "0"))
}

// overflowing is a connection closed in order, where the client would go to
// TIME_WAIT. What is set on its socket, or waits in it, counts only at a close().
func (s *scene) overflowing(set ...func(client, srv *lab.Actor, c, a *end)) {
	s.Helper()
	client, srv := s.actor("client"), s.actor("server")
	_, c, a := s.pair(client, srv)
	for _, f := range set {
		f(client, srv, c, a)
	}
	fin := s.step(client.Shutdown(c.fd, unix.SHUT_WR))
	s.state(client, c.fd, tcp.FinWait2)
	c.row("ESTABLISHED→FIN_WAIT1", who{"connect": {client}}, fin)
	c.later("FIN_WAIT1→FIN_WAIT2", who{"connect": {client}}, fin)
	a.later("ESTABLISHED→CLOSE_WAIT", held(srv, srv), fin)
	end := s.step(srv.CloseFD(a.fd))
	a.row("CLOSE_WAIT→LAST_ACK", closedBy(srv), end)
	a.later("LAST_ACK→CLOSE", closedBy(srv), end)
	c.later("FIN_WAIT2→CLOSE", who{"connect": {client}}, end).because("overflow")
}

// toPeer is a connection to the fake peer, established.
func (s *scene) toPeer(client *lab.Actor) (*expected, *lab.Scene) {
	s.Helper()
	s.fake = s.fakePeer()
	p := s.connectedPeer(client, lab.Mono())
	return s.order[len(s.order)-1], p
}

// overflows are the ways to want a mini-socket that there is no room for, and what
// looks like them.
var overflows = map[string]func(*scene){
	"half-closed, with SO_LINGER 0": func(s *scene) {
		s.noRoom()
		s.overflowing(func(client, _ *lab.Actor, c, _ *end) { s.step(client.SetLinger0(c.fd)) })
	},
	"half-closed, with TCP_LINGER2 below 0": func(s *scene) {
		s.noRoom()
		s.overflowing(func(client, _ *lab.Actor, c, _ *end) {
			s.step(client.SetsockoptInt(c.fd, unix.IPPROTO_TCP, unix.TCP_LINGER2, -1))
		})
	},
	"half-closed, with unread data": func(s *scene) {
		s.noRoom()
		s.overflowing(func(_, srv *lab.Actor, _, a *end) { s.fd(srv.Write(a.fd, 10)) })
	},
	"half-closed": func(s *scene) {
		s.noRoom()
		s.overflowing()
		s.overflowing()
	},
	"orphan": func(s *scene) {
		s.noRoom()
		client, srv := s.actor("client"), s.actor("server")
		_, c, a := s.pair(client, srv)
		fin := s.step(client.CloseFD(c.fd))
		c.row("ESTABLISHED→FIN_WAIT1", who{"connect": {client}}, fin)
		c.later("FIN_WAIT1→FIN_WAIT2", who{"connect": {client}}, fin)
		c.later("FIN_WAIT2→CLOSE", who{"connect": {client}}, fin).because("overflow")
		a.later("ESTABLISHED→CLOSE_WAIT", held(srv, srv), fin)
		s.closedUnheard(srv, a)
	},
	"both close at once": func(s *scene) {
		s.noRoom()
		client := s.actor("client")
		e, p := s.toPeer(client)
		fin := s.step(client.CloseFD(p.FD))
		e.row("ESTABLISHED→FIN_WAIT1", who{"connect": {client}}, fin)
		crossing := s.step(p.Conn.FIN())
		e.later("FIN_WAIT1→CLOSING", who{"connect": {client}}, crossing)
		_, err := p.Conn.Expect(lab.ACK, patience)
		s.must(err)
		e.later("CLOSING→CLOSE", who{"connect": {client}}, s.step(p.Conn.Ack())).because("overflow")
	},
	"TCP_LINGER2 below 0": func(s *scene) {
		s.noRoom()
		client := s.actor("client")
		e, p := s.toPeer(client)
		s.step(client.SetsockoptInt(p.FD, unix.IPPROTO_TCP, unix.TCP_LINGER2, -1))
		s.must(p.CloseUnanswered())
		e.row("ESTABLISHED→FIN_WAIT1", who{"connect": {client}}, p.Changes[0].Step)
		ack := s.step(p.Conn.Ack())
		e.later("FIN_WAIT1→FIN_WAIT2", who{"connect": {client}}, ack)
		e.later("FIN_WAIT2→CLOSE", who{"connect": {client}}, ack).because("linger2")
		s.overflowing()
	},
	// Without a cause of its own: only the counter tells it from an overflow.
	"data that acknowledges the orphan's FIN": func(s *scene) {
		s.noRoom()
		s.overflowing()
		client := s.actor("client")
		e, p := s.toPeer(client)
		s.must(p.CloseUnanswered())
		fin := p.Changes[0].Step
		e.row("ESTABLISHED→FIN_WAIT1", who{"connect": {client}}, fin)
		data := s.step(p.Conn.Data(1))
		e.later("FIN_WAIT1→FIN_WAIT2", who{"connect": {client}}, data)
		e.later("FIN_WAIT2→CLOSE", who{"connect": {client}}, data).because("unknown")
	},
}

// closedUnheard closes the server's end when the client's socket is gone: its FIN
// draws a RST.
func (s *scene) closedUnheard(srv *lab.Actor, a *end) {
	s.Helper()
	s.state(srv, a.fd, tcp.CloseWait)
	end := s.step(srv.CloseFD(a.fd))
	a.row("CLOSE_WAIT→LAST_ACK", closedBy(srv), end)
	a.later("LAST_ACK→CLOSE", closedBy(srv), end).saying("ECONNRESET")
}

// TestOverflow: a socket that gets no mini-socket says so, and nothing else does.
func TestOverflow(t *testing.T) { play(t, overflows, peerFamilies, os.Getenv(wantAccept)) }
