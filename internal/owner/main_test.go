// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

// childEnv names the test that a child process runs, or says holdChild.
const (
	childEnv  = "AFTERFIN_OWNER_CHILD"
	holdChild = "hold"
)

// TestMain makes of this binary also the process that only holds what it has
// inherited: it reads its standard input to the end.
func TestMain(m *testing.M) {
	lab.Main()
	if os.Getenv(childEnv) == holdChild {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(role string, attr *syscall.SysProcAttr, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...) // may be run by another user, who cannot walk its path
	cmd.Env = append(os.Environ(), childEnv+"="+role)
	cmd.SysProcAttr = attr
	return cmd
}

func inChild(t *testing.T) bool { return os.Getenv(childEnv) == t.Name() }

// runInChild runs the calling test again, in a process with these attributes.
func runInChild(t *testing.T, attr *syscall.SysProcAttr, env ...string) {
	t.Helper()
	cmd := child(t.Name(), attr, "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(cmd.Env, env...)
	output, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(output), "--- PASS: "+t.Name()) {
		t.Errorf("child: %v\n%s", err, output)
	}
}

// nobody is a user that owns nothing.
const nobody = 65534

func asNobody() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
}

// among gives a finder that sees these processes only: what others do on the
// machine is not in the answer, and they are not disturbed.
func among(t testing.TB, pids ...int) *finder {
	t.Helper()
	proc := t.TempDir()
	for _, pid := range pids {
		name := strconv.Itoa(pid)
		if err := os.Symlink("/proc/"+name, filepath.Join(proc, name)); err != nil {
			t.Fatal(err)
		}
	}
	return newFinder(proc, t.TempDir())
}

func set(inodes ...uint64) map[uint64]bool {
	all := map[uint64]bool{}
	for _, inode := range inodes {
		all[inode] = true
	}
	return all
}

// script fails its test at the first step that does not go as expected.
type script struct{ testing.TB }

func (s script) no(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s script) step(_ lab.Step, err error) {
	s.Helper()
	s.no(err)
}

func (s script) num(n int, _ lab.Step, err error) int {
	s.Helper()
	s.no(err)
	return n
}

func (s script) poll(events int16, _ lab.Step, err error) int16 {
	s.Helper()
	s.no(err)
	return events
}

func (s script) inode(a *lab.Actor, fd int) uint64 {
	s.Helper()
	inode, _, err := a.Inode(fd)
	s.no(err)
	return inode
}

func (s script) netns() *lab.NetNS {
	s.Helper()
	ns, err := lab.NewNetNS()
	s.no(err)
	s.Cleanup(func() { s.no(ns.Close()) })
	return ns
}

func (s script) start(ns *lab.NetNS, name string) *lab.Actor {
	s.Helper()
	a, err := ns.Start(name)
	s.no(err)
	s.Cleanup(func() { s.no(a.Close()) })
	return a
}

// route is a way to address a connection; all listeners take a port of the
// kernel's choice.
type route struct {
	name           string
	family         int
	bound, dialled string
}

var routes = []route{
	{"ipv4", unix.AF_INET, "127.0.0.1", "127.0.0.1"},
	{"ipv6", unix.AF_INET6, "::1", "::1"},
	{"v4-mapped", unix.AF_INET6, "::", "127.0.0.1"},
}

// listen has a listen as the route says.
func (r route) listen(s script, a *lab.Actor) (fd int, at netip.AddrPort) {
	s.Helper()
	fd = s.num(a.Socket(r.family))
	s.step(a.Bind(fd, netip.AddrPortFrom(netip.MustParseAddr(r.bound), 0)))
	s.step(a.Listen(fd, 8))
	at, _, err := a.LocalAddr(fd)
	s.no(err)
	return fd, netip.AddrPortFrom(netip.MustParseAddr(r.dialled), at.Port())
}

// end is one end of a connection.
type end struct {
	*lab.Actor
	fd            int
	inode         uint64
	local, remote netip.AddrPort
}

func (s script) end(a *lab.Actor, fd int) end {
	s.Helper()
	local, _, err := a.LocalAddr(fd)
	s.no(err)
	remote, _, err := a.RemoteAddr(fd)
	s.no(err)
	return end{a, fd, s.inode(a, fd), local, remote}
}

// pair connects client to server.
func (r route) pair(s script, client, server *lab.Actor) (c, d end) {
	s.Helper()
	listener, at := r.listen(s, server)
	fd := s.num(client.Socket(r.family))
	s.step(client.Connect(fd, at))
	accepted := s.num(server.Accept(listener))
	s.step(server.CloseFD(listener))
	return s.end(client, fd), s.end(server, accepted)
}

// patience is for what happens soon, also on an emulated machine.
const patience = 40 * time.Second

// reaches waits until the kernel says that an end is in a state.
func (s script) reaches(e end, want tcp.State) {
	s.Helper()
	for deadline := time.Now().Add(patience); ; {
		state, _, err := e.TCPState(e.fd)
		s.no(err)
		if state == want {
			return
		}
		if time.Now().After(deadline) {
			s.Fatalf("%s fd %d is in %v, want %v", e.Name(), e.fd, state, want)
		}
	}
}

// reset has e end its connection with a RST.
func (s script) reset(e end) {
	s.Helper()
	s.step(e.SetLinger0(e.fd))
	s.step(e.CloseFD(e.fd))
}
