// SPDX-License-Identifier: Apache-2.0

package folklore

import (
	"strconv"
	"time"

	"afterfin/internal/netns"
	"afterfin/internal/tcp"
)

var buckets = Claim{
	Name:  "max-buckets",
	Text:  "Above tcp_max_tw_buckets all TIME_WAIT are cleared at once",
	Given: "nothing else ends those that are there",
	Takes: 2 * time.Second,
	Why: prose(`inet_twsk_alloc() (net/ipv4/inet_timewait_sock.c) refuses a new mini-socket when there are tcp_max_tw_buckets, and tcp_time_wait()
		then closes that connection without TIME_WAIT and counts TCPTimeWaitOverflow; a log line there is no more. Those that are there stay
		until their timers run: to lower the limit clears none either.`),
	try: func(s *stage) judged {
		const limit, more = 20, 10
		e := s.ends()
		s.set("tcp_max_tw_buckets", strconv.Itoa(limit))
		s.set("tcp_tw_reuse", "0")
		for i := range limit {
			e.leave(e.from(uint16(50000 + i)))
		}
		e.settle()
		first := make(map[uint64]bool)
		for _, m := range s.sockets(tcp.TimeWait) {
			first[m.Cookie] = true
		}
		if len(first) != limit {
			s.fail("%d TIME_WAIT, wanted %d", len(first), limit)
		}
		before := e.overflows()
		for range more {
			e.leave()
		}
		s.did("a client closed %d connections first, with tcp_max_tw_buckets %d, and %d more", limit, limit, more)
		if s.control {
			for i := range limit {
				e.reset(e.pair(e.from(uint16(50000 + i))))
			}
			s.did("it then connected again from each of those ports, which ends their TIME_WAIT")
		}
		s.set("tcp_max_tw_buckets", "1")
		e.leave()
		e.settle()
		kept, added := 0, 0
		for _, m := range s.sockets(tcp.TimeWait) {
			if first[m.Cookie] {
				kept++
			} else {
				added++
			}
		}
		s.did("lowered it to 1, and closed one more")
		verdict := Fails
		if kept == 0 {
			verdict = Holds
		}
		return judged{Verdict: verdict, Figures: []Figure{
			{"limit", limit}, {"before", len(first)}, {"closed_after", more + 1}, {"kept", kept}, {"added", added}, {"refused", e.overflows() - before},
		}}
	},
}

func (s *stage) overflows() (n int) {
	s.check(s.ns.Do(func() error {
		count, err := netns.TimeWaitOverflows()
		n = int(count)
		return err
	}))
	return n
}
