// SPDX-License-Identifier: Apache-2.0

// Package lab makes scripted TCP situations whose truth is known: real
// processes (actors) in a private network namespace, each of which carries out
// single system calls on command and answers with the result and the time
// before and after. So a script is a sequence of steps: it knows which process
// did what, on which descriptor and when, and needs no sleeps.
//
// A program that uses it calls Main before anything else, because the actors
// are the same program, started again. It needs root and /proc.
//
// Of this module only internal/tcp is imported, so that the tests of all other
// packages can use lab.
package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

var errExited = errors.New("function ended its goroutine")

// NetNS is a private network namespace with lo up and immediate ACKs on it (see
// SetQuickACK). It lives until Close and until the last actor in it has ended.
type NetNS struct {
	fd    int
	inode uint32

	mu    sync.Mutex // held while routes change
	quick bool       // as SetQuickACK has it
	peers []family   // of those that have routes
}

// NewNetNS makes a network namespace. The caller closes it.
func NewNetNS() (*NetNS, error) {
	ns := &NetNS{fd: -1}
	err := onThread(ns.create)
	if err == nil {
		err = ns.SetQuickACK(true)
	}
	if err != nil {
		if ns.fd >= 0 {
			unix.Close(ns.fd)
		}
		return nil, fmt.Errorf("make a netns: %w", err)
	}
	return ns, nil
}

// create moves the calling thread into a new netns and opens that.
func (ns *NetNS) create() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	var err error
	ns.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open it: %w", err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(ns.fd, &stat); err != nil {
		return fmt.Errorf("stat it: %w", err)
	}
	ns.inode = uint32(stat.Ino)
	return loopbackUp()
}

// loopbackUp starts lo in the netns of the calling thread; the kernel then
// gives it 127.0.0.1 and ::1.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket for lo: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("start lo: %w", err)
	}
	return nil
}

// Inode gives the number by which the kernel knows the netns.
func (ns *NetNS) Inode() uint32 { return ns.inode }

// Path gives a file that leads to the netns, also from another process, until
// Close.
func (ns *NetNS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.fd) }

// Close gives the netns up. Actors still in it go on.
func (ns *NetNS) Close() error { return unix.Close(ns.fd) }

// Do runs f in a goroutine whose thread is in the netns, waits for it and
// returns its error. Goroutines that f starts are not in the netns.
func (ns *NetNS) Do(f func() error) error {
	return onThread(func() error {
		if err := ns.enter(); err != nil {
			return err
		}
		return f()
	})
}

// enter moves the calling thread into the netns. A nil ns is the one that the
// process is in.
func (ns *NetNS) enter() error {
	if ns == nil {
		return nil
	}
	if err := unix.Setns(ns.fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter netns %d: %w", ns.inode, err)
	}
	return nil
}

// SetSysctl sets one of the netns's own sysctls, such as
// net.ipv4.tcp_fin_timeout.
func (ns *NetNS) SetSysctl(name, value string) error {
	// /proc/sys/net shows the netns of the thread that opens the file.
	return ns.Do(func() error {
		path := "/proc/sys/" + strings.ReplaceAll(name, ".", "/")
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
		defer file.Close()
		if _, err := file.WriteString(value); err != nil {
			return fmt.Errorf("set %s to %q: %w", name, value, err)
		}
		return nil
	})
}

// onThread runs f on a thread of its own, which ends with f, waits for it and
// returns its error.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errExited
		defer func() { done <- err }()
		runtime.LockOSThread() // and never unlocked: the thread is thrown away
		if unix.Gettid() == unix.Getpid() {
			// The leader cannot be thrown away, and its netns is that of the
			// process to all who look. While this goroutine holds it, the
			// next one gets another thread.
			defer runtime.UnlockOSThread()
			err = onThread(f)
			return
		}
		err = f()
	}()
	return <-done
}
