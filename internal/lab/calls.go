// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/tcp"
)

// Step tells when a system call was made and how it ended. The times are
// CLOCK_MONOTONIC, taken by the thread that made the call.
type Step struct {
	Before, After time.Duration
	Ticked        time.Duration // how far the kernel's ticks had come before the call; see Ticked
	Errno         unix.Errno    // 0: it succeeded
}

// Thread is a thread of an actor. Each of its methods is one system call of
// that thread. One that fails gives an error that wraps the errno, and a Step
// all the same.
type Thread struct {
	actor *Actor
	comm  string // "" is the leader
	tid   int
}

// TID gives the thread's id.
func (t *Thread) TID() int { return t.tid }

// do has a request carried out and waits for the answer.
func (t *Thread) do(r request) (int, Step, error) {
	res, step, err := t.ask(r)
	return res.Value, step, err
}

// step is do for calls without a result.
func (t *Thread) step(r request) (Step, error) {
	_, step, err := t.ask(r)
	return step, err
}

// address is do for calls whose result is an address.
func (t *Thread) address(r request) (netip.AddrPort, Step, error) {
	res, step, err := t.ask(r)
	return res.Addr, step, err
}

func (t *Thread) ask(r request) (response, Step, error) {
	r.Thread = t.comm
	return t.answer(r, t.actor.send(r))
}

// answer waits for the response to r.
func (t *Thread) answer(r request, answer <-chan response) (response, Step, error) {
	res, ok := <-answer
	var err error
	switch {
	case !ok:
		err = ErrEnded
	case res.Errno != 0:
		err = res.Errno
	case res.Text != "":
		err = errors.New(res.Text)
	}
	if err != nil {
		what := string(r.Op)
		if r.FD > 0 {
			what += fmt.Sprintf(" (fd %d)", r.FD)
		}
		err = fmt.Errorf("%s pid %d: %s: %w", t.actor.name, t.actor.pid, what, err)
	}
	return res, Step{Before: res.Before, After: res.After, Ticked: res.Ticked, Errno: res.Errno}, err
}

// Socket makes a TCP socket of a family (unix.AF_INET, unix.AF_INET6) and gives
// its descriptor, which is close-on-exec, as all are that an actor opens. A
// flag may be unix.SOCK_NONBLOCK.
func (t *Thread) Socket(family int, flags ...int) (int, Step, error) {
	return t.SocketProto(family, unix.IPPROTO_TCP, flags...)
}

// SocketProto is Socket for another stream protocol, such as
// unix.IPPROTO_MPTCP.
func (t *Thread) SocketProto(family, proto int, flags ...int) (int, Step, error) {
	kind := unix.SOCK_STREAM
	for _, flag := range flags {
		kind |= flag
	}
	return t.do(request{Op: opSocket, Args: [3]int{family, kind, proto}})
}

// Bind binds fd to an address; IPv4 on an IPv6 socket means v4-mapped.
func (t *Thread) Bind(fd int, addr netip.AddrPort) (Step, error) {
	return t.step(request{Op: opBind, FD: fd, Addr: addr})
}

// Listen makes fd a listener.
func (t *Thread) Listen(fd, backlog int) (Step, error) {
	return t.step(request{Op: opListen, FD: fd, Args: [3]int{backlog}})
}

// Connect connects fd to an address; IPv4 on an IPv6 socket means v4-mapped.
func (t *Thread) Connect(fd int, addr netip.AddrPort) (Step, error) {
	return t.step(request{Op: opConnect, FD: fd, Addr: addr})
}

// Disconnect connects fd to AF_UNSPEC, which resets the connection and keeps
// the socket.
func (t *Thread) Disconnect(fd int) (Step, error) {
	return t.step(request{Op: opDisconnect, FD: fd})
}

// Accept takes a connection from the listener fd with accept4(2) and gives its
// descriptor.
func (t *Thread) Accept(fd int) (int, Step, error) {
	return t.do(request{Op: opAccept4, FD: fd})
}

// AcceptPlain is Accept with accept(2).
func (t *Thread) AcceptPlain(fd int) (int, Step, error) {
	return t.do(request{Op: opAccept, FD: fd})
}

// Read reads at most limit bytes and gives their number: 0 is the end of the
// stream.
func (t *Thread) Read(fd, limit int) (int, Step, error) {
	return t.do(request{Op: opRead, FD: fd, Args: [3]int{limit}})
}

// Write writes n zero bytes and gives the number that the kernel took.
func (t *Thread) Write(fd, n int) (int, Step, error) {
	return t.do(request{Op: opWrite, FD: fd, Args: [3]int{n}})
}

// Shutdown closes the directions that how names (unix.SHUT_WR and so on).
func (t *Thread) Shutdown(fd, how int) (Step, error) {
	return t.step(request{Op: opShutdown, FD: fd, Args: [3]int{how}})
}

// CloseFD closes fd.
func (t *Thread) CloseFD(fd int) (Step, error) {
	return t.step(request{Op: opClose, FD: fd})
}

// SetNonblock sets or clears O_NONBLOCK, which all holders of a socket share.
func (t *Thread) SetNonblock(fd int, on bool) (Step, error) {
	value := 0
	if on {
		value = 1
	}
	return t.step(request{Op: opNonblock, FD: fd, Args: [3]int{value}})
}

// SetsockoptInt sets a socket option.
func (t *Thread) SetsockoptInt(fd, level, option, value int) (Step, error) {
	return t.step(request{Op: opSetsockopt, FD: fd, Args: [3]int{level, option, value}})
}

// SetLinger0 has close(2) of fd send a RST (SO_LINGER with 0 s).
func (t *Thread) SetLinger0(fd int) (Step, error) {
	return t.step(request{Op: opLinger0, FD: fd})
}

// LocalAddr gives fd's own address, v4-mapped as IPv4.
func (t *Thread) LocalAddr(fd int) (netip.AddrPort, Step, error) {
	return t.address(request{Op: opLocal, FD: fd})
}

// RemoteAddr gives the address that fd is connected to, v4-mapped as IPv4.
func (t *Thread) RemoteAddr(fd int) (netip.AddrPort, Step, error) {
	return t.address(request{Op: opRemote, FD: fd})
}

// Cookie gives the kernel's number for the socket. Asking for it is what makes
// the kernel choose one.
func (t *Thread) Cookie(fd int) (uint64, Step, error) {
	cookie, step, err := t.do(request{Op: opCookie, FD: fd})
	return uint64(cookie), step, err
}

// Inode gives the inode number of fd.
func (t *Thread) Inode(fd int) (uint64, Step, error) {
	inode, step, err := t.do(request{Op: opInode, FD: fd})
	return uint64(inode), step, err
}

// TCPState gives the state in which the kernel says fd is.
func (t *Thread) TCPState(fd int) (tcp.State, Step, error) {
	state, step, err := t.do(request{Op: opState, FD: fd})
	return tcp.State(state), step, err
}

// Poll waits for events (unix.POLLIN, unix.POLLRDHUP and so on) and gives those
// that came, 0 when the time is up. A negative timeout is none.
func (t *Thread) Poll(fd int, events int16, timeout time.Duration) (int16, Step, error) {
	got, step, err := t.do(request{Op: opPoll, FD: fd, Args: [3]int{int(events), int(timeout)}})
	return int16(got), step, err
}

// Pending is a call that an actor has begun.
type Pending struct {
	thread  *Thread
	request request
	answer  <-chan response
}

// Wait waits for the end of the call, once. It gives the new descriptor of an
// accept and 0 for a connect. If the actor is killed meanwhile it gives
// ErrEnded.
func (p *Pending) Wait() (int, Step, error) {
	res, step, err := p.thread.answer(p.request, p.answer)
	return res.Value, step, err
}

// StartConnect is Connect that returns as soon as the call sleeps in the
// kernel or has ended.
func (t *Thread) StartConnect(fd int, addr netip.AddrPort) (*Pending, error) {
	return t.begin(request{Op: opConnect, FD: fd, Addr: addr}, unix.SYS_CONNECT)
}

// StartAccept is Accept that returns as soon as the call sleeps in the kernel
// or has ended.
func (t *Thread) StartAccept(fd int) (*Pending, error) {
	return t.begin(request{Op: opAccept4, FD: fd}, unix.SYS_ACCEPT4)
}

func (t *Thread) begin(r request, number int) (*Pending, error) {
	r.Thread = t.comm
	answer := t.actor.send(r)
	file := fmt.Sprintf("/proc/%d/task/%d/syscall", t.actor.pid, t.tid)
	prefix := strconv.Itoa(number) + " "
	// The kernel tells nobody when a call falls asleep, so this looks often.
	for {
		select {
		case res, ok := <-answer:
			back := make(chan response, 1)
			if ok {
				back <- res
			}
			close(back)
			return &Pending{thread: t, request: r, answer: back}, nil
		default:
		}
		// The file says "running" of a thread that does not sleep, and it goes
		// with the thread.
		text, err := os.ReadFile(file)
		if strings.HasPrefix(string(text), prefix) {
			return &Pending{thread: t, request: r, answer: answer}, nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return nil, fmt.Errorf("see whether %s pid %d sleeps in %s: %w", t.actor.name, t.actor.pid, r.Op, err)
		}
		time.Sleep(100 * time.Microsecond)
	}
}
