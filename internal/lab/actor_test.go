// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

func (s script) state(a *lab.Actor, fd int, want tcp.State) {
	s.Helper()
	state, step, err := a.TCPState(fd)
	s.step(step, err)
	if state != want {
		s.Errorf("%s fd %d is in %v, want %v", a.Name(), fd, state, want)
	}
}

func TestConnection(t *testing.T) {
	for _, c := range []struct {
		name     string
		listen   netip.AddrPort
		family   int
		host     string // to which the client connects; "" is the listener's
		plain    bool
		protocol int
	}{
		{name: "IPv4", listen: loopback4, family: unix.AF_INET},
		{name: "accept(2)", listen: loopback4, family: unix.AF_INET, plain: true},
		{name: "IPv6", listen: loopback6, family: unix.AF_INET6},
		{name: "v4-mapped client", listen: loopback4, family: unix.AF_INET6},
		{name: "v4-mapped server", listen: netip.MustParseAddrPort("[::]:0"), family: unix.AF_INET, host: "127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := script{t}
			ns := s.netns()
			client, server := s.start(ns, "client"), s.start(ns, "server")
			listener, at := s.listen(server, c.listen, 8)
			s.state(server, listener, tcp.Listen)
			if c.host != "" {
				at = netip.AddrPortFrom(netip.MustParseAddr(c.host), at.Port())
			}
			fd := s.num(client.Socket(c.family))
			connected := s.step(client.Connect(fd, at))
			accept := server.Accept
			if c.plain {
				accept = server.AcceptPlain
			}
			conn, accepted, err := accept(listener)
			s.step(accepted, err)
			if accepted.Before < connected.Before || accepted.After > lab.Mono() {
				t.Errorf("accept %+v, connect %+v, now %v", accepted, connected, lab.Mono())
			}
			if got := s.addr(client.RemoteAddr(fd)); got != at {
				t.Errorf("client's remote is %v, want %v", got, at)
			}
			if got, want := s.addr(server.RemoteAddr(conn)), s.addr(client.LocalAddr(fd)); got != want {
				t.Errorf("server's remote is %v, client's local %v", got, want)
			}
			if s.id(client.Cookie(fd)) == s.id(server.Cookie(conn)) {
				t.Error("both ends have the same cookie")
			}
			link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", server.PID(), conn))
			s.no(err)
			if want := fmt.Sprintf("socket:[%d]", s.id(server.Inode(conn))); link != want {
				t.Errorf("fd %d of pid %d is %s, want %s", conn, server.PID(), link, want)
			}

			if n := s.num(client.Write(fd, 1000)); n != 1000 {
				t.Errorf("wrote %d", n)
			}
			s.poll(server, conn, unix.POLLIN)
			if n := s.num(server.Read(conn, 4000)); n != 1000 {
				t.Errorf("read %d", n)
			}
			s.step(client.CloseFD(fd))
			s.poll(server, conn, unix.POLLRDHUP)
			s.state(server, conn, tcp.CloseWait)
			if n := s.num(server.Read(conn, 1)); n != 0 {
				t.Errorf("read %d after the end", n)
			}
			s.step(server.Shutdown(conn, unix.SHUT_WR))
			s.step(server.CloseFD(conn))
		})
	}
}

func TestErrnoOfFailedCalls(t *testing.T) {
	s := script{t}
	ns := s.netns()
	a, server := s.start(ns, "a"), s.start(ns, "server")
	listener, at := s.listen(server, loopback4, 8)
	fd := s.num(a.Socket(unix.AF_INET))
	wrong := func(want unix.Errno) func(step lab.Step, err error) {
		return func(step lab.Step, err error) {
			t.Helper()
			if !errors.Is(err, want) || step.Errno != want || step.Before <= 0 || step.After < step.Before {
				t.Errorf("%+v, %v; want %v", step, err, want)
			}
		}
	}
	wrong(unix.ECONNREFUSED)(a.Connect(fd, netip.MustParseAddrPort("127.0.0.1:1")))
	wrong(unix.EBADF)(a.CloseFD(999))
	wrong(unix.EBADF)(a.Connect(999, at))
	wrong(unix.EADDRINUSE)(a.Bind(fd, at))
	wrong(unix.EADDRNOTAVAIL)(a.Bind(fd, netip.MustParseAddrPort("192.0.2.1:0")))
	_, step, err := a.SocketProto(unix.AF_INET, unix.IPPROTO_UDP)
	wrong(unix.EPROTONOSUPPORT)(step, err)
	wrong(unix.EINPROGRESS)(a.Connect(s.num(a.Socket(unix.AF_INET, unix.SOCK_NONBLOCK)), at))
	s.step(server.CloseFD(s.num(server.Accept(listener))))

	// The one port of the range is taken by the first connection.
	s.no(ns.SetSysctl("net.ipv4.ip_local_port_range", "40000 40000"))
	s.step(a.Connect(fd, at))
	second := s.num(a.Socket(unix.AF_INET))
	wrong(unix.EADDRNOTAVAIL)(a.Connect(second, at))

	// A reset connection, and writing to it.
	conn := s.num(server.Accept(listener))
	s.step(server.SetLinger0(conn))
	s.step(server.CloseFD(conn))
	s.poll(a, fd, unix.POLLHUP)
	_, step, err = a.Read(fd, 1)
	wrong(unix.ECONNRESET)(step, err)
	_, step, err = a.Write(fd, 1)
	wrong(unix.EPIPE)(step, err)
	s.state(a, fd, tcp.Close)

	// Without the blocking.
	s.step(server.SetNonblock(listener, true))
	_, step, err = server.Accept(listener)
	wrong(unix.EAGAIN)(step, err)
	s.step(server.SetsockoptInt(listener, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	if got := s.pollNow(server, listener); got != 0 {
		t.Errorf("poll of an idle listener gave %#x", got)
	}
}

func (s script) pollNow(a *lab.Actor, fd int) int16 {
	s.Helper()
	got, step, err := a.Poll(fd, unix.POLLIN|unix.POLLRDHUP, 0)
	s.step(step, err)
	return got
}

func TestMPTCPSocket(t *testing.T) {
	s := script{t}
	a := s.start(s.netns(), "a")
	fd, step, err := a.SocketProto(unix.AF_INET, unix.IPPROTO_MPTCP)
	if _, missing := os.Stat("/proc/sys/net/mptcp"); missing != nil {
		if !errors.Is(err, unix.EPROTONOSUPPORT) {
			t.Errorf("without MPTCP in the kernel: %v", err)
		}
		return
	}
	s.step(step, err)
	s.step(a.Bind(fd, loopback4))
	s.step(a.Listen(fd, 1))
}

func TestDisconnect(t *testing.T) {
	s := script{t}
	ns := s.netns()
	a, b := s.start(ns, "a"), s.start(ns, "b")
	fd, peer := s.pair(a, b)
	s.step(a.Disconnect(fd))
	s.state(a, fd, tcp.Close)
	s.poll(b, peer, unix.POLLHUP)
}

func TestProcessIsWhatItSays(t *testing.T) {
	s := script{t}
	ns := s.netns()
	a := s.start(ns, "fifteen-letters")
	thread, err := a.OnThread("worker")
	s.no(err)
	if again, err := a.OnThread("worker"); err != nil || again != thread {
		t.Errorf("worker again is %p, %v; want %p", again, err, thread)
	}
	if thread.TID() == a.PID() || a.TID() != a.PID() {
		t.Errorf("pid %d, its leader %d, its thread %d", a.PID(), a.TID(), thread.TID())
	}
	if got := s.file("/proc/%d/comm", a.PID()); got != "fifteen-letters" {
		t.Errorf("process is called %q", got)
	}
	if got := s.file("/proc/%d/task/%d/comm", a.PID(), thread.TID()); got != "worker" {
		t.Errorf("thread is called %q", got)
	}
	if a.StartTime() == 0 {
		t.Error("no start time")
	}
	// What any thread opens belongs to the netns, because all are in it.
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", a.PID()))
	s.no(err)
	for _, task := range tasks {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/task/%s/ns/net", a.PID(), task.Name()))
		if want := fmt.Sprintf("net:[%d]", ns.Inode()); err != nil || link != want {
			t.Errorf("thread %s is in %s, %v; want %s", task.Name(), link, err, want)
		}
	}
	for _, name := range []string{"", "sixteen--letters", "two\nlines"} {
		if a, err := ns.Start(name); err == nil {
			a.Close()
			t.Errorf("%q was allowed as a name", name)
		}
	}
}

// A call on one thread goes on while the other is blocked.
func TestThreadAcceptsWhatTheLeaderConnects(t *testing.T) {
	s := script{t}
	ns := s.netns()
	a := s.start(ns, "a")
	worker, err := a.OnThread("worker")
	s.no(err)
	listener, at := s.listen(a, loopback4, 1)
	pending, err := worker.StartAccept(listener)
	s.no(err)
	connected := s.step(a.Connect(s.num(a.Socket(unix.AF_INET)), at))
	conn, accepted, err := pending.Wait()
	s.step(accepted, err)
	if accepted.Before > connected.Before || accepted.After < connected.Before {
		t.Errorf("accept %+v did not span connect %+v", accepted, connected)
	}
	s.state(a, conn, tcp.Established)
}

func TestKillDuringBlockedCalls(t *testing.T) {
	s := script{t}
	ns := s.netns()
	server := s.start(ns, "server")
	listener, at := s.listen(server, loopback4, 0)
	accepting, connecting, closed := s.start(ns, "accepting"), s.start(ns, "connecting"), s.start(ns, "closed")

	own, _ := s.listen(accepting, loopback4, 1)
	accept, err := accepting.StartAccept(own)
	s.no(err)
	// One connection fills the queue; the kernel does not answer the next SYN.
	s.step(connecting.Connect(s.num(connecting.Socket(unix.AF_INET)), at))
	worker, err := connecting.OnThread("worker")
	s.no(err)
	fd := s.num(connecting.Socket(unix.AF_INET))
	connect, err := worker.StartConnect(fd, at)
	s.no(err)
	s.state(connecting, fd, tcp.SynSent)
	out, err := closed.StartAccept(s.numFD(closed))
	s.no(err)

	s.no(accepting.Kill())
	s.no(connecting.Kill())
	s.no(closed.Close()) // ends a blocked call too
	for name, pending := range map[string]*lab.Pending{"accept": accept, "connect": connect, "accept and Close": out} {
		if _, _, err := pending.Wait(); !errors.Is(err, lab.ErrEnded) {
			t.Errorf("%s: %v, want ErrEnded", name, err)
		}
	}
	if _, _, err := accepting.Socket(unix.AF_INET); !errors.Is(err, lab.ErrEnded) {
		t.Errorf("socket of a killed actor: %v", err)
	}
	// The kernel has closed what the killed one had.
	conn := s.num(server.Accept(listener))
	s.poll(server, conn, unix.POLLRDHUP)
	s.state(server, conn, tcp.CloseWait)
}

// numFD gives a listener's descriptor.
func (s script) numFD(a *lab.Actor) int {
	s.Helper()
	fd, _ := s.listen(a, loopback4, 1)
	return fd
}
