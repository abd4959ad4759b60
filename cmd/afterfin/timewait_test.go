// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

// peerFamilies are those that a lab.Peer speaks.
var peerFamilies = families[:2]

// reuseDelay is after when the kernel lets a connect() take the tuple of a
// TIME_WAIT: at the next tick of a second up to 6.12, after tcp_tw_reuse_delay,
// 1 s, from 6.14 on.
const reuseDelay = 2 * time.Second

// timeWaits are the ways into TIME_WAIT and out of it, but for those that take its
// whole length.
var timeWaits = map[string]func(*scene){
	"the FIN at once":     func(s *scene) { s.closeFirst(0) },
	"the FIN after 0.3 s": func(s *scene) { s.closeFirst(300 * time.Millisecond) },
	"the FIN after 2.6 s": func(s *scene) { s.closeFirst(2600 * time.Millisecond) },
	"ACK and FIN in one segment": func(s *scene) {
		p := s.peer()
		s.must(p.CloseFirstOneSegment())
		s.changed(p)
	},
	"half-closed, then the FIN": func(s *scene) {
		p := s.peer()
		p.HalfClose = true
		s.must(p.CloseFirst(0))
		s.changed(p)
	},
	"both close at once": func(s *scene) {
		p := s.peer()
		s.must(p.CloseBoth())
		s.changed(p)
	},
	"RST": func(s *scene) {
		p := s.timeWait("net.ipv4.tcp_rfc1337", "0")
		s.ends(p, "reset", 0, s.step(p.Conn.RST(p.Conn.SndNxt)))
	},
	"RST, which rfc1337 ignores, then SYN": func(s *scene) {
		p := s.accepted("net.ipv4.tcp_rfc1337", "1")
		s.step(p.Conn.RST(p.Conn.SndNxt))
		s.reopens(p, 0)
	},
	"SYN": func(s *scene) { s.reopens(s.accepted(), 0) },
	"FIN again, seven times, then RST": func(s *scene) {
		p := s.timeWait()
		for range 7 {
			// Into another jiffy; and what moved silently is told before it begins anew.
			time.Sleep(150 * time.Millisecond)
			s.step(p.Conn.FINAgain())
		}
		s.ends(p, "reset", 7, s.step(p.Conn.RST(p.Conn.SndNxt)))
	},
	"an orphan that waits in vain": func(s *scene) {
		s.must(s.ns.SetSysctl("net.ipv4.tcp_fin_timeout", "1"))
		p := s.peer()
		s.must(p.CloseHalfway())
		s.changed(p)
		s.expired(p, "FIN_WAIT2", time.Second)
	},
	"an orphan that gets data": func(s *scene) {
		p := s.peer()
		s.must(p.CloseHalfway())
		s.changed(p)
		s.ends(p, "reset", 0, s.step(p.Conn.Data(10)))
	},
	"connect() from the same port, chosen by the kernel": func(s *scene) {
		p := s.timeWait("net.ipv4.tcp_tw_reuse", "1", "net.ipv4.ip_local_port_range", "40000 40000")
		time.Sleep(reuseDelay)
		before := lab.Mono()
		s.ends(p, "reused_connect", 0, s.connects(s.actor("again"), before))
	},
	"connect() from the same port, bound": func(s *scene) {
		client, other, srv := s.actor("client"), s.actor("other"), s.actor("server")
		l := s.server(srv, 8)
		fd := s.fd(client.Socket(s.family.domain))
		s.step(client.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
		s.step(client.Bind(fd, s.family.address))
		c := s.connectFrom(&client.Thread, client, l, fd)
		a := s.arrived(l, c)
		s.accept(&srv.Thread, l, a)
		from := s.addr(client.LocalAddr(fd))
		fin := s.step(client.CloseFD(c.fd))
		c.row("ESTABLISHED→FIN_WAIT1", who{"connect": {client}}, fin)
		a.later("ESTABLISHED→CLOSE_WAIT", held(srv, srv), fin)
		c.later("FIN_WAIT1→FIN_WAIT2", who{"connect": {client}}, fin)
		s.state(srv, a.fd, tcp.CloseWait)
		end := s.step(srv.CloseFD(a.fd))
		a.row("CLOSE_WAIT→LAST_ACK", closedBy(srv), end)
		c.later("FIN_WAIT2→TIME_WAIT", who{"connect": {client}}, end)
		a.later("LAST_ACK→CLOSE", closedBy(srv), end)

		fd = s.fd(other.Socket(s.family.domain))
		s.step(other.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
		s.step(other.Bind(fd, from))
		again := s.connectFrom(&other.Thread, other, l, fd)
		c.row("TIME_WAIT→CLOSE", who{"connect": {client}}, again.step).because("reused_connect")
		s.arrived(l, again)
	},
	"ss -K": func(s *scene) {
		p := s.timeWait()
		s.ends(p, "destroyed", 0, s.destroy(p.Local, p.Conn.Local))
	},
	"TCP_LINGER2 below 0": func(s *scene) {
		p := s.peer()
		p.HalfClose = true
		s.must(p.CloseHalfway())
		s.changed(p)
		s.step(p.Actor.SetsockoptInt(p.FD, unix.IPPROTO_TCP, unix.TCP_LINGER2, -1))
		e, end := s.order[0], s.step(p.Actor.CloseFD(p.FD))
		e.row("FIN_WAIT2→CLOSE", who{"connect": {p.Actor}}, end).because("linger2")
	},
	"closed over unread data in FIN_WAIT2": func(s *scene) {
		p := s.peer()
		p.HalfClose = true
		s.must(p.CloseHalfway())
		s.changed(p)
		s.step(p.Conn.Data(1))
		e := s.order[0]
		e.row("FIN_WAIT2→CLOSE", who{"connect": {p.Actor}}, s.step(p.Actor.CloseFD(p.FD))).because("unread_data")
	},
	"RST in FIN_WAIT2": func(s *scene) {
		p := s.peer()
		p.HalfClose = true
		s.must(p.CloseHalfway())
		s.changed(p)
		e := s.order[0]
		e.row("FIN_WAIT2→CLOSE", who{"connect": {p.Actor}}, s.step(p.Conn.RST(p.Conn.SndNxt))).saying("ECONNRESET")
	},
}

// TestTimeWait plays them over IPv4 and IPv6.
func TestTimeWait(t *testing.T) { play(t, timeWaits, peerFamilies, os.Getenv(wantAccept)) }

// TestTimeWaitExpires: the length of TIME_WAIT is what the kernel makes it.
func TestTimeWaitExpires(t *testing.T) {
	play(t, expiring, peerFamilies, os.Getenv(wantAccept))
}

var expiring = map[string]func(*scene){
	"expired": func(s *scene) { s.expired(s.timeWait(), "TIME_WAIT", timeWaitSeconds(s.T)) },
}

// timeWaitSeconds is the length of TIME_WAIT on this kernel.
func timeWaitSeconds(t *testing.T) time.Duration {
	return time.Duration(knob(t, timeWaitLength, 60)) * time.Second
}

// fakePeer is a lab.Peer in the scene's netns, with these sysctls set before.
func (s *scene) fakePeer(sysctls ...string) *lab.Peer {
	s.Helper()
	for i := 0; i < len(sysctls); i += 2 {
		s.must(s.ns.SetSysctl(sysctls[i], sysctls[i+1]))
	}
	p, err := s.ns.Peer(s.family.domain)
	s.must(err)
	s.Cleanup(func() { p.Close() })
	return p
}

// peer connects a client to a fake peer, as the scene's first socket.
func (s *scene) peer(sysctls ...string) *lab.Scene {
	s.Helper()
	s.fake = s.fakePeer(sysctls...)
	client := s.actor("client")
	before := lab.Mono()
	return s.connectedPeer(client, before)
}

func (s *scene) connectedPeer(client *lab.Actor, before time.Duration) *lab.Scene {
	s.Helper()
	p, err := s.fake.ConnectScene(client, lab.PeerOptions{})
	s.must(err)
	step := lab.Step{Before: before, After: lab.Mono()}
	e := s.expect(client.Name(), &client.Thread, p.FD, "connect")
	e.local, e.remote = p.Local.String(), s.fake.Addr().String()
	e.row("CLOSE→SYN_SENT", who{"connect": {client}}, step)
	e.row("SYN_SENT→ESTABLISHED", who{"connect": {client}}, step)
	return p
}

// connects has a second client connect to the fake peer, and gives the step.
func (s *scene) connects(client *lab.Actor, before time.Duration) lab.Step {
	s.Helper()
	s.connectedPeer(client, before)
	return lab.Step{Before: before, After: lab.Mono()}
}

// timeWait is a client's connection in TIME_WAIT.
func (s *scene) timeWait(sysctls ...string) *lab.Scene {
	s.Helper()
	p := s.peer(sysctls...)
	s.must(p.CloseFirst(0))
	s.changed(p)
	return p
}

func (s *scene) closeFirst(gap time.Duration) {
	s.Helper()
	p := s.peer()
	s.must(p.CloseFirst(gap))
	s.changed(p)
}

// accepted is a server's connection in TIME_WAIT, as the scene's second socket.
func (s *scene) accepted(sysctls ...string) *lab.Scene {
	s.Helper()
	s.fake = s.fakePeer(sysctls...)
	srv := s.actor("server")
	fd := s.fd(srv.Socket(s.family.domain))
	s.step(srv.Bind(fd, netip.AddrPortFrom(s.fake.Kernel(), 0)))
	step := s.step(srv.Listen(fd, 8))
	s.listener = &server{srv, fd, s.addr(srv.LocalAddr(fd))}
	l := s.expect("listener", &srv.Thread, fd, "")
	l.row("CLOSE→LISTEN", who{"listen": {srv}}, step)

	before := lab.Mono()
	p, err := s.fake.AcceptScene(srv, fd, lab.PeerOptions{})
	s.must(err)
	s.arrives(srv, p, lab.Step{Before: before, After: lab.Mono()})
	s.must(p.CloseFirst(0))
	s.changed(p)
	return p
}

// arrives expects the rows of a connection that came in from the fake peer.
func (s *scene) arrives(srv *lab.Actor, p *lab.Scene, step lab.Step) {
	s.Helper()
	e := s.expect("server", &srv.Thread, p.FD, "accept")
	e.local, e.remote = p.Local.String(), p.Conn.Local.String()
	e.row("LISTEN→SYN_RECV", who{"listen": {srv}}, step)
	e.row("SYN_RECV→ESTABLISHED", who{"listen": {srv}}, step)
}

// reopens has a SYN take the tuple of a server's TIME_WAIT.
func (s *scene) reopens(p *lab.Scene, restarts int) {
	s.Helper()
	before := lab.Mono()
	again, err := p.Reopen(s.listener.fd)
	s.must(err)
	step := lab.Step{Before: before, After: lab.Mono()}
	s.ends(p, "reused_syn", restarts, step)
	s.arrives(p.Actor, again, step)
}

// changed expects what the scene says that the kernel's end went through.
func (s *scene) changed(p *lab.Scene) {
	e := s.order[len(s.order)-1]
	w := who{"connect": {p.Actor}}
	if e.side == "accept" {
		w = closedBy(p.Actor)
	}
	for _, c := range p.Changes {
		e.row(fmt.Sprintf("%v→%v", c.From, c.To), w, c.Step)
	}
	p.Changes = nil
}

// ends expects that the mini-socket of the connection before the last step ends
// with it.
func (s *scene) ends(p *lab.Scene, cause string, restarts int, step lab.Step) {
	s.Helper()
	e := s.socketOf(p)
	from := "TIME_WAIT"
	if last := e.rows[len(e.rows)-1].change; last == "FIN_WAIT1→FIN_WAIT2" {
		from = "FIN_WAIT2"
	}
	e.row(from+"→CLOSE", e.rows[len(e.rows)-1].who, step).because(cause).restarts = restarts
}

// socketOf is the first socket of p's actor that is not a listener.
func (s *scene) socketOf(p *lab.Scene) *expected {
	for _, e := range s.order {
		if e.side != "" {
			return e
		}
	}
	s.Fatal("no socket")
	return nil
}

// expired waits until the kernel itself has no mini-socket any more, which took
// this long by its timer, and expects the end at that moment. A wheel of timers
// lets one run late by up to a bucket: 512 jiffies at HZ 100 and 250, 4096 at 1000.
func (s *scene) expired(p *lab.Scene, from string, length time.Duration) {
	s.Helper()
	e := s.socketOf(p)
	begin := e.rows[len(e.rows)-1].from
	there := lab.Step{Before: lab.Mono()}
	if s.miniSockets() == 0 {
		s.Fatal("it is over before it begins")
	}
	// A busy machine wakes us late; the earliest end is not to be missed.
	time.Sleep(begin + length - lab.Mono() - 100*time.Millisecond)
	for {
		now := lab.Mono()
		if s.miniSockets() == 0 {
			there.After = lab.Mono()
			break
		}
		there.Before = now
		if now-begin > length+6*time.Second {
			s.Fatalf("still there after %v", now-begin)
		}
		time.Sleep(500 * time.Microsecond)
	}
	e.row(from+"→CLOSE", e.rows[len(e.rows)-1].who, there).because("expired")
}

// miniSockets counts those of the scene's netns.
func (s *scene) miniSockets() int {
	s.Helper()
	return miniSockets(s.T, s.ns)
}

// destroy does what ss -K does.
func (s *scene) destroy(local, remote netip.AddrPort) lab.Step {
	s.Helper()
	step := lab.Step{Before: lab.Mono()}
	s.must(s.ns.Do(func() error { return destroySocket(local, remote) }))
	step.After = lab.Mono()
	return step
}

// TestTimeWaitNetNSExit: with its netns a TIME_WAIT ends too. Not beside other
// scenes: a new netns may then have the inode number of this one.
func TestTimeWaitNetNSExit(t *testing.T) {
	w := startWatch(t)
	for _, f := range peerFamilies {
		t.Run(f.name, func(t *testing.T) {
			s := &scene{T: t, begin: lab.Mono(), ns: newNetNS(t), family: f, sock: make(map[uint64]*expected)}
			p := s.timeWait()
			exit := lab.Step{Before: lab.Mono()}
			s.must(p.Actor.Close())
			s.must(s.fake.Close())
			s.must(s.ns.Close())
			e := s.order[0]
			e.later("TIME_WAIT→CLOSE", e.rows[0].who, exit).because("netns_exit")
			s.check(w)
		})
	}
}

// TestTimeWaitFromBefore: a TIME_WAIT that is older than the tracer says at least
// how long it lasted, and not whose it was.
func TestTimeWaitFromBefore(t *testing.T) {
	for _, f := range peerFamilies {
		t.Run(f.name, func(t *testing.T) {
			s := &scene{T: t, ns: newNetNS(t), family: f, sock: make(map[uint64]*expected)}
			p := s.timeWait("net.ipv4.tcp_rfc1337", "0")
			entered := s.order[0].rows[len(s.order[0].rows)-1]
			s.begin = lab.Mono()
			w := startWatch(t, "--netns", s.ns.Path())
			length, left := timeWaitSeconds(t), -1
			if m := regexp.MustCompile(`found TIME_WAIT 1 \((\d+) s to go\)`).FindStringSubmatch(w.stderr.String()); m != nil {
				left, _ = strconv.Atoi(m[1])
			}
			if left > int(length.Seconds()) || left < int(length.Seconds())-10 {
				t.Errorf("the ready line does not say how long it has: %s", w.stderr)
			}
			rst := s.step(p.Conn.RST(p.Conn.SndNxt))
			inode := s.ns.Inode()
			rows := w.wait(t, 1, func(r *row) bool { return r.NetNS == inode && r.Mono >= int64(s.begin) })
			if len(rows) != 1 {
				t.Fatalf("rows: %s", changes(rows))
			}
			r := &rows[0]
			if r.change() != "TIME_WAIT→CLOSE" || deref(r.Cause) != "reset" || r.Restarts != nil || r.Owner.How != "unknown" || r.Cookie != s.order[0].cookie {
				t.Errorf("row %+v", r)
			}
			if r.Local != p.Local.String() || r.Remote != s.fake.Addr().String() || r.Family != f.json {
				t.Errorf("%s > %s (%s)", r.Local, r.Remote, r.Family)
			}
			// The bound is the timer's, less the four jiffies by which that may be wrong.
			least, most := rst.Before-entered.to-5*jiffy(t)-time.Millisecond, rst.After-entered.from
			if r.InState != nil || r.InStateMin == nil || time.Duration(*r.InStateMin) < least || time.Duration(*r.InStateMin) > most {
				t.Errorf("in_state_ns %v, in_state_min_ns %v, want %v to %v", ptr(r.InState), ptr(r.InStateMin), least, most)
			}
		})
	}
}
