// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// errExited is what Do returns if fn never does (runtime.Goexit).
var errExited = errors.New("function in netns ended its goroutine")

// Do runs fn in a goroutine whose thread is in ns, waits for it and returns its
// error. A socket that fn opens belongs to ns for good; a goroutine that fn
// starts is not in ns. The netns of the process itself is not entered, so it
// needs no privilege. An error of Do itself wraps the errno, or fs.ErrNotExist
// if ns.Path is gone or leads to another netns by now.
//
// The thread ends with the goroutine and serves nothing else; the kernel may
// count it in ns for a moment after Do has returned.
func Do(ns NS, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		err := errExited
		defer func() { done <- err }()
		runtime.LockOSThread() // never unlocked: that makes the thread end
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end, and others read its netns as that of
			// the process. While this goroutine holds it, the next one is on
			// another thread.
			defer runtime.UnlockOSThread()
			err = Do(ns, fn)
			return
		}
		if entering := enter(ns); entering != nil {
			err = fmt.Errorf("enter netns %d: %w", ns.Inode, entering)
			return
		}
		err = fn()
	}()
	return <-done
}

// enter moves the calling thread into ns, unless it is there.
func enter(ns NS) error {
	current, err := Self()
	if err != nil || current == ns.Inode {
		return err
	}
	file, err := os.Open(ns.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	// Since the path was found its pid may have gone to another process.
	inode, err := inodeOf(file)
	if err != nil {
		return err
	}
	if inode != ns.Inode {
		return fmt.Errorf("%s leads elsewhere now: %w", ns.Path, fs.ErrNotExist)
	}
	err = unix.Setns(int(file.Fd()), unix.CLONE_NEWNET)
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("setns needs CAP_SYS_ADMIN: %w", err)
	case err != nil:
		return fmt.Errorf("setns: %w", err)
	}
	return nil
}
