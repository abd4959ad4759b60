// SPDX-License-Identifier: Apache-2.0

package folklore

import (
	"errors"
	"os"
	"time"

	"afterfin/internal/lab"
)

var restart = Claim{
	Name:  "restart",
	Text:  "A FIN received again in TIME_WAIT is acknowledged, and 2MSL starts anew",
	Given: "the peer sends its FIN again",
	Takes: 86 * time.Second,
	Why: prose(`A FIN that comes again says that our last ACK was lost. tcp_timewait_state_process() (net/ipv4/tcp_minisocks.c) answers it
		and sets the timer back to TCP_TIMEWAIT_LEN (inet_twsk_reschedule()). An old segment is answered and starts it anew as well, and a bare
		ACK with the right numbers does so without an answer. So a peer that keeps sending keeps a TIME_WAIT alive.`),
	try: func(s *stage) judged {
		p, client := s.peer(), s.actor("client")
		names := []string{"alone", "fin_again", "bare_ack", "old_segment"}
		var scenes []*lab.Scene
		var waits []*wait
		for range names {
			sc, err := p.ConnectScene(client, lab.PeerOptions{})
			s.check(err)
			s.check(sc.CloseFirst(0))
			waits = append(waits, s.wait(sc.Local, sc.Changes[len(sc.Changes)-1].Step))
			scenes = append(scenes, sc)
		}
		s.did("a client closed %d connections first, to a peer that only this script plays", len(scenes))
		nominal := s.nominal(waits)
		after := nominal / 3
		s.sleep(after)
		acked := false
		if !s.control {
			s.did("after %v: to the first nothing, to the others a FIN again, a bare ACK, an old segment", after)
			s.rest(scenes[1]) // the answer to the first one
			s.ok(scenes[1].Conn.FINAgain())
			answer, err := scenes[1].Conn.Expect(lab.ACK, patience)
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				s.check(err)
				acked = answer.Ack == scenes[1].Conn.SndNxt
			}
			s.ok(scenes[2].Conn.Ack())
			s.ok(scenes[3].Conn.Stale(1))
		}
		s.ends2MSL(waits, nominal)
		verdict := Fails
		if anew := after + nominal - time.Second; acked && waits[1].length >= anew && waits[0].length < anew {
			verdict = Holds
		}
		_, _, missed := s.lengthsOf(waits)
		figures := []Figure{{"timer_ns", nominal}, {"after_ns", after}, {"acknowledged", acked}, {"ends_not_traced", missed}}
		for i, w := range waits {
			figures = append(figures, Figure{names[i] + "_ns", w.length})
		}
		return judged{Verdict: verdict, Figures: figures}
	},
}
