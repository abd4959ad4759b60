// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
)

// socket makes a TCP socket of the test's own.
func (s script) socket(family int) (fd int, inode uint64) {
	s.Helper()
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	s.no(err)
	return fd, inodeOf(s, fd)
}

// A descriptor that was sent and not received yet.
func TestInFlight(t *testing.T) {
	for _, kind := range []struct {
		name string
		kind int
	}{{"stream", unix.SOCK_STREAM}, {"datagram", unix.SOCK_DGRAM}, {"seqpacket", unix.SOCK_SEQPACKET}} {
		t.Run(kind.name, func(t *testing.T) {
			s := script{t}
			pair, err := unix.Socketpair(unix.AF_UNIX, kind.kind|unix.SOCK_CLOEXEC, 0)
			s.no(err)
			defer unix.Close(pair[0])
			defer unix.Close(pair[1])
			a, first := s.socket(unix.AF_INET)
			b, second := s.socket(unix.AF_INET6)
			send := func(fds ...int) {
				s.no(unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(fds...), nil, 0))
			}
			f := among(t, os.Getpid())
			check := func(wanted map[uint64]bool, holders, count int) {
				t.Helper()
				for _, listed := range []map[uint64]bool{nil, set(first, second)} {
					scan, err := f.find(wanted, listed)
					s.no(err)
					if len(scan.Holders) != holders {
						t.Errorf("%d sockets have holders, want %d", len(scan.Holders), holders)
					}
					if count == 0 {
						if scan.Carriers != nil {
							t.Errorf("carriers %+v", scan.Carriers)
						}
						continue
					}
					if len(scan.Carriers) != 1 || scan.Carriers[0].FD != pair[1] ||
						scan.Carriers[0].Count != count || scan.Carriers[0].Process.PID != os.Getpid() {
						t.Fatalf("carriers %+v, want %d in fd %d", scan.Carriers, count, pair[1])
					}
					for _, held := range scan.Holders {
						if held[0].Process != scan.Carriers[0].Process {
							t.Error("one process is there twice")
						}
					}
				}
			}
			check(set(first, second), 2, 0)
			send(a)
			check(set(first, second), 2, 0) // nothing is missing
			s.no(unix.Close(a))
			check(set(first, second), 1, 1)
			send(b, b)
			s.no(unix.Close(b))
			check(set(first, second), 0, 3)
			check(nil, 0, 0)

			rights := make([]byte, unix.CmsgSpace(4))
			_, n, _, _, err := unix.Recvmsg(pair[1], make([]byte, 1), rights, unix.MSG_CMSG_CLOEXEC)
			s.no(err)
			messages, err := unix.ParseSocketControlMessage(rights[:n])
			s.no(err)
			received, err := unix.ParseUnixRights(&messages[0])
			s.no(err)
			defer unix.Close(received[0])
			check(set(first, second), 1, 2)
			check(set(first), 1, 0)
		})
	}
}

// ring makes an io_uring and registers files with it.
func (s script) ring(fds ...int32) int {
	s.Helper()
	ring, err := lab.Ring(fds...)
	if disabled, unread := os.ReadFile("/proc/sys/kernel/io_uring_disabled"); errors.Is(err, unix.EPERM) && unread == nil && disabled[0] == '2' {
		s.Skip("io_uring is disabled here (sysctl kernel.io_uring_disabled)")
	}
	s.no(err)
	s.Cleanup(func() { unix.Close(ring) })
	return ring
}

// namesRegistered tells whether the kernel tells which socket is registered
// (6.14, commit 561e3a0c40dc).
func (s script) namesRegistered() bool {
	s.Helper()
	var name unix.Utsname
	s.no(unix.Uname(&name))
	var major, minor int
	_, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	s.no(err)
	return major > 6 || major == 6 && minor >= 14
}

// Registered files outlive their descriptors.
func TestRegistered(t *testing.T) {
	s := script{t}
	a, first := s.socket(unix.AF_INET)
	b, second := s.socket(unix.AF_INET6)
	plain, err := os.Open("/proc/self/stat")
	s.no(err)
	defer plain.Close()
	ring := s.ring(int32(a), -1, int32(plain.Fd()), int32(b))
	s.no(unix.Close(a))
	s.no(unix.Close(b))
	scan, err := among(t, os.Getpid()).find(set(first, second), nil)
	s.no(err)
	if len(scan.Holders) > 0 {
		t.Errorf("holders %+v", scan.Holders)
	}
	if !s.namesRegistered() {
		if len(scan.Rings) != 1 || scan.Rings[0].FD != ring || scan.Rings[0].Count != 2 ||
			scan.Rings[0].Process.PID != os.Getpid() || len(scan.Fixed) > 0 {
			t.Errorf("rings %+v, fixed %+v", scan.Rings, scan.Fixed)
		}
		return
	}
	if len(scan.Rings) > 0 {
		t.Errorf("rings %+v", scan.Rings)
	}
	for _, inode := range []uint64{first, second} {
		s.expect(scan.Fixed[inode], fdOf{os.Getpid(), ring})
	}
	scan, err = among(t, os.Getpid()).find(set(second), set())
	if s.no(err); len(scan.Fixed) != 1 {
		t.Errorf("fixed %+v, want %d", scan.Fixed, second)
	}
}

func TestParseRing(t *testing.T) {
	const head = "pos:\t0\nflags:\t02000002\nSqMask:\t0x3\nSQEs:\t1\n    0: opcode:NOP, fd:3\nSqThreadCpu:\t-1\n"
	for _, c := range []struct {
		text     string
		inodes   []uint64
		unnamed  int
		complete bool
	}{
		{head, nil, 0, false}, // the lock was taken
		{head + "UserFiles:\t0\nUserBufs:\t0\n", nil, 0, true},
		{head + "UserFiles:\t2\nUserBufs:\t0\n", nil, 0, false},
		{head + "UserFiles:\t3\n    0: socket:[12]\n    2: /tmp/TCP\nUserBufs:\t1\n    0: 0x7f/8\n", []uint64{12}, 0, true},
		{head + "UserFiles:\t5\n    0: TCP\n    1: <none>\n    2: TCPv6\n    3: UNIX\n    4: \nUserBufs:\t0\n", nil, 2, true},
		{head + "UserFiles:\t1\n100000: socket:[7]\nPollList:\n    9: socket:[8]\n", []uint64{7}, 0, true},
		{head + "UserFiles:\t1\n    0: socket:[7", nil, 0, true},
		{head + "UserFiles:\t", nil, 0, false},
		{"", nil, 0, false},
		{"UserFiles:", nil, 0, false},
	} {
		inodes, unnamed, complete := parseRing(c.text)
		if !slices.Equal(inodes, c.inodes) || unnamed != c.unnamed || complete != c.complete {
			t.Errorf("parseRing(%q) = %v, %d, %v", strings.TrimPrefix(c.text, head), inodes, unnamed, complete)
		}
	}
}

func TestParseInFlight(t *testing.T) {
	for text, want := range map[string]int{
		"pos:\t0\nino:\t5\nscm_fds: 0\n":             0,
		"pos:\t0\nino:\t5\nscm_fds: 12\n":            12,
		"pos:\t0\nino:\t5\nscm_fds: 3\ncgroup: 1\n":  3,
		"pos:\t0\nino:\t5\nscm_fds: 3":               3,
		"pos:\t0\nino:\t5\nscm_fds: -3\n":            0,
		"pos:\t0\nino:\t5\nscm_fds: \n":              0,
		"pos:\t0\nino:\t5\ntarget: xscm_fds: 3\n":    0,
		"pos:\t0\nflags:\t02\nmnt_id:\t8\nino:\t5\n": 0,
		"": 0,
	} {
		if got := parseInFlight(text); got != want {
			t.Errorf("parseInFlight(%q) = %d, want %d", text, got, want)
		}
	}
}
