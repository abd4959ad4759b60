// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An actor is started with this variable set, its name as argument 0 and two
// Unix sockets, both ends of which only it and its script have.
const (
	actorEnv  = "AFTERFIN_LAB_ACTOR"
	commandFD = 3 // requests in, responses out, as gobs
	rightsFD  = 4 // descriptors in, by SCM_RIGHTS
	firstFD   = 5 // first that is the script's to use
)

// op names what an actor is to do; it stands in error texts.
type op string

const (
	opHello     op = "start" // only answered: the actor is ready
	opThread    op = "make a thread"
	opReap      op = "wait for a child"
	opSpawn     op = "spawn"
	opSpin      op = "spin"
	opSendFD    op = "send a descriptor"
	opReceiveFD op = "receive a descriptor"

	opSocket     op = "socket"
	opBind       op = "bind"
	opListen     op = "listen"
	opConnect    op = "connect"
	opDisconnect op = "connect to AF_UNSPEC"
	opAccept     op = "accept"
	opAccept4    op = "accept4"
	opRead       op = "read"
	opWrite      op = "write"
	opShutdown   op = "shutdown"
	opClose      op = "close"
	opNonblock   op = "set O_NONBLOCK"
	opSetsockopt op = "setsockopt"
	opLinger0    op = "set SO_LINGER"
	opLocal      op = "getsockname"
	opRemote     op = "getpeername"
	opCookie     op = "get SO_COOKIE"
	opState      op = "get TCP_INFO"
	opInode      op = "fstat"
	opPoll       op = "poll"

	opNetListen        op = "net.Listen"
	opNetAccept        op = "net.Listener.Accept"
	opNetCloseConn     op = "net.Conn.Close"
	opNetCloseListener op = "net.Listener.Close"
)

// request is one thing to do. What Args mean depends on Op.
type request struct {
	ID     uint64
	Op     op
	Thread string // "" is the leader
	FD     int
	Args   [3]int
	Addr   netip.AddrPort
	Name   string // of the child of opSpawn
	FDs    []int  // that it inherits
}

// response answers the request of the same ID. A failure is an Errno, or Text
// where there is none.
type response struct {
	ID            uint64
	Value         int
	Addr          netip.AddrPort
	Before, After time.Duration
	Ticked        time.Duration
	Errno         unix.Errno
	Text          string
}

// links are one side's ends of an actor's two Unix sockets.
type links struct{ command, rights int }

func (l links) close() {
	unix.Close(l.command)
	unix.Close(l.rights)
}

func newLinks() (ours, theirs links, err error) {
	command, err := socketpair()
	if err != nil {
		return ours, theirs, err
	}
	rights, err := socketpair()
	if err != nil {
		unix.Close(command[0])
		unix.Close(command[1])
		return ours, theirs, err
	}
	return links{command[0], rights[0]}, links{command[1], rights[1]}, nil
}

func socketpair() ([2]int, error) {
	return unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
}

// forkActor starts this program again as an actor in the netns of the calling
// thread. The actor has the descriptors of inherit under the same numbers, as
// after fork, and no others of the caller's.
func forkActor(name string, l links, inherit []int, attr *syscall.SysProcAttr) (int, error) {
	// An actor reads no input and writes no output; stderr is for panics.
	files := []uintptr{2, 2, 2, commandFD: uintptr(l.command), rightsFD: uintptr(l.rights)}
	for _, fd := range inherit {
		if fd < firstFD {
			return 0, unix.EBADF
		}
		for len(files) <= fd {
			files = append(files, ^uintptr(0)) // closed
		}
		files[fd] = uintptr(fd)
	}
	return syscall.ForkExec("/proc/self/exe", []string{name}, &syscall.ProcAttr{
		Env:   append(os.Environ(), actorEnv+"=1"),
		Files: files,
		Sys:   attr,
	})
}

func sendFD(via, fd int) error {
	return unix.Sendmsg(via, []byte{0}, unix.UnixRights(fd), nil, 0)
}

func receiveFD(via int) (int, error) {
	data, control := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(via, data, control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		return -1, err
	}
	if len(messages) != 1 {
		return -1, unix.ENODATA // the other end is closed
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}
