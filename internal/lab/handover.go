// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Spawn has the actor start another actor as its child, in the same netns. The
// child has the named descriptors under the same numbers, as after fork, and
// none of the actor's others.
func (a *Actor) Spawn(name string, fds ...int) (*Actor, error) {
	child, theirs, err := newActor(name)
	if err != nil {
		return nil, fmt.Errorf("spawn actor %q: %w", name, err)
	}
	pid, err := a.spawn(name, theirs, fds)
	theirs.close()
	if err != nil {
		child.release()
		return nil, err
	}
	if err := child.setPID(pid); err != nil {
		child.release() // ends it
		return nil, fmt.Errorf("spawn actor %q: %w", name, err)
	}
	go child.waitEnd(a)
	if err := child.greet(); err != nil {
		return nil, fmt.Errorf("spawn actor %q: %w", name, err)
	}
	return child, nil
}

// spawn gives the child's links to the actor, which has it start with them.
func (a *Actor) spawn(name string, theirs links, fds []int) (int, error) {
	command, err := a.give(theirs.command)
	if err != nil {
		return 0, err
	}
	rights, err := a.give(theirs.rights)
	if err != nil {
		_, closed := a.CloseFD(command)
		return 0, errors.Join(err, closed)
	}
	pid, _, err := a.do(request{Op: opSpawn, Name: name, FDs: fds, Args: [3]int{command, rights}})
	return pid, err
}

// waitEnd waits for the end of an actor that is the child of another, and until
// its parent has reaped it.
func (a *Actor) waitEnd(parent *Actor) {
	poll(a.pidfd, unix.POLLIN, -1)
	status, _, err := parent.do(request{Op: opReap, Args: [3]int{a.pid}})
	if err == nil {
		a.status = unix.WaitStatus(status)
	} else {
		// The parent is gone, so init reaps the child; that may be this process.
		<-parent.ended
		a.status, _ = waitFor(a.pid)
	}
	close(a.ended)
}

// give hands a descriptor of the script to the actor.
func (a *Actor) give(fd int) (int, error) {
	a.handover.Lock()
	defer a.handover.Unlock()
	a.mu.Lock()
	err := ErrEnded
	if !a.released {
		err = sendFD(a.links.rights, fd)
	}
	a.mu.Unlock()
	if err != nil {
		return -1, fmt.Errorf("give %s pid %d a descriptor: %w", a.name, a.pid, err)
	}
	n, _, err := a.do(request{Op: opReceiveFD, FD: rightsFD})
	return n, err
}

// SendFD passes a descriptor to another actor by SCM_RIGHTS and gives its
// number there. The socket between them is closed again; the sender keeps fd.
func (a *Actor) SendFD(to *Actor, fd int) (newfd int, err error) {
	pair, err := socketpair()
	if err != nil {
		return -1, fmt.Errorf("pass a descriptor: %w", err)
	}
	ours, err := a.give(pair[0])
	unix.Close(pair[0])
	if err != nil {
		unix.Close(pair[1])
		return -1, err
	}
	theirs, err := to.give(pair[1])
	unix.Close(pair[1])
	if err != nil {
		_, closed := a.CloseFD(ours)
		return -1, errors.Join(err, closed)
	}
	_, err = a.step(request{Op: opSendFD, FD: ours, Args: [3]int{fd}})
	newfd = -1
	if err == nil {
		newfd, _, err = to.do(request{Op: opReceiveFD, FD: theirs})
	}
	_, oursClosed := a.CloseFD(ours)
	_, theirsClosed := to.CloseFD(theirs)
	return newfd, errors.Join(err, oursClosed, theirsClosed)
}

// NetListen has the actor listen as a Go server does, with net.Listen: MPTCP
// where the kernel has it. It gives the listener's descriptor, which is
// non-blocking and Go's to close, and the address. An actor has one at a time.
func (a *Actor) NetListen(addr netip.AddrPort) (int, netip.AddrPort, Step, error) {
	res, step, err := a.ask(request{Op: opNetListen, Addr: addr})
	return res.Value, res.Addr, step, err
}

// NetAccept waits for a connection to the listener of NetListen and holds it.
// It gives its descriptor, as above, and the peer's address.
func (a *Actor) NetAccept() (int, netip.AddrPort, Step, error) {
	res, step, err := a.ask(request{Op: opNetAccept})
	return res.Value, res.Addr, step, err
}

// NetCloseConn closes the connection of NetAccept.
func (a *Actor) NetCloseConn() (Step, error) {
	return a.step(request{Op: opNetCloseConn})
}

// NetCloseListener closes the listener of NetListen.
func (a *Actor) NetCloseListener() (Step, error) {
	return a.step(request{Op: opNetCloseListener})
}
