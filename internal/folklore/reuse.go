// SPDX-License-Identifier: Apache-2.0

package folklore

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/netns"
	"afterfin/internal/tcp"
)

var reuse = Claim{
	Name: "tw-reuse",
	Text: "tcp_tw_reuse with timestamps lets connect() take the port of a TIME_WAIT that is older than one second; " +
		"it is for clients only, and picks at random",
	Given: "tcp_timestamps is on",
	Takes: 8 * time.Second,
	Why: prose(`connect() asks tcp_twsk_unique() (net/ipv4/tcp_ipv4.c) about a TIME_WAIT in its way, which lets it go where its timestamps
		prove old segments old. Since 6.14 it must be tcp_tw_reuse_delay old, 1 s by default (19ce8cd30465, ca6a6f93867a); before, the clock of
		seconds must have gone on since, so that 50 ms may do. The default of tcp_tw_reuse is 2, for loopback alone. __inet_hash_connect()
		tries ports from a place on that a keyed hash and a counter give, those of one parity first, and takes the first that will do,
		whatever its age. A server needs none of it: tcp_timewait_state_process() makes
		way for a SYN that is newer, with tcp_tw_reuse 0 too.`),
	try: func(s *stage) judged {
		e := s.ends()
		var byDefault []int
		s.check(s.ns.Do(func() (err error) { byDefault, err = netns.Sysctl("net.ipv4.tcp_tw_reuse"); return err }))
		s.set("tcp_tw_reuse", "0")
		if s.control {
			s.set("tcp_timestamps", "0")
		}
		server := e.serverNeedsIt()
		// In the middle of a second of the kernel's clock, and not in the first, whose stamps are none to it.
		s.await("the middle of a second", func() bool {
			part := lab.Ticked() % time.Second
			return lab.Ticked() > time.Second && part > 400*time.Millisecond && part < 500*time.Millisecond
		})
		// One port after the other, in an order that is not that of any search.
		s.set("ip_local_port_range", "40000 40007")
		order := []int{3, 0, 6, 5, 1, 7, 2, 4}
		born := make(map[int]lab.Step)
		for _, i := range order {
			s.set("ip_local_reserved_ports", fmt.Sprintf("39999-%d,%d-40008", 40000+i-1, 40000+i+1))
			born[40000+i] = e.leave()
		}
		e.settle()
		s.set("ip_local_reserved_ports", "\n")
		s.did("a client closed %d connections first, from the %d ports there are", len(order), len(order))
		_, err := e.dial(e.at)
		without := errors.Is(err, unix.EADDRNOTAVAIL)
		s.set("tcp_tw_reuse", "1")
		first := taken{}
		oldest, n := 0, 0
		var refused time.Duration // how old the oldest was, at least, when connect() last found none
		for begin := lab.Mono(); lab.Mono()-begin < 2500*time.Millisecond && n == 0; {
			s.sleep(5 * time.Millisecond)
			age := lab.Mono() - born[40000+order[0]].After
			var ok bool
			if first, ok = e.retake(born, &oldest); ok {
				n = 1
			} else {
				refused = age
			}
		}
		if n > 0 {
			s.sleep(1500 * time.Millisecond) // now all are old enough
			for len(born) > 0 {
				if _, ok := e.retake(born, &oldest); !ok {
					s.fail("with %d of them left connect() finds none", len(born))
				}
				n++
			}
		}
		s.did("set tcp_tw_reuse to 1 and tried to connect until it worked, and went on until all were taken")
		j := judged{Verdict: Fails, Figures: []Figure{
			{"default", byDefault[0]}, {"with_tw_reuse_0_eaddrnotavail", without}, {"taken", n}, {"youngest_taken_ns", known(first.most)},
			{"taken_oldest_first", oldest == n && n > 0}, {"server_takes_syn_with_tw_reuse_0", server},
		}}
		switch {
		case !without || n != len(order) || oldest == n || !server:
		case first.most < time.Second: // as it was up to 6.13
			j.Verdict, j.Since = Changed, "6.14"
		case refused < 750*time.Millisecond: // which the clock of seconds would not have done
			s.fail("held up: the youngest one taken was %v to %v old, and how young it could have been was not seen; try again", first.least, first.most)
		default:
			j.Verdict = Holds
		}
		return j
	},
}

// taken is the age of a TIME_WAIT when connect() took its port: from the beginning of the close() that made it or
// from its end, to the connect().
type taken struct{ least, most time.Duration }

// retake connects, if a port is to be had. The connection stays, so that its port is not taken again. It counts whether
// the TIME_WAIT that it took was the oldest.
func (e *ends) retake(born map[int]lab.Step, oldest *int) (age taken, ok bool) {
	before := lab.Mono()
	c, err := e.dial(e.at)
	if errors.Is(err, unix.EADDRNOTAVAIL) {
		return taken{}, false
	}
	e.check(err)
	after := lab.Mono()
	at, _, err := e.client.LocalAddr(c)
	e.check(err)
	e.num(e.server.Accept(e.listener))
	mine := born[int(at.Port())]
	delete(born, int(at.Port()))
	age = taken{before - mine.After, after - mine.Before}
	for _, b := range born {
		if b.Before < mine.Before {
			return age, true
		}
	}
	*oldest++
	return age, true
}

// serverNeedsIt has a server close first and the same client port connect again, with tcp_tw_reuse 0.
func (e *ends) serverNeedsIt() (takes bool) {
	const port = 50000
	c, srv := e.pair(e.from(port))
	e.ok(e.server.CloseFD(srv))
	e.num(e.client.Read(c, 1))
	e.ok(e.client.CloseFD(c))
	e.settle()
	if n := e.count(tcp.TimeWait); n != 1 {
		e.fail("%d TIME_WAIT of a server that closed first", n)
	}
	e.did("a server closed first; the same port of the client connected again, with tcp_tw_reuse 0")
	fd, err := e.dial(e.at, e.from(port), func(fd int) error { // one that is not answered takes minutes to fail
		_, err := e.client.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 3000)
		return err
	})
	if err != nil {
		return false
	}
	e.reset(fd, e.num(e.server.Accept(e.listener)))
	return true
}
