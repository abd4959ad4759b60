// SPDX-License-Identifier: Apache-2.0

package survey_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/leak"
	"afterfin/internal/netns"
	"afterfin/internal/survey"
	"afterfin/internal/tcp"
)

func TestMain(m *testing.M) {
	lab.Main()
	os.Exit(m.Run())
}

// script fails its test at the first step that does not go as expected.
type script struct{ *testing.T }

func (s script) no(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s script) num(n int, _ lab.Step, err error) int {
	s.Helper()
	s.no(err)
	return n
}

func (s script) start(ns *lab.NetNS, name string) *lab.Actor {
	s.Helper()
	a, err := ns.Start(name)
	s.no(err)
	s.Cleanup(func() { s.no(a.Close()) })
	return a
}

// finish connects to the listener and closes; the other end is in CLOSE_WAIT when
// the FIN is acknowledged, that is in FIN_WAIT2.
func (s script) finish(client *lab.Actor, at netip.AddrPort) {
	s.Helper()
	fd := s.num(client.Socket(unix.AF_INET))
	_, err := client.Connect(fd, at)
	s.no(err)
	_, err = client.Shutdown(fd, unix.SHUT_WR)
	s.no(err)
	for { // it comes by itself, at once
		state, _, err := client.TCPState(fd)
		s.no(err)
		if state == tcp.FinWait2 {
			return
		}
	}
}

func TestLook(t *testing.T) {
	s := script{t}
	ns, err := lab.NewNetNS()
	s.no(err)
	defer ns.Close()
	client, server := s.start(ns, "client"), s.start(ns, "server")
	listener := s.num(server.Socket(unix.AF_INET))
	_, err = server.Bind(listener, netip.MustParseAddrPort("127.0.0.1:0"))
	s.no(err)
	_, err = server.Listen(listener, 8)
	s.no(err)
	at, _, err := server.LocalAddr(listener)
	s.no(err)
	began := lab.Mono()
	s.finish(client, at)
	conn := s.num(server.Accept(listener))
	s.finish(client, at) // nobody accepts this one

	for name, space := range map[string]netns.NS{"one netns": {Inode: ns.Inode(), Path: ns.Path()}, "all": {}} {
		v, err := survey.Look(survey.Config{State: tcp.CloseWait, NetNS: space})
		s.no(err)
		var sockets []leak.Socket
		for _, each := range v.Sockets {
			if each.NetNS == ns.Inode() {
				sockets = append(sockets, each)
			}
		}
		if len(sockets) != 2 {
			t.Fatalf("%s: %d sockets", name, len(sockets))
		}
		for i := range sockets {
			s.compare(&sockets[i], server, conn, listener, at)
		}
		// Even to root a sandbox may hide some process, but never most of them.
		processes, _ := filepath.Glob("/proc/[0-9]*")
		if v.Unreadable > len(processes)/2 || v.Unreachable > len(processes)/2 || v.NetNS < 1 {
			t.Errorf("%s: %d of %d processes unreadable, %d unreachable, %d netns", name, v.Unreadable, len(processes), v.Unreachable, v.NetNS)
		}
		if space.Inode != 0 && (v.NetNS != 1 || v.Unreachable != 0) {
			t.Errorf("%s: %d netns, %d unreachable", name, v.NetNS, v.Unreachable)
		}
		if space.Inode != 0 && (v.States[tcp.CloseWait] != 2 || v.States[tcp.FinWait2] != 2 || v.States[tcp.Listen] != 1) {
			t.Errorf("%s: states %v", name, v.States)
		}
		if v.Began < began || v.At < v.Began || v.Tick <= 0 || v.Boot < 0 || v.Orphans.Count < 0 {
			t.Errorf("%s: began %v, at %v, tick %v, boot %v, %+v", name, v.Began, v.At, v.Tick, v.Boot, v.Orphans)
		}
	}
}

func (s script) compare(found *leak.Socket, server *lab.Actor, conn, listener int, at netip.AddrPort) {
	s.Helper()
	if !found.Info.Known || found.State != tcp.CloseWait || found.RecvQ != 1 || found.Info.RTO <= 0 {
		s.Errorf("%+v", found.Existing)
	}
	l := found.Listener
	if l == nil || l.Tuple.Local != at || len(l.Holders) != 1 || l.Holders[0].FD != listener || l.Holders[0].Process.PID != server.PID() {
		s.Errorf("listener %+v", l)
	}
	if found.Inode == 0 {
		if len(found.Holders) != 0 {
			s.Errorf("not accepted, held by %+v", found.Holders)
		}
		return
	}
	inode, _, err := server.Inode(conn)
	s.no(err)
	if found.Inode != inode || len(found.Holders) != 1 || found.Holders[0].FD != conn || found.Holders[0].Process.PID != server.PID() || found.Holders[0].Process.Comm != "server" {
		s.Errorf("inode %d held by %+v, want %d by fd %d of %d", found.Inode, found.Holders, inode, conn, server.PID())
	}
}
