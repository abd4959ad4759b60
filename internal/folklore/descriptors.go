// SPDX-License-Identifier: Apache-2.0

package folklore

import (
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/survey"
	"afterfin/internal/tcp"
)

var descriptors = Claim{
	Name:  "descriptors",
	Text:  "TIME_WAIT occupies file descriptors, and memory",
	Given: "the program has closed its descriptor (close(), not only shutdown())",
	Takes: 2 * time.Second,
	Why: prose(`A socket comes to TIME_WAIT after its program has closed it, and tcp_time_wait() then replaces it by a mini-socket,
		struct tcp_timewait_sock, which has no file, no inode and no buffers. What it does hold is a little memory and
		its port: on the side that connected from all that go to that destination, on the other from bind() without SO_REUSEADDR. Only who says shutdown() and goes on holding the descriptor has one open beside it, to a socket that is in CLOSE.`),
	try: func(s *stage) judged {
		const n = 50
		e := s.ends()
		before := s.descriptors(e.client)
		for range n {
			c, srv := e.pair()
			if s.control {
				e.ok(e.client.Shutdown(c, unix.SHUT_RDWR))
				e.follow(srv)
			} else {
				e.finish(c, srv)
			}
		}
		e.settle()
		held := s.descriptors(e.client) - before
		inodes, waits := 0, s.sockets(tcp.TimeWait)
		for _, m := range waits {
			if m.Inode != 0 {
				inodes++
			}
		}
		if len(waits) != n {
			s.fail("%d TIME_WAIT, wanted %d", len(waits), n)
		}
		s.did("a client closed %d connections first; its descriptors were counted before and after", n)
		verdict := Holds
		if held == 0 && inodes == 0 {
			verdict = Fails
		}
		sizes := survey.Slabs()
		return judged{Verdict: verdict, Figures: []Figure{
			{"time_waits", len(waits)}, {"descriptors", held}, {"inodes", inodes},
			{"minisocket_bytes", known(sizes["tw_sock_TCP"])}, {"socket_bytes", known(sizes["TCP"])},
		}}
	},
}

var emfile = Claim{
	Name:  "emfile",
	Text:  "CLOSE_WAIT occupies a descriptor, until accept() fails with EMFILE; LAST_ACK does not",
	Given: "LAST_ACK is reached by close(), and not by shutdown()",
	Takes: 3 * time.Second,
	Why: prose(`Nothing ends CLOSE_WAIT but the program: tcp_fin() only notes that the peer is through. Until close() the socket keeps its file, and
		each counts against RLIMIT_NOFILE (accept4() takes a descriptor with get_unused_fd_flags() before it takes a connection). close() goes to
		LAST_ACK (tcp_close_state()) and leaves an orphan, which has no file and goes when the peer acknowledges, or after tcp_orphan_retries.
		shutdown(SHUT_WR) goes to LAST_ACK too, and frees nothing.`),
	try: func(s *stage) judged {
		const room = 16
		e := s.ends()
		limit := e.leaveRoom(e.server, room)
		accepted, refused := 0, false
		for range 2 * room {
			c, err := e.dial(e.at)
			s.check(err)
			e.ok(e.client.CloseFD(c))
			fd, step, err := e.server.Accept(e.listener)
			if refused = step.Errno == unix.EMFILE; refused {
				break
			}
			s.check(err)
			accepted++
			if n := e.num(e.server.Read(fd, 1)); n != 0 {
				s.fail("read %d bytes", n)
			}
		}
		leaked := 0
		for _, x := range s.sockets(tcp.CloseWait) {
			if x.Inode != 0 {
				leaked++
			}
		}
		s.did("a server with RLIMIT_NOFILE %d, so with room for %d, accepted connections that the client closed, and closed none", limit, room)

		p, closer := s.peer(), s.actor("closer")
		before := s.descriptors(closer)
		const n = 5
		for range n {
			sc, err := p.ConnectScene(closer, lab.PeerOptions{})
			s.check(err)
			sc.HalfClose = s.control
			s.check(sc.CloseSecond())
		}
		lastACK := s.count(tcp.LastAck)
		if lastACK != n { // tcp_max_orphans, and the memory of TCP, are the host's
			s.fail("%d sockets in LAST_ACK, wanted %d", lastACK, n)
		}
		held := s.descriptors(closer) - before
		s.did("another program closed %d connections second, to a peer that acknowledges nothing: they stay in LAST_ACK", n)
		verdict := Fails
		if refused && leaked == room && accepted == room && held == 0 {
			verdict = Holds
		}
		return judged{Verdict: verdict, Figures: []Figure{
			{"room", room}, {"close_wait_with_descriptor", leaked}, {"emfile", refused}, {"last_ack", lastACK}, {"last_ack_descriptors", held},
		}}
	},
}

// leaveRoom limits an actor to n more descriptors than it has, and gives the limit.
func (e *ends) leaveRoom(a *lab.Actor, n int) (limit uint64) {
	entries, err := os.ReadDir("/proc/" + strconv.Itoa(a.PID()) + "/fd")
	e.check(err)
	open := make(map[uint64]bool)
	for _, entry := range entries {
		fd, err := strconv.ParseUint(entry.Name(), 10, 64)
		e.check(err)
		open[fd] = true
	}
	for ; n > 0 || open[limit]; limit++ { // RLIMIT_NOFILE is one above the highest number
		if !open[limit] {
			n--
		}
	}
	e.check(unix.Prlimit(a.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: limit}, nil))
	return limit
}

var skippedClose = Claim{
	Name:  "skipped-close",
	Text:  "A program that skips close() on an exception's path collects CLOSE_WAIT",
	Given: "the path of the exception does not close",
	Takes: 2 * time.Second,
	Why: prose(`The client's FIN takes the server's end to CLOSE_WAIT by itself (tcp_fin()), and only close() takes it on from there
		(tcp_close_state()). A handler that leaves by an exception, before its close(), leaves one at each, and no timer of the kernel ends
		it. A keepalive, where the program has it on, draws a RST once the client's end is gone, and turns it into a dead descriptor. It shows in what the program does on its failing requests, and not in the rest.`),
	try: func(s *stage) judged {
		const requests, every = 30, 3
		e := s.ends()
		exceptions := 0
		for i := range requests {
			// What nc does: connect, send a line, close.
			c, err := e.dial(e.at)
			s.check(err)
			e.num(e.client.Write(c, 10))
			e.ok(e.client.CloseFD(c))
			// The loop of a server with select().
			e.awaitReadable(e.listener)
			srv := e.num(e.server.Accept(e.listener))
			e.awaitReadable(srv)
			e.num(e.server.Read(srv, 100))
			if i%every == 0 {
				exceptions++
				if !s.control {
					continue // the exception: what comes below is skipped
				}
			}
			e.ok(e.server.CloseFD(srv))
		}
		s.did("a server waited for each of %d requests as with select() and read it; every third one raised an exception", requests)
		left := s.count(tcp.CloseWait)
		verdict := Fails
		if left == exceptions {
			verdict = Holds
		}
		return judged{Verdict: verdict, Figures: []Figure{{"requests", requests}, {"exceptions", exceptions}, {"close_wait", left}}}
	},
}

// awaitReadable waits until one of the server's sockets is.
func (e *ends) awaitReadable(fd int) {
	got, _, err := e.server.Poll(fd, unix.POLLIN, patience)
	e.check(err)
	if got&unix.POLLIN == 0 {
		e.fail("fd %d: nothing to read", fd)
	}
}
