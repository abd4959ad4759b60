// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
)

func TestNetNSIsPrivateAndHasLo(t *testing.T) {
	s := script{t}
	ns := s.netns()
	link, err := os.Readlink("/proc/self/ns/net")
	s.no(err)
	want := fmt.Sprintf("net:[%d]", ns.Inode())
	if link == want {
		t.Fatalf("the process itself is in %s", link)
	}
	var inside string
	s.no(ns.Do(func() error {
		inside, err = os.Readlink("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		interfaces, err := net.Interfaces()
		if err != nil {
			return err
		}
		if len(interfaces) != 1 || interfaces[0].Name != "lo" || interfaces[0].Flags&net.FlagUp == 0 {
			return fmt.Errorf("interfaces %v", interfaces)
		}
		return nil
	}))
	if inside != want {
		t.Errorf("Do ran in %s, want %s", inside, want)
	}
	if again, err := os.Readlink("/proc/self/ns/net"); err != nil || again != link {
		t.Errorf("after Do the process is in %s, %v; before in %s", again, err, link)
	}
	var stat unix.Stat_t
	s.no(unix.Stat(ns.Path(), &stat))
	if uint32(stat.Ino) != ns.Inode() {
		t.Errorf("%s leads to %d, want %d", ns.Path(), stat.Ino, ns.Inode())
	}

	// The same port is free in another netns.
	other := s.netns()
	_, at := s.listen(s.start(ns, "one"), loopback4, 1)
	two := s.start(other, "two")
	s.step(two.Bind(s.num(two.Socket(unix.AF_INET)), at))
	fd := s.num(two.Socket(unix.AF_INET))
	if _, err := two.Connect(fd, at); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connect into another netns: %v", err)
	}
}

func TestDoReturnsTheError(t *testing.T) {
	s := script{t}
	ns := s.netns()
	want := errors.New("told")
	if err := ns.Do(func() error { return want }); err != want {
		t.Errorf("Do = %v, want %v", err, want)
	}
}

func TestSysctlOfOneNetNS(t *testing.T) {
	s := script{t}
	const path = "/proc/sys/net/ipv4/tcp_fin_timeout"
	ns := s.netns()
	before := s.file(path)
	s.no(ns.SetSysctl("net.ipv4.tcp_fin_timeout", "7"))
	if now := s.file(path); now != before {
		t.Errorf("the sysctl of the process's netns went from %s to %s", before, now)
	}
	s.no(ns.Do(func() error {
		text, err := os.ReadFile(path)
		if got := strings.TrimSpace(string(text)); got != "7" {
			return fmt.Errorf("%s is %q, %v", path, got, err)
		}
		return nil
	}))
	if err := ns.SetSysctl("net.ipv4.no_such", "1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("unknown sysctl: %v", err)
	}
	if err := ns.SetSysctl("net.ipv4.tcp_fin_timeout", "many"); !errors.Is(err, unix.EINVAL) {
		t.Errorf("bad value: %v", err)
	}
}

// Whatever ends, nothing is left: no descriptor, no child.
func TestNothingIsLeft(t *testing.T) {
	s := script{t}
	use := func() (pids []int) {
		ns, err := lab.NewNetNS()
		s.no(err)
		a, err := ns.Start("a")
		s.no(err)
		b, err := ns.Start("b")
		s.no(err)
		listener, _ := s.listen(a, loopback4, 1)
		if _, err := a.SendFD(b, listener); err != nil {
			t.Fatal(err)
		}
		child, err := a.Spawn("child", listener)
		s.no(err)
		killed, err := a.Spawn("killed")
		s.no(err)
		noise, err := lab.StartNoise(2)
		s.no(err)
		s.no(noise.Stop())
		s.no(killed.Kill())
		s.no(child.Close())
		s.no(a.Close())
		s.no(b.Kill())
		s.no(ns.Close())
		pids = append(noise.PIDs(), a.PID(), b.PID(), child.PID(), killed.PID())
		for range 2 { // ending twice is allowed
			s.no(a.Close())
			s.no(b.Kill())
			s.no(child.Kill())
		}
		return pids
	}
	use() // what Go itself opens once is open then
	before := s.fds(os.Getpid())
	for _, pid := range use() {
		if err := unix.Kill(pid, 0); err != unix.ESRCH {
			t.Errorf("pid %d is there: %v", pid, err)
		}
	}
	if after := s.fds(os.Getpid()); after != before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("wait4 = %d, %v: a child is left", pid, err)
	}
}
