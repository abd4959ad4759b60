// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/leak"
	"afterfin/internal/netns"
	"afterfin/internal/survey"
	"afterfin/internal/tcp"
)

// ageScene is a connection whose client end closes first: srv keeps its end.
type ageScene struct {
	*scene
	client, srv   *lab.Actor
	atClient, end *end
	sent, arrived time.Duration // the FIN, not before and not after
}

func (s *ageScene) write(a *lab.Actor, e *end) { s.Helper(); num[int](s.scene)(a.Write(e.fd, 100)) }
func (s *ageScene) read(a *lab.Actor, e *end)  { s.Helper(); num[int](s.scene)(a.Read(e.fd, 1000)) }

// fin closes the client's direction and waits until the server's end knows.
func (s *ageScene) fin() {
	s.Helper()
	s.sent = s.step(s.client.Shutdown(s.atClient.fd, unix.SHUT_WR)).Before
	_, step, err := s.srv.Poll(s.end.fd, unix.POLLRDHUP, -1)
	s.arrived = s.step(step, err).After
}

// idle lets time pass: the age is what is measured.
func idle(d time.Duration) { time.Sleep(d) }

const (
	aWhile   = 100 * time.Millisecond
	aLongOne = 500 * time.Millisecond // longer than loopback's retransmission timeout
)

// ageScenes are the cases in which the kernel's own times mean different things.
var ageScenes = map[string]struct {
	play  func(*ageScene)
	exact bool // the kernel's times leave no doubt
}{
	"idle": {func(s *ageScene) {
		idle(aWhile)
		s.fin()
	}, true},
	"FIN with data": {func(s *ageScene) {
		idle(aWhile)
		s.step(s.client.SetsockoptInt(s.atClient.fd, unix.IPPROTO_TCP, unix.TCP_CORK, 1))
		s.write(s.client, s.atClient)
		s.fin()
	}, true},
	"unread data before": {func(s *ageScene) {
		s.write(s.client, s.atClient)
		idle(aWhile)
		s.fin()
	}, true},
	"exchange, then idle": {func(s *ageScene) {
		s.write(s.srv, s.end)
		s.read(s.client, s.atClient)
		s.write(s.client, s.atClient)
		s.read(s.srv, s.end)
		idle(aLongOne)
		s.fin()
	}, true},
	"sent just before": {func(s *ageScene) {
		idle(aWhile)
		s.write(s.srv, s.end)
		s.fin()
	}, false},
	"sent after": {func(s *ageScene) {
		idle(aWhile)
		s.fin()
		idle(aWhile)
		s.write(s.srv, s.end)
	}, false},
	// The peer takes 40 ms to acknowledge: the ACK is younger than what it answers, and
	// that is younger than the FIN.
	"sent after, answered late": {func(s *ageScene) {
		for range 20 { // with this much talk, either side delays its ACKs
			s.write(s.client, s.atClient)
			s.read(s.srv, s.end)
			s.write(s.srv, s.end)
			s.read(s.client, s.atClient)
		}
		idle(aWhile)
		s.fin()
		idle(aWhile)
		s.write(s.srv, s.end)
	}, false},
	"keepalive": {func(s *ageScene) {
		s.step(s.srv.SetsockoptInt(s.end.fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1))
		s.step(s.srv.SetsockoptInt(s.end.fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1))
		s.step(s.srv.SetsockoptInt(s.end.fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1))
		s.fin()
		idle(1300 * time.Millisecond) // a probe and its answer
	}, false},
}

// TestLeakAges: the bounds of an age contain the truth, with nothing added to them, and
// where the kernel's times leave no doubt they are narrow.
func TestLeakAges(t *testing.T) {
	for name, c := range ageScenes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &ageScene{scene: &scene{T: t, begin: lab.Mono(), ns: newNetNS(t), family: families[0], sock: make(map[uint64]*expected)}}
			if name == "sent after, answered late" {
				s.must(s.ns.SetQuickACK(false))
			}
			s.client, s.srv = s.actor("client"), s.actor("server")
			_, s.atClient, s.end = s.pair(s.client, s.srv)
			c.play(s)
			idle(aWhile)
			l, now := s.look()
			least, most := now-s.arrived, now-s.sent
			if l.Age.Min > most || l.Age.Max < least {
				t.Errorf("%v to %v (%v), but it is %v to %v; %+v", l.Age.Min, l.Age.Max, l.Age.Quality, least, most, l.Info)
			}
			if exact := l.Age.Quality == leak.Exact; exact != c.exact {
				t.Errorf("%v, want exact: %v; %+v", l.Age.Quality, c.exact, l.Info)
			}
			if width := l.Age.Max - l.Age.Min; c.exact && width > 2*jiffy(t)+l.Before-l.After {
				t.Errorf("%v to %v is %v wide", l.Age.Min, l.Age.Max, width)
			}
		})
	}
}

// look finds the server's end, as leaks would, and says when.
func (s *ageScene) look() (leak.Leak, time.Duration) {
	s.Helper()
	found, err := survey.Look(survey.Config{State: tcp.CloseWait, NetNS: netns.NS{Inode: s.ns.Inode(), Path: s.ns.Path()}})
	s.must(err)
	for _, l := range leak.Judge(&found.Found, tcp.CloseWait, 0) {
		if l.Cookie == s.end.cookie {
			return l, found.At
		}
	}
	s.Fatal("the socket is not in CLOSE_WAIT")
	return leak.Leak{}, 0
}
