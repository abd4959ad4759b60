// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDo(t *testing.T) {
	ns, _ := hold(t)
	outer, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	address := listener.Addr().String()
	if again, err := net.Listen("tcp4", address); err == nil {
		again.Close()
		t.Fatalf("%s is free in the outer netns", address)
	}
	err = Do(ns, func() error {
		if inode, err := Self(); err != nil || inode != ns.Inode {
			return fmt.Errorf("Self() = %d, %v; want %d", inode, err, ns.Inode)
		}
		again, err := net.Listen("tcp4", address)
		if err != nil {
			return err
		}
		return again.Close()
	})
	if err != nil {
		t.Error(err)
	}
	if inode, err := Self(); err != nil || inode != outer {
		t.Errorf("after Do: Self() = %d, %v; want %d", inode, err, outer)
	}
	failed := errors.New("failed")
	if err := Do(ns, func() error { return failed }); err != failed {
		t.Errorf("Do = %v, want the error of fn as it is", err)
	}
	if err := Do(ns, func() error { runtime.Goexit(); return nil }); err != errExited {
		t.Errorf("Do = %v after Goexit", err)
	}
}

// The main thread must stay out of it: what it enters, the process is in for
// every reader of /proc/PID/ns/net, us included.
func TestDoSparesMainThread(t *testing.T) {
	ns, _ := hold(t)
	want := statInode(t, "/proc/self/ns/net")
	for range 300 {
		err := Do(ns, func() error {
			if unix.Gettid() == unix.Getpid() {
				return errors.New("runs on the main thread")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := statInode(t, "/proc/self/ns/net"); got != want {
		t.Errorf("the process moved from netns %d to %d", want, got)
	}
}

func TestDoStale(t *testing.T) {
	ns, end := hold(t)
	own, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	must := func() error { t.Error("fn ran"); return nil }
	for _, stale := range []NS{
		{ns.Inode, "/proc/self/ns/net"},
		{ns.Inode, "/proc/self/status"},
		{ns.Inode, "/nonexistent"},
		{0, ns.Path},
		{},
	} {
		if err := Do(stale, must); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Do(%v) = %v", stale, err)
		}
	}
	// A process that has ended but was not waited for has no netns either.
	end()
	if err := Do(ns, must); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Do in the netns of a dead process = %v", err)
	}
	ran := false
	if err := Do(NS{Inode: own}, func() error { ran = true; return nil }); err != nil || !ran {
		t.Errorf("own netns: ran %v, %v", ran, err)
	}
}

// Without privileges the own netns still works, all else says what is missing.
func TestUnprivileged(t *testing.T) {
	const inherited = "/proc/self/fd/3"
	if !inChild(t) {
		ns, _ := hold(t)
		file, err := os.Open(ns.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
		runInChild(t, &syscall.SysProcAttr{Credential: nobody}, file)
		return
	}
	own, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	ran := false
	if err := Do(NS{Inode: own}, func() error { ran = true; return nil }); err != nil || !ran {
		t.Errorf("own netns: ran %v, %v", ran, err)
	}
	other, err := Resolve(inherited)
	if err != nil {
		t.Fatal(err)
	}
	err = Do(other, func() error { t.Error("fn ran"); return nil })
	if !errors.Is(err, unix.EPERM) || !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") {
		t.Errorf("Do = %v", err)
	}
	link := t.TempDir() + "/link"
	if err := os.Symlink("/proc/1/ns/net", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/proc/1/ns/net", link} {
		if _, err := Resolve(path); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("Resolve of init's netns = %v", err)
		}
	}
	found, unreadable, err := List()
	if err != nil || unreadable == 0 || len(found) == 0 {
		t.Errorf("List() = %v, %d, %v", found, unreadable, err)
	}
}
