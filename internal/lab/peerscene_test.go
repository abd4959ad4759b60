// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"testing"
	"time"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

// changed fails unless the scene tells of these states and of steps in order.
func (s peerScript) changed(scene *lab.Scene, states ...tcp.State) {
	s.Helper()
	if len(scene.Changes) != len(states)-1 {
		s.Fatalf("changes %v", scene.Changes)
	}
	var last time.Duration
	for i, c := range scene.Changes {
		s.step(c.Step, nil)
		if c.From != states[i] || c.To != states[i+1] || c.Before < last {
			s.Errorf("change %d: %v to %v at %v, after %v", i, c.From, c.To, c.Before, last)
		}
		last = c.Before
	}
}

func TestPeerCloseFirst(t *testing.T) {
	withPeer(t, func(s peerScript) {
		for _, half := range []bool{false, true} {
			scene := s.connect()
			scene.HalfClose = half
			s.no(scene.CloseHalfway())
			s.is(scene, tcp.FinWait2, !half)
			s.step(scene.Conn.FIN())
			s.expect(scene, lab.ACK)
			s.timeWait(scene)
			s.quiet(scene)

			scene = s.accept()
			scene.HalfClose = half
			const gap = 50 * time.Millisecond
			s.no(scene.CloseFirst(gap))
			s.timeWait(scene)
			s.changed(scene, tcp.Established, tcp.FinWait1, tcp.FinWait2, tcp.TimeWait)
			if between := scene.Changes[2].Before - scene.Changes[1].After; between < gap {
				s.Errorf("gap %v", between)
			}

			scene = s.connect()
			scene.HalfClose = half
			s.no(scene.CloseFirstOneSegment())
			s.timeWait(scene)
			s.changed(scene, tcp.Established, tcp.FinWait1, tcp.FinWait2, tcp.TimeWait)
		}
	})
}

// A FIN that comes again is acknowledged again, and TIME_WAIT begins anew.
func TestPeerFINAgainRestartsTimeWait(t *testing.T) {
	withPeer(t, func(s peerScript) {
		scene := s.connect()
		s.no(scene.CloseFirst(0))
		s.expect(scene, lab.ACK)
		s.restarts(scene, scene.Conn.FINAgain, true)
		s.restarts(scene, scene.Conn.FINAgain, true)
		s.quiet(scene)
	})
}

// restarts does a step that begins TIME_WAIT anew; the kernel answers or not.
func (s peerScript) restarts(scene *lab.Scene, do func() (lab.Step, error), answers bool) {
	s.Helper()
	const length = 60 * time.Second
	for s.timeWait(scene).left > length-60*time.Millisecond {
		time.Sleep(time.Millisecond) // until a restart can be told from none
	}
	step := s.step(do())
	if answers {
		if r := s.expect(scene, lab.ACK); r.Ack != scene.Conn.SndNxt || r.Seq != scene.Conn.RcvNxt {
			s.Errorf("the answer is %v; want seq %d ack %d", r.Segment, scene.Conn.RcvNxt, scene.Conn.SndNxt)
		}
	}
	left := s.timeWait(scene).left
	// The kernel says it in 10 ms and counts from a jiffy: 20 ms too early at most.
	if ends := lab.Mono() + left; ends < step.Before+length-30*time.Millisecond {
		s.Errorf("TIME_WAIT ends %v after the step", ends-step.Before)
	}
}

// Old data is acknowledged, a bare old ACK as well, a good one is not; TIME_WAIT
// begins anew each time.
func TestPeerStaleSegmentsRestartTimeWait(t *testing.T) {
	withPeer(t, func(s peerScript) {
		scene := s.accept()
		s.no(scene.CloseFirst(0))
		s.expect(scene, lab.ACK)
		s.restarts(scene, func() (lab.Step, error) { return scene.Conn.Stale(1) }, true)
		s.restarts(scene, func() (lab.Step, error) { return scene.Conn.Stale(0) }, true)
		s.restarts(scene, scene.Conn.Ack, false)
		s.quiet(scene)
	})
}

func TestPeerCloseBoth(t *testing.T) {
	withPeer(t, func(s peerScript) {
		scene := s.connect()
		// As CloseBoth, with a look before the last ACK.
		s.step(s.actor.CloseFD(scene.FD))
		s.step(scene.Conn.FIN())
		s.is(scene, tcp.Closing, false)
		s.expect(scene, lab.ACK)
		s.step(scene.Conn.Ack())
		s.timeWait(scene)

		scene = s.accept()
		s.no(scene.CloseBoth())
		s.timeWait(scene)
		s.changed(scene, tcp.Established, tcp.FinWait1, tcp.Closing, tcp.TimeWait)
	})
}

// The kernel sends its FIN until that is acknowledged.
func TestPeerCloseUnanswered(t *testing.T) {
	withPeer(t, func(s peerScript) {
		scene := s.connect()
		s.no(scene.CloseUnanswered())
		after := lab.Mono()
		again := s.expect(scene, lab.FIN|lab.ACK)
		if again.Seq != scene.Conn.RcvNxt-1 || again.At <= scene.Changes[0].After {
			t.Errorf("%v came again at %v, after %v", again.Segment, again.At, after)
		}
		s.is(scene, tcp.FinWait1, false)
		s.step(scene.Conn.Ack())
		s.is(scene, tcp.FinWait2, true)
	})
}

// Data to an orphan in FIN_WAIT2 is reset, and ends it.
func TestPeerDataToOrphan(t *testing.T) {
	withPeer(t, func(s peerScript) {
		scene := s.connect()
		s.no(scene.CloseHalfway())
		s.is(scene, tcp.FinWait2, true)
		s.step(scene.Conn.Data(1))
		s.expect(scene, lab.RST)
		s.gone(scene)
		s.changed(scene, tcp.Established, tcp.FinWait1, tcp.FinWait2)
	})
}

func TestPeerCloseSecond(t *testing.T) {
	withPeer(t, func(s peerScript) {
		for _, half := range []bool{false, true} {
			scene := s.accept()
			scene.HalfClose = half
			s.no(scene.CloseSecond())
			s.expect(scene, lab.FIN|lab.ACK) // again
			s.is(scene, tcp.LastAck, false)
			s.no(scene.Play(scene.Conn.Ack, tcp.LastAck, tcp.Close))
			s.gone(scene)
			s.changed(scene, tcp.Established, tcp.CloseWait, tcp.LastAck, tcp.Close)
		}
	})
}

// A RST of exactly the right sequence number ends TIME_WAIT, if RFC 1337 is not
// followed.
func TestPeerRSTEndsTimeWait(t *testing.T) {
	withPeer(t, func(s peerScript) {
		for _, rfc1337 := range []string{"0", "1"} {
			s.no(s.ns.SetSysctl("net.ipv4.tcp_rfc1337", rfc1337))
			scene := s.connect()
			s.no(scene.CloseFirst(0))
			s.expect(scene, lab.ACK)
			s.step(scene.Conn.RST(scene.Conn.SndNxt + 1))
			s.step(scene.Conn.RST(scene.Conn.SndNxt - 1))
			s.restarts(scene, scene.Conn.FINAgain, true) // it is there
			s.step(scene.Conn.RST(scene.Conn.SndNxt))
			if rfc1337 == "0" {
				s.gone(scene)
			} else {
				s.restarts(scene, scene.Conn.FINAgain, true)
			}
			s.quiet(scene)
		}
	})
}

func TestPeerReopen(t *testing.T) {
	withPeer(t, func(s peerScript) {
		old := s.accept()
		s.no(old.CloseFirst(0))
		s.expect(old, lab.ACK)
		// One that could be old itself is not good enough.
		syn := old.Conn.Segment(lab.SYN)
		syn.Seq -= 1000
		syn.TSVal -= 60_000
		s.step(old.Conn.Send(syn))
		s.expect(old, lab.ACK)
		s.timeWait(old)

		next, err := old.Reopen(s.listener)
		s.no(err)
		s.changed(old, tcp.Established, tcp.FinWait1, tcp.FinWait2, tcp.TimeWait, tcp.Close)
		s.is(next, tcp.Established, false)
		s.step(next.Conn.Data(3))
		if n := s.num(s.actor.Read(next.FD, 10)); n != 3 {
			t.Errorf("read %d of the new connection", n)
		}
		s.no(next.CloseFirst(0))
		s.timeWait(next)
	})
}
