// SPDX-License-Identifier: Apache-2.0

package folklore

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/tcp"
)

var rebind = Claim{
	Name: "rebind",
	Text: "SO_REUSEADDR lets a server bind again over TIME_WAIT at once, SO_REUSEPORT alone does not; " +
		"a port that is listened on needs it on both sockets; a client may bind and connect over a TIME_WAIT",
	Given: "the earlier listener had set options too",
	Takes: 4 * time.Second,
	Why: prose(`A mini-socket keeps the options of its socket (tw_reuse, tw_reuseport), and bind() asks both sides (inet_csk_bind_conflict(),
		net/ipv4/inet_connection_sock.c): two with SO_REUSEADDR go together while neither listens, two with SO_REUSEPORT if they are of the same
		user, which is not asked of a TIME_WAIT. So the connection that is in TIME_WAIT now must have had the option, as a rule from its listener; set
		only by the program that starts again, it is too late. Over a listener it takes SO_REUSEPORT on both. A client with SO_REUSEADDR gets its port back by bind(), and connect() asks tcp_twsk_unique(),
		which lets a client that has timestamps take it.`),
	try: func(s *stage) judged {
		e := s.ends()
		olds := bindOptions
		if s.control {
			olds = bindOptions[:1]
		}
		overWait, overListener := []string{}, []string{}
		port := uint16(9000)
		for _, old := range olds {
			for _, next := range bindOptions {
				port++
				if e.rebinds(port, old, next, false) {
					overWait = append(overWait, fmt.Sprintf("%s over %s", next.name, old.name))
				}
				port++
				if e.rebinds(port, old, next, true) {
					overListener = append(overListener, fmt.Sprintf("%s over %s", next.name, old.name))
				}
			}
		}
		s.did("tried bind() and listen() over a TIME_WAIT of an earlier listener and over one that still listens, each with none, " +
			"one or both options on either side")
		e.leave(e.from(50000))
		c, err := e.dial(e.at, e.from(50000))
		client := err == nil
		if client {
			e.reset(c, e.num(e.server.Accept(e.listener)))
		}
		s.did("a client closed first, and connected again from the same port, with SO_REUSEADDR")
		verdict := Fails
		listened := slices.Contains(overListener, "port over port") && !slices.Contains(overListener, "addr over addr")
		switch whatever := slices.Contains(overWait, "addr over none"); {
		case !client || !listened:
		case whatever && !slices.Contains(overWait, "port over port"):
			verdict = Holds
		case !whatever && slices.Contains(overWait, "addr over addr"):
			verdict = Depends
		}
		return judged{Verdict: verdict, Figures: []Figure{
			{"binds_over_time_wait", overWait}, {"binds_over_listener", overListener}, {"client_connects_over_time_wait", client},
		}}
	},
}

// bindOption is what a listener has set.
type bindOption struct {
	name       string
	addr, port bool
}

var bindOptions = []bindOption{{"none", false, false}, {"addr", true, false}, {"port", false, true}, {"both", true, true}}

// rebinds has a server bind and listen on a port with options, after an earlier one with others: that one
// listens on, or is closed and has left a TIME_WAIT.
func (e *ends) rebinds(port uint16, old, next bindOption, listens bool) (works bool) {
	earlier, err := e.bind(port, old)
	e.check(err)
	if !listens {
		c, err := e.dial(on("127.0.0.1:" + strconv.Itoa(int(port))))
		e.check(err)
		srv := e.num(e.server.Accept(earlier))
		e.ok(e.server.CloseFD(srv)) // first
		e.num(e.client.Read(c, 1))
		e.ok(e.client.CloseFD(c))
		e.ok(e.server.CloseFD(earlier))
		e.settle()
		left := 0
		for _, m := range e.sockets(tcp.TimeWait) {
			if m.Tuple.Local.Port() == port {
				left++
			}
		}
		if left != 1 {
			e.fail("%d TIME_WAIT on port %d, wanted one", left, port)
		}
	}
	later, err := e.bind(port, next)
	if err == nil {
		e.ok(e.server.CloseFD(later))
	} else if !errors.Is(err, unix.EADDRINUSE) {
		e.check(err)
	}
	if listens {
		e.ok(e.server.CloseFD(earlier))
	}
	return err == nil
}

// bind gives a listener on a port, or the error of bind() or listen().
func (e *ends) bind(port uint16, o bindOption) (fd int, err error) {
	fd = e.num(e.server.Socket(unix.AF_INET))
	if o.addr {
		e.ok(e.server.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	}
	if o.port {
		e.ok(e.server.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	}
	if _, err = e.server.Bind(fd, on("127.0.0.1:"+strconv.Itoa(int(port)))); err == nil {
		_, err = e.server.Listen(fd, 8)
	}
	if err != nil {
		e.ok(e.server.CloseFD(fd))
		return -1, err
	}
	return fd, nil
}
