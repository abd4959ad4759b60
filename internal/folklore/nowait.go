// SPDX-License-Identifier: Apache-2.0

package folklore

import (
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

var lateFIN = Claim{
	Name:  "late-fin",
	Text:  "Without TIME_WAIT, a FIN that the peer sends again draws a RST",
	Given: "there is no TIME_WAIT (tcp_max_tw_buckets is 0)",
	Takes: 2 * time.Second,
	Why: prose(`The last ACK may be lost, and then the peer, in LAST_ACK, sends its FIN again. Where no socket of that connection is left,
		tcp_v4_rcv() finds none and answers with tcp_v4_send_reset(), which ends the peer's LAST_ACK; a program that still holds its descriptor finds ECONNRESET in SO_ERROR. A mini-socket in TIME_WAIT
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
		if answer.Flags&lab.RST != 0 && there == 0 {
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
		and goes to CLOSE at once: no FIN_WAIT, no TIME_WAIT. What was not yet sent or read is thrown away, and the peer, once it has read what
		came before, gets ECONNRESET. That is no way to avoid TIME_WAIT but a way to lose data.`),
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
