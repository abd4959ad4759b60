// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"afterfin/internal/owner"
)

// child is the command that assert runs.
type child struct {
	process *os.Process
	ended   chan unix.WaitStatus // gets one
}

// start runs a command and reaps whatever ends as our child from then on: with a
// subreaper these are also orphans that the command left. Nobody else may wait.
func start(command *exec.Cmd, tree *owner.Tree) (*child, error) {
	if err := command.Start(); err != nil {
		return nil, err
	}
	c := &child{command.Process, make(chan unix.WaitStatus, 1)}
	_ = tree.Note(c.process.Pid) // it may end before its first row is read
	go c.reap()
	return c, nil
}

func (c *child) reap() {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil: // ECHILD: no more to come
			return
		case pid == c.process.Pid:
			c.ended <- status
		}
	}
}

// signals are those that are meant for the command.
type signals struct {
	in chan os.Signal
}

// takeSignals catches them from now on, and SIGQUIT with them.
func takeSignals(ending []os.Signal) *signals {
	s := &signals{make(chan os.Signal, 8)}
	signal.Notify(s.in, append([]os.Signal{syscall.SIGQUIT}, ending...)...)
	return s
}

// stop ends passOn too.
func (s *signals) stop() {
	signal.Stop(s.in)
	close(s.in)
}

// early gives one that came before the command was started, 0 if there is none.
func (s *signals) early() syscall.Signal {
	select {
	case got := <-s.in:
		return got.(syscall.Signal)
	default:
		return 0
	}
}

// passOn hands each of them to the command once: timeout(1) and the like send theirs to the
// process and then to its group, and many programs give up at the second.
func (s *signals) passOn(c *child) {
	sent := make(map[os.Signal]bool)
	for got := range s.in {
		if sent[got] || typed(got) {
			continue
		}
		sent[got] = true
		_ = c.process.Signal(got) // it may have ended
	}
}

// typed: a key of our terminal, as far as can be told. The kernel sends these to every
// process in the foreground, so the command, which is in our group, has it already.
func typed(s os.Signal) bool {
	if s != syscall.SIGINT && s != syscall.SIGQUIT {
		return false
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDONLY|unix.O_NOCTTY, 0)
	if err != nil { // there is no terminal
		return false
	}
	defer tty.Close()
	foreground, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && foreground == unix.Getpgrp()
}
