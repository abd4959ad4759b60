// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"afterfin/internal/tcp"
)

// isTCP tells the protocol of a socket without touching it. MPTCP is another one:
// the descriptor's own socket is in no dump even while the connection lives.
func isTCP(p process, fd string) bool {
	var name [16]byte
	n, err := unix.Getxattr(p.path+"/fd/"+fd, "system.sockprotoname", name[:])
	return err == nil && n > 0 && tcpProtocol(string(name[:n-1])) // ends with a zero
}

// tcpProtocol knows the kernel's names of TCP, as in /proc/net/protocols.
func tcpProtocol(name string) bool { return name == "TCP" || name == "TCPv6" }

// asker duplicates sockets of one process.
type asker struct {
	pid, pidfd int // pidfd -1: not open yet
	refused    bool
}

func (a *asker) close() {
	if a.pidfd >= 0 {
		unix.Close(a.pidfd)
	}
}

// ask tells whether the TCP socket behind a descriptor is a stray; the process is
// not filled in.
func (a *asker) ask(fd int, inode uint64) (stray Stray, ok bool) {
	stray = Stray{Holder: Holder{FD: fd}, Inode: inode}
	duplicate, err := a.duplicate(fd)
	switch {
	case gone(err) || err == unix.EBADF:
		return Stray{}, false // closed meanwhile
	case err != nil:
		return stray, true
	}
	defer unix.Close(duplicate)
	var stat unix.Stat_t
	if err := unix.Fstat(duplicate, &stat); err != nil || stat.Ino != inode {
		return Stray{}, false // another file has the number now
	}
	if !dead(duplicate) {
		return Stray{}, false
	}
	stray.Known = true
	stray.Local, stray.Remote = addresses(duplicate)
	stray.NetNS = netnsOf(duplicate)
	return stray, true
}

// netnsOf gives the netns of a socket, 0 if it may not be known (CAP_NET_ADMIN).
func netnsOf(socket int) uint32 {
	fd, err := unix.IoctlRetInt(socket, unix.SIOCGSKNS)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return 0
	}
	return uint32(stat.Ino)
}

func (a *asker) duplicate(fd int) (int, error) {
	if a.refused {
		return -1, unix.EPERM
	}
	var err error
	if a.pidfd < 0 {
		a.pidfd, err = unix.PidfdOpen(a.pid, 0)
	}
	if err == nil {
		fd, err = unix.PidfdGetfd(a.pidfd, fd, 0)
	}
	if err == unix.EPERM || err == unix.ENOSYS {
		a.refused = true // for all descriptors of the process
	}
	return fd, err
}

// dead tells a socket whose connection has ended from one that never had any. Of
// all that struct tcp_info counts, only what was delivered does so (Linux 4.18):
// the peer has acknowledged a SYN, by either side, or more. It outlives the
// connection (tcp_done). It is 0 for a socket just made or bound, for one that was
// refused or ran into a timeout, and again after a disconnect, which is also what
// shutdown does to a listener. A refused one has received a segment, too, the RST.
//
// SO_ERROR would tell as well, but to read it is to take it from the program.
func dead(fd int) bool {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && tcp.State(info.State) == tcp.Close && info.Delivered > 0
}

// addresses gives both ends of a socket, also of one that is closed: getpeername
// fails then (ENOTCONN), SO_PEERNAME does not.
func addresses(fd int) (local, remote netip.AddrPort) {
	address, err := unix.Getsockname(fd)
	if err != nil {
		return local, remote
	}
	switch a := address.(type) {
	case *unix.SockaddrInet4:
		local = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
		var peer unix.RawSockaddrInet4
		if peerName(fd, unsafe.Pointer(&peer), unsafe.Sizeof(peer)) {
			remote = netip.AddrPortFrom(netip.AddrFrom4(peer.Addr), swapPort(&peer.Port))
		}
	case *unix.SockaddrInet6:
		local = netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
		var peer unix.RawSockaddrInet6
		if peerName(fd, unsafe.Pointer(&peer), unsafe.Sizeof(peer)) {
			remote = netip.AddrPortFrom(netip.AddrFrom16(peer.Addr).Unmap(), swapPort(&peer.Port))
		}
	}
	return local, remote
}

// peerName asks by SO_PEERNAME, which wants exactly the size of the address and
// has no function in x/sys.
func peerName(fd int, address unsafe.Pointer, size uintptr) bool {
	length := uint32(size)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERNAME,
		uintptr(address), uintptr(unsafe.Pointer(&length)), 0)
	return errno == 0
}

// swapPort reads a port in network order.
func swapPort(port *uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(port))
	return uint16(b[0])<<8 | uint16(b[1])
}
