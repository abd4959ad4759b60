// SPDX-License-Identifier: Apache-2.0

// Package owner tells from /proc alone who holds TCP sockets, and names
// processes: their unit, container and limits. It needs no BPF and, for the
// processes of one's own user, no privilege.
package owner

import (
	"fmt"
	"io/fs"
	"net/netip"
	"time"
)

// Process is who holds a socket. What it says of itself (Comm, Cmdline) and what
// its container's files say may hold any bytes.
type Process struct {
	PID, PPID int           // as /proc shows them: of the pid namespace it is mounted for
	Start     time.Duration // CLOCK_BOOTTIME at its start, to a clock tick (10 ms)
	Comm      string        // of its thread-group leader
	Cmdline   []string      // empty if it has none
	UID       uint32        // effective
	User      string        // the name of UID; empty if it has none
	FDs       int           // open descriptors; 0 also where they may not be counted
	FDLimit   uint64        // soft RLIMIT_NOFILE; math.MaxUint64: unlimited; 0: not known
	Unit      string        // systemd's, a .service or a .scope; empty if none
	Container Container
}

// Container is what a process runs in; the zero value is none.
type Container struct {
	Runtime              string // docker, containerd, cri-o, podman; empty if not known
	ID                   string // 64 hexadecimal digits
	Name, Pod, Namespace string // empty if nothing on disk tells; Pod and Namespace are those of Kubernetes
}

// Holder is one descriptor of a process. In one Scan, those of the same process
// share one Process.
type Holder struct {
	Process *Process
	FD      int
}

// Carrier is a descriptor of a process through which sockets are held without
// descriptors of their own.
type Carrier struct {
	Holder
	Count int
}

// Stray is a descriptor of a TCP socket that is in no dump: the connection has
// ended, by a RST or a timeout or with both directions closed, and only the
// descriptor is left.
//
// A program that is just about to close looks the same for a moment.
type Stray struct {
	Holder
	Inode uint64
	// Known tells that the kernel was asked. If it may not be asked (pidfd_getfd
	// is refused, or missing before Linux 5.6), the socket may as well be one that
	// was never connected or is in a netns that was not dumped, and has no
	// addresses here.
	Known         bool
	NetNS         uint32         // 0: not known
	Local, Remote netip.AddrPort // v4-mapped as IPv4
}

// Scan is what one walk through all processes has found.
type Scan struct {
	// Holders is by socket inode, each sorted by pid, then descriptor.
	Holders map[uint64][]Holder
	// Fixed is the same for sockets that are registered with an io_uring; the
	// descriptor is the ring's.
	Fixed map[uint64][]Holder
	// Rings are io_urings with registered TCP sockets that the kernel does not
	// identify: before Linux 6.14 it writes TCP or TCPv6 where now the inode is.
	// A file of such a name counts as well.
	Rings []Carrier
	// Carriers are Unix sockets that have descriptors, of whatever kind, in
	// flight in their receive queue. They are looked for only if a socket that
	// was asked for is found nowhere else.
	Carriers []Carrier
	Strays   []Stray
	// Unreadable counts the processes whose descriptors may not be read
	// (CAP_SYS_PTRACE).
	Unreadable int
}

// Find walks through all processes once. wanted are the inodes of the sockets to
// look for, without 0, which stands for no file. listed are those of all TCP sockets in the dumps made before, so that
// strays can be told; nil: no strays are looked for. Processes that end meanwhile
// are left out.
//
// To ask about a stray it is duplicated into this process for some microseconds.
// Should its owner close it just then, the kernel does so when the duplicate goes.
//
// Not found are sockets held only by a thread that does not share the descriptors
// of its thread-group leader, by a process whose leader has exited before its
// other threads, or by an io_uring that itself has no descriptor.
func Find(wanted, listed map[uint64]bool) (*Scan, error) {
	scan, err := system().find(wanted, listed)
	if err != nil {
		return nil, fmt.Errorf("find the holders of sockets: %w", err)
	}
	return scan, nil
}

// ProcessOf names one process. The error wraps fs.ErrNotExist if there is none.
func ProcessOf(pid int) (*Process, error) {
	process, err := system().processOf(pid)
	switch {
	case gone(err):
		return nil, fmt.Errorf("process %d: %w", pid, fs.ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return process, nil
}

// finder reads two trees: proc is where procfs is mounted, root has the files of
// container runtimes.
type finder struct {
	proc, root string
	users      map[uint32]string // names found so far
}

func system() *finder { return newFinder("/proc", "/") }

func newFinder(proc, root string) *finder {
	return &finder{proc, root, map[uint32]string{}}
}
