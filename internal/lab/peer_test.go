// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

// peerScript is a script with a peer, and with an actor that has a listener for
// it.
type peerScript struct {
	script
	ns       *lab.NetNS
	peer     *lab.Peer
	actor    *lab.Actor
	listener int
	options  lab.PeerOptions
}

// withPeer runs f in IPv4 and IPv6, with timestamps and without.
func withPeer(t *testing.T, f func(peerScript)) {
	t.Helper()
	for _, af := range []struct {
		name   string
		family int
	}{{"IPv4", unix.AF_INET}, {"IPv6", unix.AF_INET6}} {
		for _, o := range []struct {
			name string
			lab.PeerOptions
		}{{"timestamps", lab.PeerOptions{}}, {"plain", lab.PeerOptions{MSS: 536, NoTimestamps: true}}} {
			t.Run(af.name+" "+o.name, func(t *testing.T) {
				t.Parallel() // they wait more than they work
				f(newPeerScript(t, af.family, o.PeerOptions))
			})
		}
	}
}

func newPeerScript(t *testing.T, family int, o lab.PeerOptions) peerScript {
	t.Helper()
	s := script{t}
	ns := s.netns()
	peer, err := ns.Peer(family)
	s.no(err)
	t.Cleanup(func() { s.no(peer.Close()) })
	actor := s.start(ns, "actor")
	listener, _ := s.listen(actor, netip.AddrPortFrom(peer.Kernel(), 0), 8)
	return peerScript{s, ns, peer, actor, listener, o}
}

func (s peerScript) connect() *lab.Scene {
	s.Helper()
	scene, err := s.peer.ConnectScene(s.actor, s.options)
	s.no(err)
	return scene
}

func (s peerScript) accept() *lab.Scene {
	s.Helper()
	scene, err := s.peer.AcceptScene(s.actor, s.listener, s.options)
	s.no(err)
	return scene
}

func (s peerScript) expect(scene *lab.Scene, flags lab.Flags) lab.Received {
	s.Helper()
	r, err := scene.Conn.Expect(flags, 10*time.Second)
	s.no(err)
	return r
}

// quiet fails if the kernel has said anything more.
func (s peerScript) quiet(scene *lab.Scene) {
	s.Helper()
	rest, err := scene.Conn.Rest()
	s.no(err)
	for _, r := range rest {
		s.Errorf("the kernel sent %v", r.Segment)
	}
}

// socket is what the kernel says of its end in /proc/net/tcp: state 0 if it has
// none.
type socket struct {
	state tcp.State
	mini  bool          // a TIME_WAIT or FIN_WAIT2 mini-socket
	left  time.Duration // of its timer, in 10 ms
}

func (s peerScript) look(scene *lab.Scene) (found socket) {
	s.Helper()
	name := "tcp6"
	if scene.Local.Addr().Is4() {
		name = "tcp"
	}
	s.no(s.ns.Do(func() error {
		text, err := os.ReadFile("/proc/thread-self/net/" + name)
		if err != nil {
			return err
		}
		local, remote := fmt.Sprintf(":%04X", scene.Local.Port()), fmt.Sprintf(":%04X", scene.Conn.Local.Port())
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if !strings.HasSuffix(f[1], local) || !strings.HasSuffix(f[2], remote) {
				continue
			}
			if found.state != 0 {
				return errors.New("it has two")
			}
			state, err := strconv.ParseUint(f[3], 16, 8)
			if err != nil {
				return err
			}
			timer, when, _ := strings.Cut(f[5], ":")
			ticks, err := strconv.ParseUint(when, 16, 32)
			if err != nil {
				return err
			}
			found = socket{tcp.State(state), timer == "03", time.Duration(ticks) * 10 * time.Millisecond}
		}
		return nil
	}))
	return found
}

// is fails unless the kernel's end is in this state now: every step before has had
// its effect.
func (s peerScript) is(scene *lab.Scene, want tcp.State, mini bool) socket {
	s.Helper()
	got := s.look(scene)
	if got.state != want || got.mini != mini {
		s.Fatalf("the kernel says %v, mini %t; want %v, %t", got.state, got.mini, want, mini)
	}
	return got
}

func (s peerScript) timeWait(scene *lab.Scene) socket {
	s.Helper()
	return s.is(scene, tcp.TimeWait, true)
}

func (s peerScript) gone(scene *lab.Scene) {
	s.Helper()
	s.is(scene, 0, false)
}

func TestPeerTalksBothWays(t *testing.T) {
	withPeer(t, func(s peerScript) {
		// Whatever the netns says about odd sources does not matter.
		s.no(s.ns.SetSysctl("net.ipv4.conf.all.rp_filter", "1"))
		s.no(s.ns.SetSysctl("net.ipv4.conf.lo.rp_filter", "1"))
		for _, scene := range []*lab.Scene{s.connect(), s.accept()} {
			s.is(scene, tcp.Established, false)
			if scene.Local.Addr() != s.peer.Kernel() {
				s.Errorf("the kernel's end is %v", scene.Local)
			}
			s.step(scene.Conn.Opened, nil)
			before := lab.Mono()
			if n := s.num(s.actor.Write(scene.FD, 100)); n != 100 {
				s.Fatalf("wrote %d", n)
			}
			r := s.expect(scene, lab.ACK)
			if len(r.Payload) != 100 || r.Timestamps == s.options.NoTimestamps {
				s.Errorf("received %d bytes, timestamps %t", len(r.Payload), r.Timestamps)
			}
			if now := lab.Mono(); r.At < before || r.At > now {
				s.Errorf("received at %v, between %v and %v", r.At, before, now)
			}
			s.step(scene.Conn.Ack())
			s.step(scene.Conn.Data(5))
			if n := s.num(s.actor.Read(scene.FD, 10)); n != 5 {
				s.Errorf("read %d", n)
			}
			if r := s.expect(scene, lab.ACK); r.Ack != scene.Conn.SndNxt {
				s.Errorf("acknowledged %d of %d", r.Ack, scene.Conn.SndNxt)
			}
			s.quiet(scene) // it was said once, and in one place
		}
	})
}

func TestPeerOfManyConnections(t *testing.T) {
	s := newPeerScript(t, unix.AF_INET6, lab.PeerOptions{})
	again, err := s.ns.Peer(unix.AF_INET6) // the same addresses
	s.no(err)
	s.no(again.Close())
	one, two := s.connect(), s.accept()
	s.step(s.actor.CloseFD(two.FD))
	s.step(s.actor.CloseFD(one.FD))
	s.expect(one, lab.FIN|lab.ACK)
	s.expect(two, lab.FIN|lab.ACK)
	s.quiet(one)
	s.quiet(two)
	_, err = one.Conn.Expect(lab.RST, 0)
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("expected nothing: %v", err)
	}
}

// A kernel socket waits for as long as the peer says nothing.
func TestPeerAnswersLater(t *testing.T) {
	withPeer(t, func(s peerScript) {
		family := unix.AF_INET6
		if s.peer.Kernel().Is4() {
			family = unix.AF_INET
		}
		fd := s.num(s.actor.Socket(family, unix.SOCK_NONBLOCK))
		if _, err := s.actor.Connect(fd, s.peer.Addr()); !errors.Is(err, unix.EINPROGRESS) {
			s.Fatalf("connect: %v", err)
		}
		in := func(want tcp.State) {
			if state, _, err := s.actor.TCPState(fd); err != nil || state != want {
				s.Errorf("state %v, %v; want %v", state, err, want)
			}
		}
		in(tcp.SynSent)
		c, err := s.peer.Accept(s.options)
		s.no(err)
		in(tcp.Established)
		if local := s.addr(s.actor.LocalAddr(fd)); local != c.Remote {
			s.Errorf("the kernel's end is %v, the peer knows %v", local, c.Remote)
		}
	})
}

func TestPeerOfAnotherFamily(t *testing.T) {
	if _, err := (script{t}).netns().Peer(unix.AF_UNIX); !errors.Is(err, unix.EAFNOSUPPORT) {
		t.Errorf("a peer of Unix sockets: %v", err)
	}
}

// ACKs to a peer are immediate, unless they are not to be.
func TestPeerQuickACK(t *testing.T) {
	withPeer(t, func(s peerScript) {
		acked := func() (n int) {
			for range 10 {
				scene := s.connect()
				s.step(scene.Conn.FIN())
				rest, err := scene.Conn.Rest()
				s.no(err)
				n += len(rest)
				s.step(s.actor.CloseFD(scene.FD))
			}
			return n
		}
		if n := acked(); n != 10 {
			t.Errorf("%d of 10 FINs acknowledged at once", n)
		}
		s.no(s.ns.SetQuickACK(false))
		if n := acked(); n > 5 {
			t.Errorf("after SetQuickACK(false): %d of 10", n)
		}
		s.no(s.ns.SetQuickACK(true))
		if n := acked(); n != 10 {
			t.Errorf("after SetQuickACK(true): %d of 10", n)
		}
	})
}

func TestPeerLeavesNothingOpen(t *testing.T) {
	s := script{t}
	use := func() {
		ns := s.netns()
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			peer, err := ns.Peer(family)
			s.no(err)
			s.no(peer.Close())
		}
	}
	use()
	before := s.fds(os.Getpid())
	use()
	if after := s.fds(os.Getpid()); after != before+1 { // the netns
		t.Errorf("%d descriptors, before %d", after, before)
	}
}
