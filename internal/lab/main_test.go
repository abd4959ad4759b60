// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
)

const orphansEnv = "LAB_TEST_ORPHANS"

func TestMain(m *testing.M) {
	lab.Main()
	if os.Getenv(orphansEnv) != "" {
		makeOrphans()
	}
	os.Exit(m.Run())
}

var (
	loopback4 = netip.MustParseAddrPort("127.0.0.1:0")
	loopback6 = netip.MustParseAddrPort("[::1]:0")
)

// script fails its test at the first step that does not go as expected.
type script struct{ *testing.T }

func (s script) no(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s script) step(step lab.Step, err error) lab.Step {
	s.Helper()
	s.no(err)
	if step.Before <= 0 || step.After < step.Before {
		s.Fatalf("step from %v to %v", step.Before, step.After)
	}
	return step
}

func (s script) num(n int, step lab.Step, err error) int {
	s.Helper()
	s.step(step, err)
	return n
}

func (s script) addr(addr netip.AddrPort, step lab.Step, err error) netip.AddrPort {
	s.Helper()
	s.step(step, err)
	return addr
}

func (s script) id(id uint64, step lab.Step, err error) uint64 {
	s.Helper()
	s.step(step, err)
	if id == 0 {
		s.Fatal("id 0")
	}
	return id
}

func (s script) poll(a *lab.Actor, fd int, events int16) {
	s.Helper()
	got, step, err := a.Poll(fd, events, -1)
	s.step(step, err)
	if got&events != events {
		s.Fatalf("poll gave %#x for %#x", got, events)
	}
}

func (s script) netns() *lab.NetNS {
	s.Helper()
	ns, err := lab.NewNetNS()
	s.no(err)
	s.Cleanup(func() { s.no(ns.Close()) })
	return ns
}

func (s script) start(ns *lab.NetNS, name string) *lab.Actor {
	s.Helper()
	a, err := ns.Start(name)
	s.no(err)
	s.Cleanup(func() { s.no(a.Close()) })
	return a
}

// listen has a listen on a port of the kernel's choice.
func (s script) listen(a *lab.Actor, at netip.AddrPort, backlog int) (int, netip.AddrPort) {
	s.Helper()
	family := unix.AF_INET
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd := s.num(a.Socket(family))
	s.step(a.Bind(fd, at))
	s.step(a.Listen(fd, backlog))
	return fd, s.addr(a.LocalAddr(fd))
}

// pair connects client to server and gives both descriptors.
func (s script) pair(client, server *lab.Actor) (clientFD, serverFD int) {
	s.Helper()
	listener, at := s.listen(server, loopback4, 8)
	clientFD = s.num(client.Socket(unix.AF_INET))
	s.step(client.Connect(clientFD, at))
	serverFD = s.num(server.Accept(listener))
	s.step(server.CloseFD(listener))
	return clientFD, serverFD
}

func (s script) file(format string, args ...any) string {
	s.Helper()
	text, err := os.ReadFile(fmt.Sprintf(format, args...))
	s.no(err)
	return strings.TrimSpace(string(text))
}

// fds counts the open descriptors of a process.
func (s script) fds(pid int) int {
	s.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	s.no(err)
	return len(entries)
}
