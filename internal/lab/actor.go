// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/gob"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrEnded is what a call gives whose actor has ended, or ends before it has
// answered.
var ErrEnded = errors.New("actor has ended")

// Actor is a process that does single system calls on command. Its own methods
// run on the thread-group leader; OnThread gives others. Each thread does one
// call at a time: one to a thread that is blocked waits until it is free.
//
// Whoever starts an actor ends it, with Kill or Close. It never outlives the
// program that started it.
type Actor struct {
	Thread // the leader

	name  string
	pid   int
	start uint64

	ended  chan struct{}   // closed when the process is gone
	status unix.WaitStatus // valid then; 0 where init had to reap it

	handover sync.Mutex // one descriptor at a time goes over links.rights

	mu       sync.Mutex
	links    links
	command  *os.File // of links.command
	out      *gob.Encoder
	pidfd    int
	released bool
	threads  map[string]*Thread
	lastID   uint64
	waiting  map[uint64]chan<- response // nil: it answers no more
}

// receive hands responses to those who wait for them.
func (a *Actor) receive() {
	in := gob.NewDecoder(a.command)
	for {
		var res response
		err := in.Decode(&res)
		a.mu.Lock()
		if err != nil {
			for _, answer := range a.waiting {
				close(answer)
			}
			a.waiting = nil
			a.mu.Unlock()
			return
		}
		if answer := a.waiting[res.ID]; answer != nil {
			answer <- res // has room for it
			delete(a.waiting, res.ID)
		}
		a.mu.Unlock()
	}
}

// send gives a request to the actor. Its response comes through the channel,
// which is closed if there will be none.
func (a *Actor) send(r request) <-chan response {
	answer := make(chan response, 1)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting == nil {
		close(answer)
		return answer
	}
	a.lastID++
	r.ID = a.lastID
	a.waiting[r.ID] = answer
	if err := a.out.Encode(r); err != nil {
		delete(a.waiting, r.ID)
		close(answer)
	}
	return answer
}

// PID gives the actor's process id.
func (a *Actor) PID() int { return a.pid }

// Name gives the name of the process.
func (a *Actor) Name() string { return a.name }

// StartTime gives the time at which the process started, in clock ticks since
// boot, as field 22 of /proc/PID/stat has it.
func (a *Actor) StartTime() uint64 { return a.start }

// Kill ends the actor with SIGKILL, whatever it does, and waits until the
// kernel has closed all that it had open. Its children, if any, go on.
func (a *Actor) Kill() error {
	a.mu.Lock()
	var err error
	if !a.released {
		err = unix.PidfdSendSignal(a.pidfd, unix.SIGKILL, nil, 0)
	}
	a.mu.Unlock()
	if err != nil && err != unix.ESRCH {
		return fmt.Errorf("kill %s pid %d: %w", a.name, a.pid, err)
	}
	<-a.ended
	a.release()
	return nil
}

// Close has the actor exit, also out of a blocked call, and waits for it. An
// actor that has ended in another way by then is an error, unless Kill or Close
// did it.
func (a *Actor) Close() error {
	a.mu.Lock()
	released := a.released
	a.mu.Unlock()
	if released {
		return nil
	}
	a.command.Close() // the actor reads the end of its commands
	<-a.ended
	a.release()
	if a.status != 0 {
		return fmt.Errorf("%s pid %d ended with wait status %#x", a.name, a.pid, int(a.status))
	}
	return nil
}

// release closes what the script holds of an actor, once.
func (a *Actor) release() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.released {
		return
	}
	a.released = true
	a.command.Close()
	unix.Close(a.links.rights)
	if a.pidfd >= 0 {
		unix.Close(a.pidfd)
	}
}

// OnThread gives another thread of the actor, which has this name (comm) of its
// own. The first call with a name makes the thread.
func (a *Actor) OnThread(comm string) (*Thread, error) {
	if len(comm) == 0 || len(comm) > 15 {
		return nil, fmt.Errorf("%q cannot be the name of a thread", comm)
	}
	a.mu.Lock()
	t := a.threads[comm]
	a.mu.Unlock()
	if t != nil {
		return t, nil
	}
	t = &Thread{actor: a, comm: comm}
	tid, _, err := t.do(request{Op: opThread})
	if err != nil {
		return nil, err
	}
	t.tid = tid
	a.mu.Lock()
	a.threads[comm] = t
	a.mu.Unlock()
	return t, nil
}
