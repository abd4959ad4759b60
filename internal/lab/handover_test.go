// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

func TestSpawnShares(t *testing.T) {
	s := script{t}
	ns := s.netns()
	client, parent := s.start(ns, "client"), s.start(ns, "parent")
	fd, conn := s.pair(client, parent)
	kept := s.num(parent.Socket(unix.AF_INET))
	child, err := parent.Spawn("child", conn)
	s.no(err)
	defer func() { s.no(child.Close()) }()

	if ppid := strings.Fields(s.file("/proc/%d/stat", child.PID()))[3]; ppid != fmt.Sprint(parent.PID()) {
		t.Errorf("the child's parent is %s, want %d", ppid, parent.PID())
	}
	if got := s.file("/proc/%d/comm", child.PID()); got != "child" {
		t.Errorf("child is called %q", got)
	}
	if s.id(child.Inode(conn)) != s.id(parent.Inode(conn)) {
		t.Error("not the same socket")
	}
	if _, _, err := child.Inode(kept); !errors.Is(err, unix.EBADF) {
		t.Errorf("the child has fd %d, which it was not given: %v", kept, err)
	}

	s.step(parent.CloseFD(conn))
	s.state(client, fd, tcp.Established)
	s.no(parent.Kill())
	s.state(client, fd, tcp.Established)
	if got := s.pollNow(client, fd); got != 0 {
		t.Errorf("poll gave %#x while the child holds the connection", got)
	}
	s.step(child.CloseFD(conn))
	s.poll(client, fd, unix.POLLIN|unix.POLLRDHUP)
	s.state(client, fd, tcp.CloseWait)
}

// Where the script is init, as in a guest, it reaps the children of the dead.
func TestOrphanIsReaped(t *testing.T) {
	s := script{t}
	s.no(unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	parent := s.start(s.netns(), "parent")
	child, err := parent.Spawn("child")
	s.no(err)
	s.no(parent.Kill())
	s.no(child.Close())
	if err := unix.Kill(child.PID(), 0); err != unix.ESRCH {
		t.Errorf("pid %d is there: %v", child.PID(), err)
	}
}

// A server that forks before it accepts: the listener is shared.
func TestSpawnPrefork(t *testing.T) {
	s := script{t}
	ns := s.netns()
	client, parent := s.start(ns, "client"), s.start(ns, "parent")
	listener, at := s.listen(parent, loopback4, 8)
	for _, name := range []string{"child1", "child2"} {
		child, err := parent.Spawn(name, listener)
		s.no(err)
		pending, err := child.StartAccept(listener)
		s.no(err)
		fd := s.num(client.Socket(unix.AF_INET))
		s.step(client.Connect(fd, at))
		conn := s.num(pending.Wait())
		// The grandchild gets the connection, and nothing that was not named.
		grandchild, err := child.Spawn("grandchild", conn)
		s.no(err)
		if got, want := s.addr(grandchild.RemoteAddr(conn)), s.addr(client.LocalAddr(fd)); got != want {
			t.Errorf("connection comes from %v, want %v", got, want)
		}
		if _, _, err := grandchild.Inode(listener); !errors.Is(err, unix.EBADF) {
			t.Errorf("the grandchild has the listener: %v", err)
		}
		s.no(grandchild.Close())
		s.no(child.Close())
	}
	if _, err := parent.Spawn("bad", 3); !errors.Is(err, unix.EBADF) {
		t.Errorf("spawn with the commands' descriptor: %v", err)
	}
	if _, err := parent.Spawn("bad", 999); !errors.Is(err, unix.EBADF) {
		t.Errorf("spawn with a closed descriptor: %v", err)
	}
}

func TestSendFD(t *testing.T) {
	s := script{t}
	ns := s.netns()
	client, from, to := s.start(ns, "client"), s.start(ns, "from"), s.start(ns, "to")
	fd, conn := s.pair(client, from)
	before := [2]int{s.fds(from.PID()), s.fds(to.PID())}
	got, err := from.SendFD(to, conn)
	s.no(err)
	if s.id(to.Inode(got)) != s.id(from.Inode(conn)) {
		t.Error("not the same socket")
	}
	if after := [2]int{s.fds(from.PID()), s.fds(to.PID())}; after != [2]int{before[0], before[1] + 1} {
		t.Errorf("%v descriptors, before %v", after, before)
	}
	s.step(from.CloseFD(conn))
	s.state(client, fd, tcp.Established)
	s.step(to.CloseFD(got))
	s.poll(client, fd, unix.POLLRDHUP)

	if _, err := from.SendFD(to, 999); !errors.Is(err, unix.EBADF) {
		t.Errorf("sending a closed descriptor: %v", err)
	}
	s.no(to.Kill())
	if _, err := from.SendFD(to, 1); !errors.Is(err, lab.ErrEnded) {
		t.Errorf("sending to a killed actor: %v", err)
	}
	if n := s.fds(from.PID()); n != before[0]-1 {
		t.Errorf("%d descriptors, want %d", n, before[0]-1)
	}
}

func TestNetServer(t *testing.T) {
	s := script{t}
	ns := s.netns()
	client, server := s.start(ns, "client"), s.start(ns, "server")
	listener, at, step, err := server.NetListen(loopback4)
	s.step(step, err)
	fd := s.num(client.Socket(unix.AF_INET))
	s.step(client.Connect(fd, at))
	conn, from, step, err := server.NetAccept()
	s.step(step, err)
	if want := s.addr(client.LocalAddr(fd)); from != want {
		t.Errorf("accepted from %v, want %v", from, want)
	}
	if s.id(server.Inode(conn)) == s.id(server.Inode(listener)) {
		t.Error("the connection is the listener")
	}
	s.step(server.NetCloseConn())
	s.poll(client, fd, unix.POLLRDHUP)
	s.step(server.NetCloseListener())
	if _, err := client.Connect(s.num(client.Socket(unix.AF_INET)), at); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connect after the listener is closed: %v", err)
	}
	if _, err := server.NetCloseConn(); err == nil {
		t.Error("a connection was closed twice")
	}
}

func TestNoise(t *testing.T) {
	s := script{t}
	noise, err := lab.StartNoise(3)
	s.no(err)
	pids := noise.PIDs()
	if len(pids) != 3 {
		t.Errorf("%d processes", len(pids))
	}
	for _, pid := range pids {
		if got := s.file("/proc/%d/comm", pid); got != "noise" {
			t.Errorf("process is called %q", got)
		}
	}
	s.no(noise.Stop())
	for _, pid := range pids {
		if err := unix.Kill(pid, 0); err != unix.ESRCH {
			t.Errorf("pid %d is there: %v", pid, err)
		}
	}
}

// makeOrphans is another program: it starts actors, tells their pids and waits
// to be killed.
func makeOrphans() {
	ns, err := lab.NewNetNS()
	if err != nil {
		panic(err)
	}
	a, err := ns.Start("actor")
	if err != nil {
		panic(err)
	}
	child, err := a.Spawn("child")
	if err != nil {
		panic(err)
	}
	noise, err := lab.StartNoise(1)
	if err != nil {
		panic(err)
	}
	fmt.Println(a.PID(), child.PID(), noise.PIDs()[0])
	select {}
}

func TestActorsEndWithTheirProgram(t *testing.T) {
	s := script{t}
	program := exec.Command("/proc/self/exe")
	program.Env = append(os.Environ(), orphansEnv+"=1")
	program.Stderr = os.Stderr
	stdout, err := program.StdoutPipe()
	s.no(err)
	s.no(program.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	s.no(err)
	var pids [3]int
	_, err = fmt.Sscan(line, &pids[0], &pids[1], &pids[2])
	s.no(err)
	var polls []unix.PollFd
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		s.no(err)
		defer unix.Close(fd)
		polls = append(polls, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	s.no(program.Process.Kill())
	program.Wait() // its status is that it was killed
	for i := range polls {
		n, err := unix.Poll(polls[i:i+1], 10_000)
		for err == unix.EINTR {
			n, err = unix.Poll(polls[i:i+1], 10_000)
		}
		if n != 1 {
			t.Errorf("pid %d lives on: %v", pids[i], err)
			unix.Kill(pids[i], unix.SIGKILL)
		}
	}
}
