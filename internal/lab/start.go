// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/gob"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Start starts an actor in the netns. The process has this name (comm), of at
// most 15 bytes.
func (ns *NetNS) Start(name string) (*Actor, error) {
	a, err := startActor(ns, name)
	if err != nil {
		return nil, fmt.Errorf("start actor %q: %w", name, err)
	}
	return a, nil
}

func startActor(ns *NetNS, name string) (*Actor, error) {
	if os.Getenv(actorEnv) != "" { // or every actor would start more
		return nil, errors.New("this is an actor: lab.Main was not called first")
	}
	a, theirs, err := newActor(name)
	if err != nil {
		return nil, err
	}
	started := make(chan error, 1)
	go func() {
		// Pdeathsig comes when the thread that forked ends, so that thread
		// stays for as long as the actor lives.
		err := onThread(func() error { return a.forkAndWait(ns, theirs, started) })
		if err != nil {
			started <- err
		}
	}()
	err = <-started
	theirs.close()
	if err != nil {
		a.release()
		return nil, err
	}
	return a, a.greet()
}

// newActor makes an actor without a process yet, and its ends of the links.
func newActor(name string) (a *Actor, theirs links, err error) {
	if len(name) == 0 || len(name) > 15 || strings.ContainsAny(name, "\x00\n") {
		return nil, theirs, fmt.Errorf("%q cannot be the name of a process", name)
	}
	a = &Actor{
		name:    name,
		pidfd:   -1,
		ended:   make(chan struct{}),
		threads: map[string]*Thread{},
		waiting: map[uint64]chan<- response{},
	}
	a.Thread.actor = a
	a.links, theirs, err = newLinks()
	if err != nil {
		return nil, theirs, fmt.Errorf("make links: %w", err)
	}
	if err := unix.SetNonblock(a.links.command, true); err != nil { // for Close to end a Read
		a.links.close()
		theirs.close()
		return nil, theirs, err
	}
	a.command = os.NewFile(uintptr(a.links.command), "commands of "+name)
	a.out = gob.NewEncoder(a.command)
	return a, theirs, nil
}

// forkAndWait starts the process from the calling thread, says so, and waits
// for its end. It returns an error only if nothing was started.
func (a *Actor) forkAndWait(ns *NetNS, theirs links, started chan<- error) error {
	if err := ns.enter(); err != nil {
		return err
	}
	// Ctrl-C is for the script, which ends its actors: a process group of its own.
	pid, err := forkActor(a.name, theirs, nil, &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true})
	if err != nil {
		return err
	}
	err = a.setPID(pid)
	if err != nil {
		unix.Kill(pid, unix.SIGKILL) // it is ours and not reaped: this is its pid
	}
	started <- err
	a.status, _ = waitFor(pid)
	close(a.ended)
	return nil
}

// setPID makes a the actor of a process that is not reaped yet.
func (a *Actor) setPID(pid int) error {
	a.pid, a.tid = pid, pid
	var err error
	if a.pidfd, err = unix.PidfdOpen(pid, 0); err != nil {
		return fmt.Errorf("open pid %d: %w", pid, err)
	}
	return nil
}

// greet waits until the actor is ready. It ends it otherwise.
func (a *Actor) greet() error {
	hello := make(chan response, 1)
	a.waiting[0] = hello
	go a.receive()
	_, _, err := a.Thread.answer(request{Op: opHello}, hello)
	if err == nil {
		a.start, err = startTime(a.pid)
	}
	if err != nil {
		return errors.Join(err, a.Kill())
	}
	return nil
}

// startTime reads field 22 of /proc/PID/stat.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// Field 2, the name, is in brackets and may itself have spaces and brackets.
	rest := string(stat[strings.LastIndexByte(string(stat), ')')+1:])
	fields := strings.Fields(rest) // from field 3
	if len(fields) < 20 {
		return 0, fmt.Errorf("no start time in /proc/%d/stat", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
