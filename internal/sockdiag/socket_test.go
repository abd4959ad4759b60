// SPDX-License-Identifier: Apache-2.0

package sockdiag

import (
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

// fresh moves the test into a netns of its own, with lo up, and gives the inode
// number. The thread is never unlocked, so it ends with the test.
func fresh(t testing.TB) uint32 {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return uint32(info.Sys().(*syscall.Stat_t).Ino)
}

// sock is a TCP socket made by plain system calls, on the thread of the test.
type sock struct {
	t  testing.TB
	fd int
}

func wrap(t testing.TB, fd int, err error) *sock {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	s := &sock{t, fd}
	t.Cleanup(s.close)
	return s
}

// newSock makes a socket of the family of the address.
func newSock(t testing.TB, address netip.AddrPort) *sock {
	t.Helper()
	family := unix.AF_INET6
	if address.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	return wrap(t, fd, err)
}

func sockaddr(address netip.AddrPort) unix.Sockaddr {
	if address.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: address.Addr().As4(), Port: int(address.Port())}
	}
	return &unix.SockaddrInet6{Addr: address.Addr().As16(), Port: int(address.Port())}
}

// bind takes a free port.
func bind(t testing.TB, text string) *sock {
	t.Helper()
	address := netip.AddrPortFrom(netip.MustParseAddr(text), 0)
	s := newSock(t, address)
	if err := unix.Bind(s.fd, sockaddr(address)); err != nil {
		t.Fatal(err)
	}
	return s
}

func listen(t testing.TB, text string) *sock {
	t.Helper()
	s := bind(t, text)
	if err := unix.Listen(s.fd, 4096); err != nil {
		t.Fatal(err)
	}
	return s
}

// dial connects to the port of the listener; an address in brackets by IPv6.
func (s *sock) dial(text string) *sock {
	s.t.Helper()
	address := netip.AddrPortFrom(netip.MustParseAddr(text), s.seen(tcp.Listen).Tuple.Local.Port())
	c := newSock(s.t, address)
	if err := unix.Connect(c.fd, sockaddr(address)); err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *sock) accept() *sock {
	s.t.Helper()
	fd, _, err := unix.Accept4(s.fd, unix.SOCK_CLOEXEC)
	return wrap(s.t, fd, err)
}

func (s *sock) finish() {
	s.t.Helper()
	if err := unix.Shutdown(s.fd, unix.SHUT_WR); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sock) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
	}
	s.fd = -1
}

// seen is what the socket's own system calls tell of it, as a dump should.
func (s *sock) seen(state tcp.State) event.Existing {
	s.t.Helper()
	cookie, err := unix.GetsockoptUint64(s.fd, unix.SOL_SOCKET, unix.SO_COOKIE)
	if err != nil {
		s.t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(s.fd, &stat); err != nil {
		s.t.Fatal(err)
	}
	local, err := unix.Getsockname(s.fd)
	if err != nil {
		s.t.Fatal(err)
	}
	e := event.Existing{Cookie: cookie, Inode: stat.Ino, State: state}
	e.Tuple.Local = addrPort(local)
	peer, err := unix.Getpeername(s.fd)
	switch {
	case err == nil:
		e.Tuple.Remote = addrPort(peer)
	case e.Tuple.Is4():
		e.Tuple.Remote = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	default:
		e.Tuple.Remote = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	}
	return e
}

func addrPort(address unix.Sockaddr) netip.AddrPort {
	switch a := address.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// orphan is the same socket without its file.
func orphan(e event.Existing, state tcp.State) event.Existing {
	e.Inode, e.State = 0, state
	return e
}

// peer is the other end, known only by its addresses.
func peer(e event.Existing) tcp.Tuple {
	return tcp.Tuple{Local: e.Tuple.Remote, Remote: e.Tuple.Local}
}
