// SPDX-License-Identifier: Apache-2.0

package folklore

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

var halfClose = Claim{
	Name:  "half-close",
	Text:  "In CLOSE_WAIT the passive side can still send all its data",
	Given: "one of the peers has only shut down its sending side (shutdown(SHUT_WR))",
	Takes: 3 * time.Second,
	Why: prose(`A FIN says that the peer sends no more, and not that it no longer reads: tcp_sendmsg() works in CLOSE_WAIT as in ESTABLISHED, and
		a peer that used shutdown(SHUT_WR) gets everything. The FIN of close() looks the same, but nobody is there to read: data that comes to such an
		orphan in FIN_WAIT2 is answered with a RST (tcp_rcv_state_process(), tcp_timewait_state_process()). The first write still
		succeeds, the next one fails with EPIPE, and what was sent is lost.`),
	try: func(s *stage) judged {
		const size, piece = 64 << 10, 1 << 10 // as much as fits into the least of buffers
		e := s.ends()
		shut := 0
		if !s.control {
			c, srv := e.pair()
			e.ok(e.client.Shutdown(c, unix.SHUT_WR))
			e.inCloseWait(srv)
			for sent := 0; sent < size; {
				n := e.num(e.server.Write(srv, piece))
				sent += n
				for n > 0 {
					got := e.num(e.client.Read(c, n))
					shut += got
					n -= got
				}
			}
			s.did("a server in CLOSE_WAIT wrote %d KiB to a client that had shut down its sending side", size>>10)
		}
		c, srv := e.pair()
		e.ok(e.client.CloseFD(c))
		e.inCloseWait(srv)
		first, _, err := e.server.Write(srv, 1000)
		s.check(err)
		e.gone(srv)
		_, _, err = e.server.Write(srv, 1000)
		refused := errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET)
		s.did("and twice 1000 bytes to one that had closed")
		verdict := Fails
		switch {
		case shut == size && refused:
			verdict = Depends
		case shut == size:
			verdict = Holds
		}
		return judged{Verdict: verdict, Figures: []Figure{
			{"delivered_after_shutdown_bytes", shut}, {"first_write_after_close_bytes", first}, {"next_write_fails", refused},
		}}
	},
}

// inCloseWait waits until the server's end is in CLOSE_WAIT.
func (e *ends) inCloseWait(srv int) {
	got, _, err := e.server.Poll(srv, unix.POLLRDHUP, patience)
	e.check(err)
	if got&unix.POLLRDHUP == 0 {
		e.fail("the peer's FIN did not come")
	}
}

// gone waits until the server's end is in CLOSE.
func (e *ends) gone(srv int) {
	e.await("a RST", func() bool {
		state, _, err := e.server.TCPState(srv)
		e.check(err)
		return state == tcp.Close
	})
}

var peerDies = Claim{
	Name:  "peer-dies",
	Text:  "A peer that ends abnormally leaves behind CLOSE_WAIT if a FIN comes, a dead descriptor if a RST comes, and ESTABLISHED if nothing comes",
	Given: "no keepalive asks whether the peer is still there",
	Takes: 6 * time.Second,
	Why: prose(`A process that is killed has its descriptors closed by the kernel (exit_files()), and a FIN is sent as by close(). A RST
		takes the socket to CLOSE (tcp_reset()) while the program goes on holding its descriptor: ss shows nothing then, and lsof a socket
		without state. A host that loses power or its network says nothing, and without a timer nothing ever happens: SO_KEEPALIVE, by
		default after two hours and eleven minutes, or data that nobody acknowledges, after some 15 minutes (tcp_retries2), would end it with ETIMEDOUT.`),
	try: func(s *stage) judged {
		e := s.ends()
		// By FIN.
		victim := s.actor("victim")
		c := s.num(victim.Socket(unix.AF_INET))
		s.ok(victim.Connect(c, e.at))
		byFIN := s.num(e.server.Accept(e.listener))
		s.check(victim.Kill())
		e.inCloseWait(byFIN)
		// By RST.
		c, byRST := e.pair()
		e.ok(e.client.SetLinger0(c))
		e.ok(e.client.CloseFD(c))
		e.gone(byRST)
		// By silence.
		p := s.peer()
		sc, err := p.ConnectScene(e.server, lab.PeerOptions{})
		s.check(err)
		bySilence := sc.FD
		if s.control {
			for _, o := range [][3]int{
				{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1},
				{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 1},
			} {
				e.ok(e.server.SetsockoptInt(bySilence, o[0], o[1], o[2]))
			}
		}
		s.did("of three peers of a server one was killed, one sent a RST, and one fell silent")
		s.sleep(4 * time.Second)
		s.did("waited 4 s, and looked at the server's descriptors")
		states := make(map[int]tcp.State)
		listed := make(map[uint64]bool)
		for _, x := range s.sockets(tcp.Established, tcp.CloseWait, tcp.Close) {
			listed[x.Inode] = true
		}
		shown := make(map[int]bool)
		for _, fd := range []int{byFIN, byRST, bySilence} {
			state, _, err := e.server.TCPState(fd)
			s.check(err)
			states[fd] = state
			inode, _, err := e.server.Inode(fd)
			s.check(err)
			shown[fd] = listed[inode]
		}
		verdict := Fails
		if states[byFIN] == tcp.CloseWait && states[byRST] == tcp.Close && !shown[byRST] && states[bySilence] == tcp.Established {
			verdict = Holds
		}
		return judged{Verdict: verdict, Figures: []Figure{
			{"by_fin", states[byFIN].String()}, {"by_rst", states[byRST].String()}, {"by_rst_listed", shown[byRST]}, {"by_silence", states[bySilence].String()},
		}}
	},
}
