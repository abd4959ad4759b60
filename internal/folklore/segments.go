// SPDX-License-Identifier: Apache-2.0

package folklore

import (
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

var oldSegments = Claim{
	Name: "old-segments",
	Text: "TIME_WAIT protects a new connection of the same addresses and ports from old segments; initial sequence numbers are random, " +
		"and an old segment is answered with an ACK and does no harm",
	Given: "the old segment is not in the window of the new connection, or has a timestamp",
	Takes: 3 * time.Second,
	Why: prose(`In TIME_WAIT tcp_timewait_state_process() answers an old segment with an ACK. A SYN makes way for a new connection only
		if it is newer than all that was before, and that connection is to start beyond it, at snd_nxt + 65537; up to 6.9 the kernel lost that
		number on the way. Elsewhere secure_tcp_seq() takes a keyed hash of the four numbers plus a clock. Then tcp_validate_incoming() drops, and acknowledges, what lies outside the window, and by
		its timestamp what is older (PAWS). Without timestamps an old segment that happens to fit into the window is taken for data: that is what
		remains where a TIME_WAIT is cut short.`),
	try: func(s *stage) judged {
		p, server := s.peer(), s.actor("server")
		listener := s.num(server.Socket(unix.AF_INET))
		at := on(p.Kernel().String() + ":8080")
		s.ok(server.Bind(listener, at))
		s.ok(server.Listen(listener, 64))
		sc, err := p.AcceptScene(server, listener, lab.PeerOptions{NoTimestamps: s.control})
		s.check(err)
		firstISN := sc.Conn.RcvNxt - 1

		s.check(sc.CloseFirst(0))
		s.rest(sc)
		s.ok(sc.Conn.Stale(100))
		inWait, err := sc.Conn.Next(patience)
		s.check(err)
		stays := s.count(tcp.TimeWait) == 1
		s.did("a server closed first; in its TIME_WAIT came an old segment")

		end := sc.Conn.RcvNxt
		sc, err = sc.Reopen(listener)
		s.check(err)
		beyond := sc.Conn.RcvNxt - 1 - end
		s.rest(sc)
		s.ok(sc.Conn.Stale(100))
		outside, err := sc.Conn.Next(patience)
		s.check(err)
		s.did("the peer connected again from the same port, and an old segment came, outside the window")
		fits := sc.Conn.Segment(lab.PSH | lab.ACK)
		fits.Payload, fits.TSVal = make([]byte, 100), fits.TSVal-60_000
		s.ok(s.sendAside(sc, fits))
		harm := s.readable(server, sc.FD)
		s.did("then one that fits into the window, %s", map[bool]string{false: "with a timestamp of a minute ago", true: "without a timestamp"}[s.control])
		whole := false
		if !harm {
			s.ok(sc.Conn.Data(10))
			whole = s.num(server.Read(sc.FD, 1000)) == 10
		}

		var isns []uint32
		for range 16 {
			c, err := p.Connect(at, lab.PeerOptions{})
			s.check(err)
			isns = append(isns, c.RcvNxt-1)
			s.num(server.Accept(listener))
		}
		s.did("the peer connected %d times more, from other ports", len(isns))
		scattered := scatter(isns)
		acked := inWait.Flags == lab.ACK && outside.Flags == lab.ACK
		verdict := Fails
		if acked && stays && !harm && whole && scattered {
			verdict = Holds
		}
		return judged{Verdict: verdict, Figures: []Figure{
			{"answer_in_time_wait", inWait.Flags.String()}, {"time_wait_stays", stays}, {"answer_outside_window", outside.Flags.String()},
			{"in_window_taken_for_data", harm}, {"data_after_that_whole", whole}, {"sequence_numbers_scattered", scattered},
			{"new_connection_starts_beyond", int(beyond)}, {"same_isn_again", sc.Conn.RcvNxt-1 == firstISN},
		}}
	},
}

// rest passes over what has come.
func (s *stage) rest(sc *lab.Scene) {
	_, err := sc.Conn.Rest()
	s.check(err)
}

// sendAside sends a segment that is none of the peer's stream, so that the peer's next one comes where it came.
func (s *stage) sendAside(sc *lab.Scene, segment lab.Segment) (lab.Step, error) {
	next := sc.Conn.SndNxt
	step, err := sc.Conn.Send(segment)
	sc.Conn.SndNxt = next
	return step, err
}

// readable tells whether there is something to read now.
func (s *stage) readable(a *lab.Actor, fd int) bool {
	got, _, err := a.Poll(fd, unix.POLLIN, 0)
	s.check(err)
	return got&unix.POLLIN != 0
}

// scatter tells whether numbers lie all over their range: of 16 random ones the odds are 1 in 67 million that a
// quarter of it has them all.
func scatter(numbers []uint32) bool {
	for _, from := range numbers {
		far := false
		for _, n := range numbers {
			far = far || n-from > 1<<30
		}
		if !far {
			return false
		}
	}
	return true
}
