// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"errors"
	"net/netip"
	"os"
	"reflect"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

// strays looks for those of some actors; no dump knows any of their sockets.
func (s script) strays(actors ...*lab.Actor) []Stray {
	s.Helper()
	var pids []int
	for _, a := range actors {
		pids = append(pids, a.PID())
	}
	scan, err := among(s, pids...).find(nil, set())
	s.no(err)
	return scan.Strays
}

func (s script) expectStrays(netns uint32, got []Stray, want ...end) {
	s.Helper()
	if len(got) != len(want) {
		s.Fatalf("strays %+v, want %+v", got, want)
	}
	for i, e := range want {
		if got[i].Process.PID != e.PID() {
			s.Errorf("stray of %+v, want pid %d", got[i].Process, e.PID())
		}
		got[i].Process = nil
		if want := (Stray{Holder{nil, e.fd}, e.inode, true, netns, e.local, e.remote}); got[i] != want {
			s.Errorf("stray %+v, want %+v", got[i], want)
		}
	}
}

func TestStrays(t *testing.T) {
	for _, scene := range []struct {
		name string
		play func(s script, client, server end) []end
	}{
		{"accepted, reset in ESTABLISHED", func(s script, client, server end) []end {
			s.reset(client)
			s.reaches(server, tcp.Close)
			return []end{server}
		}},
		{"connected, reset in ESTABLISHED", func(s script, client, server end) []end {
			s.reset(server)
			s.reaches(client, tcp.Close)
			return []end{client}
		}},
		{"reset in CLOSE_WAIT", func(s script, client, server end) []end {
			s.step(client.Shutdown(client.fd, unix.SHUT_WR))
			s.reaches(server, tcp.CloseWait)
			s.reset(client)
			s.reaches(server, tcp.Close)
			return []end{server}
		}},
		{"connected, reset in CLOSE_WAIT", func(s script, client, server end) []end {
			s.step(server.Shutdown(server.fd, unix.SHUT_WR))
			s.reaches(client, tcp.CloseWait)
			s.reset(server)
			s.reaches(client, tcp.Close)
			return []end{client}
		}},
		{"both directions closed", func(s script, client, server end) []end {
			s.step(client.Shutdown(client.fd, unix.SHUT_WR))
			s.reaches(server, tcp.CloseWait)
			s.step(server.Shutdown(server.fd, unix.SHUT_WR))
			s.reaches(server, tcp.Close)
			s.reaches(client, tcp.Close) // a mini-socket is in TIME_WAIT instead
			return []end{client, server}
		}},
	} {
		for _, r := range routes {
			t.Run(scene.name+"/"+r.name, func(t *testing.T) {
				s := script{t}
				ns := s.netns()
				client, server := s.start(ns, "client"), s.start(ns, "server")
				c, d := r.pair(s, client, server)
				s.expectStrays(0, s.strays(client, server))
				dead := scene.play(s, c, d)
				if len(dead) == 2 && dead[0].PID() > dead[1].PID() {
					dead[0], dead[1] = dead[1], dead[0]
				}
				s.expectStrays(ns.Inode(), s.strays(client, server), dead...)
				s.expectStrays(ns.Inode(), s.strays(client, server), dead...)
				if len(dead) == 1 { // by a RST: the looks have left the error to the program
					if got := s.poll(dead[0].Poll(dead[0].fd, unix.POLLERR, 0)); got&unix.POLLERR == 0 {
						t.Errorf("poll of the dead gives %#x", got)
					}
				}
				for _, e := range dead {
					s.step(e.CloseFD(e.fd))
				}
				s.expectStrays(0, s.strays(client, server))
			})
		}
	}
}

// A socket that a dump has shown is no stray, whatever became of it, and one that
// was asked for is reported as held.
func TestStraysListed(t *testing.T) {
	s := script{t}
	ns := s.netns()
	client, server := s.start(ns, "client"), s.start(ns, "server")
	c, d := routes[0].pair(s, client, server)
	s.reset(c)
	s.reaches(d, tcp.Close)
	f := among(t, server.PID())
	for _, listed := range []map[uint64]bool{nil, set(d.inode)} {
		scan, err := f.find(nil, listed)
		if s.no(err); scan.Strays != nil {
			t.Errorf("listed %v: %+v", listed, scan.Strays)
		}
	}
	scan, err := f.find(set(d.inode), set())
	if s.no(err); scan.Strays != nil {
		t.Errorf("asked for: %+v", scan.Strays)
	}
	s.expect(scan.Holders[d.inode], fdOf{server.PID(), d.fd})
}

// What is in no dump and no stray: sockets that never had a connection, and
// those that live, because they are newer than the dump.
func TestNoStrays(t *testing.T) {
	for _, r := range routes {
		t.Run(r.name, func(t *testing.T) {
			s := script{t}
			ns := s.netns()
			client, server := s.start(ns, "client"), s.start(ns, "server")
			s.num(client.Socket(r.family)) // just made
			listener, at := r.listen(s, server)
			s.step(client.Bind(s.num(client.Socket(r.family)), netip.AddrPortFrom(at.Addr(), 0)))

			down, refusing := r.listen(s, server)
			s.step(server.Shutdown(down, unix.SHUT_RDWR))
			if _, err := client.Connect(s.num(client.Socket(r.family)), refusing); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("connect: %v", err)
			}
			fd := s.num(client.Socket(r.family, unix.SOCK_NONBLOCK))
			if _, err := client.Connect(fd, refusing); !errors.Is(err, unix.EINPROGRESS) {
				t.Errorf("connect: %v", err)
			}
			s.reaches(end{Actor: client, fd: fd}, tcp.Close)

			disconnected, other := r.pair(s, client, server)
			s.step(client.Disconnect(disconnected.fd))
			s.step(server.CloseFD(other.fd))

			r.pair(s, client, server)
			c, d := r.pair(s, client, server)
			s.step(client.Shutdown(c.fd, unix.SHUT_WR))
			s.reaches(d, tcp.CloseWait)
			s.step(client.Connect(s.num(client.Socket(r.family)), at)) // nobody accepts it

			s.expectStrays(0, s.strays(client, server))
			s.step(server.CloseFD(listener))
		})
	}
}

// The socket behind an MPTCP descriptor is in no dump of TCP sockets.
func TestNoStraysMPTCP(t *testing.T) {
	s := script{t}
	ns := s.netns()
	client, server := s.start(ns, "client"), s.start(ns, "server")
	_, at, step, err := server.NetListen(netip.MustParseAddrPort("127.0.0.1:0"))
	s.step(step, err)
	s.step(client.Connect(s.num(client.Socket(unix.AF_INET)), at))
	_, _, step, err = server.NetAccept()
	s.step(step, err)
	s.expectStrays(0, s.strays(client, server))
	s.step(server.NetCloseConn())
	s.step(server.NetCloseListener())
}

// A process may be read but not be asked: that takes the real user id.
func TestStraysNotAsked(t *testing.T) {
	const pidEnv, inodeEnv = "AFTERFIN_OWNER_PID", "AFTERFIN_OWNER_INODE"
	s := script{t}
	if !inChild(t) {
		var fd int
		s.no(s.netns().Do(func() (err error) {
			fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			return err
		}))
		file := os.NewFile(uintptr(fd), "socket")
		defer file.Close()
		holder := child(holdChild, asNobody())
		holder.ExtraFiles = []*os.File{file}
		start(t, holder)
		runInChild(t, nil, pidEnv+"="+strconv.Itoa(holder.Process.Pid),
			inodeEnv+"="+strconv.FormatUint(inodeOf(t, fd), 10))
		return
	}
	pid, err := strconv.Atoi(os.Getenv(pidEnv))
	s.no(err)
	inode, err := strconv.ParseUint(os.Getenv(inodeEnv), 10, 64)
	s.no(err)
	s.no(syscall.Setgroups(nil))
	s.no(syscall.Setresgid(1, nobody, nobody))
	s.no(syscall.Setresuid(1, nobody, nobody))
	scan, err := among(t, pid).find(nil, set())
	s.no(err)
	if len(scan.Strays) != 1 || scan.Unreadable != 0 {
		t.Fatalf("%+v", scan)
	}
	stray := scan.Strays[0]
	if stray.Process.PID != pid || stray.Process.UID != nobody {
		t.Errorf("stray of %+v", stray.Process)
	}
	stray.Process = nil
	if want := (Stray{Holder: Holder{FD: 3}, Inode: inode}); !reflect.DeepEqual(stray, want) {
		t.Errorf("%+v, want %+v", stray, want)
	}
}
