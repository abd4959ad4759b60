// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call prepares a request and gives the one system call to be timed. Results
// other than the value go into res.
func (s *server) call(r request, res *response) func() (int, error) {
	fd := r.FD
	switch r.Op {
	case opSocket:
		return func() (int, error) { return unix.Socket(r.Args[0], r.Args[1]|unix.SOCK_CLOEXEC, r.Args[2]) }
	case opBind:
		to := sockaddr(fd, r.Addr)
		return func() (int, error) { return 0, unix.Bind(fd, to) }
	case opListen:
		return func() (int, error) { return 0, unix.Listen(fd, r.Args[0]) }
	case opConnect:
		to := sockaddr(fd, r.Addr)
		return func() (int, error) { return 0, unix.Connect(fd, to) }
	case opDisconnect:
		return func() (int, error) { return 0, disconnect(fd) }
	case opAccept4:
		return func() (int, error) { return accept(unix.SYS_ACCEPT4, fd, unix.SOCK_CLOEXEC) }
	case opAccept:
		return func() (int, error) { return plainAccept(fd) }
	case opRead:
		buffer := make([]byte, r.Args[0])
		return func() (int, error) { return unix.Read(fd, buffer) }
	case opWrite:
		buffer := make([]byte, r.Args[0])
		return func() (int, error) { return unix.Write(fd, buffer) }
	case opShutdown:
		return func() (int, error) { return 0, unix.Shutdown(fd, r.Args[0]) }
	case opClose:
		return func() (int, error) { return 0, unix.Close(fd) }
	case opNonblock:
		return func() (int, error) { return 0, unix.SetNonblock(fd, r.Args[0] != 0) }
	case opSetsockopt:
		return func() (int, error) { return 0, unix.SetsockoptInt(fd, r.Args[0], r.Args[1], r.Args[2]) }
	case opLinger0:
		linger := unix.Linger{Onoff: 1}
		return func() (int, error) { return 0, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &linger) }
	case opPoll:
		return func() (int, error) { return poll(fd, int16(r.Args[0]), time.Duration(r.Args[1])) }
	case opLocal:
		return func() (n int, err error) { res.Addr, err = addrPort(unix.Getsockname(fd)); return 0, err }
	case opRemote:
		return func() (n int, err error) { res.Addr, err = addrPort(unix.Getpeername(fd)); return 0, err }
	case opCookie:
		return func() (int, error) {
			cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
			return int(cookie), err
		}
	case opState:
		return func() (int, error) {
			info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
			if err != nil {
				return 0, err
			}
			return int(info.State), nil
		}
	case opInode:
		return func() (int, error) {
			var stat unix.Stat_t
			err := unix.Fstat(fd, &stat)
			return int(stat.Ino), err
		}
	case opSendFD:
		return func() (int, error) { return 0, sendFD(fd, r.Args[0]) }
	case opReceiveFD:
		return func() (int, error) { return receiveFD(fd) }
	case opSpawn:
		return func() (int, error) { return s.spawn(r) }
	case opSpin:
		return func() (int, error) { spin(); return 0, nil }
	case opNetListen:
		return func() (int, error) { return s.netListen(r, res) }
	case opNetAccept:
		return func() (int, error) { return s.netAccept(res) }
	case opNetCloseConn:
		return func() (int, error) { return 0, s.netCloseConn() }
	case opNetCloseListener:
		return func() (int, error) { return 0, s.netCloseListener() }
	}
	return func() (int, error) { return 0, fmt.Errorf("unknown operation %q", r.Op) }
}

// disconnect does connect(2) with AF_UNSPEC, an address that x/sys/unix lacks.
func disconnect(fd int) error {
	to := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&to)), unsafe.Sizeof(to))
	if errno != 0 {
		return errno
	}
	return nil
}

// accept does accept4(2), or accept(2), which x/sys/unix turns into accept4.
func accept(number uintptr, fd int, flags uintptr) (int, error) {
	n, _, errno := unix.Syscall6(number, uintptr(fd), 0, 0, flags, 0, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

func plainAccept(fd int) (int, error) {
	n, err := accept(unix.SYS_ACCEPT, fd, 0)
	if err == nil {
		unix.CloseOnExec(n)
	}
	return n, err
}

// poll waits for events and gives those that came: 0 when time is up, for which
// a negative timeout never is.
func poll(fd int, events int16, timeout time.Duration) (int, error) {
	deadline := Mono() + timeout
	for {
		wait := -1
		if timeout >= 0 {
			left := max(0, deadline-Mono())
			wait = int((left + time.Millisecond - 1) / time.Millisecond)
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
		_, err := unix.Poll(fds, wait)
		if err == unix.EINTR { // a child has ended: only poll is not taken up again
			continue
		}
		return int(fds[0].Revents), err
	}
}

// sockaddr gives an address in the form that fd's family wants. What is wrong
// with fd the call itself will tell.
func sockaddr(fd int, to netip.AddrPort) unix.Sockaddr {
	family, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	addr, port := to.Addr(), int(to.Port())
	if family != unix.AF_INET6 && addr.Unmap().Is4() {
		return &unix.SockaddrInet4{Port: port, Addr: addr.Unmap().As4()}
	}
	return &unix.SockaddrInet6{Port: port, Addr: addr.As16()}
}

func addrPort(from unix.Sockaddr, err error) (netip.AddrPort, error) {
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch from := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(from.Addr), uint16(from.Port)), nil
	case *unix.SockaddrInet6:
		return unmap(netip.AddrPortFrom(netip.AddrFrom16(from.Addr), uint16(from.Port))), nil
	}
	return netip.AddrPort{}, unix.EAFNOSUPPORT
}

// unmap gives IPv4 in an IPv6 socket as IPv4, as internal/tcp does.
func unmap(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
