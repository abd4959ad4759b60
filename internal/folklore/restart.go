// SPDX-License-Identifier: Apache-2.0

package folklore

import (
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
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
			waits = append(waits, s.wait(sc.Local, func() lab.Step {
				s.check(sc.CloseFirst(0))
				return sc.Changes[len(sc.Changes)-1].Step
			}))
			scenes = append(scenes, sc)
		}
		s.did("a client closed %d connections first, to a peer that only this script plays", len(scenes))
		nominal := waits[0].timer
		after := nominal / 3
		s.sleep(after)
		acked := false
		if !s.control {
			s.did("after %v: to the first nothing, to the others a FIN again, a bare ACK, an old segment", after)
			s.ok(scenes[1].Conn.FINAgain())
			_, err := scenes[1].Conn.Expect(lab.ACK, patience)
			s.check(err)
			acked = true
			s.ok(scenes[2].Conn.Ack())
			s.ok(scenes[3].Conn.Stale(1))
		}
		s.ends2MSL(waits)
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

var lateFIN = Claim{
	Name:  "late-fin",
	Text:  "Without TIME_WAIT, a FIN that the peer sends again draws a RST",
	Given: "there is no TIME_WAIT (tcp_max_tw_buckets is 0)",
	Takes: 2 * time.Second,
	Why: prose(`The last ACK may be lost, and then the peer, in LAST_ACK, sends its FIN again. Where no socket of that connection is left,
		tcp_v4_rcv() finds none and answers with tcp_v4_send_reset(): an end in order turns into ECONNRESET at the peer. A mini-socket in TIME_WAIT
		is there to send that ACK again (tcp_timewait_state_process(), TCP_TW_ACK).`),
	try: func(s *stage) judged {
		if !s.control {
			s.set("tcp_max_tw_buckets", "0")
		}
		p, client := s.peer(), s.actor("client")
		sc, err := p.ConnectScene(client, lab.PeerOptions{})
		s.check(err)
		s.check(sc.CloseFirstOneSegment())
		_, err = sc.Conn.Expect(lab.ACK, patience) // the last one
		s.check(err)
		there := s.count(tcp.TimeWait)
		s.did("a client closed first; its last ACK is taken for lost, and the peer sent its FIN again")
		s.ok(sc.Conn.FINAgain())
		answer, err := sc.Conn.Next(patience)
		s.check(err)
		verdict := Fails
		if answer.Flags&lab.RST != 0 {
			verdict = Holds
		}
		return judged{Verdict: verdict, Figures: []Figure{{"time_waits", there}, {"answer", answer.Flags.String()}}}
	},
}

var linger = Claim{
	Name:  "linger",
	Text:  "close() with SO_LINGER 0 sends a RST and leaves no TIME_WAIT",
	Given: "SO_LINGER is set to 0 s",
	Takes: 2 * time.Second,
	Why: prose(`With SO_LINGER on and 0 s, __tcp_close() (net/ipv4/tcp.c) does not send a FIN but calls tcp_disconnect(), which sends a RST
		and goes to CLOSE at once: no FIN_WAIT, no TIME_WAIT. What was not yet sent or read is thrown away, and the peer's next read() fails
		with ECONNRESET. That is no way to avoid TIME_WAIT but a way to lose data.`),
	try: func(s *stage) judged {
		const n = 10
		e := s.ends()
		resets := 0
		for range n {
			c, srv := e.pair()
			if !s.control {
				e.ok(e.client.SetLinger0(c))
			}
			e.ok(e.client.CloseFD(c))
			_, step, err := e.server.Read(srv, 1)
			if step.Errno == unix.ECONNRESET {
				resets++
			} else {
				s.check(err)
			}
			e.ok(e.server.CloseFD(srv))
		}
		e.settle()
		left := s.count(tcp.TimeWait)
		s.did("a client closed %d connections first, and the server read", n)
		verdict := Fails
		if resets == n && left == 0 {
			verdict = Holds
		}
		return judged{Verdict: verdict, Figures: []Figure{{"connections", n}, {"read_econnreset", resets}, {"time_waits", left}}}
	},
}
