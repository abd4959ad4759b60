// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// fdOf is a holder without the rest of its process.
type fdOf struct{ pid, fd int }

func fds(holders []Holder) (all []fdOf) {
	for _, h := range holders {
		all = append(all, fdOf{h.Process.PID, h.FD})
	}
	return all
}

func (s script) expect(got []Holder, want ...fdOf) {
	s.Helper()
	slices.SortFunc(want, func(a, b fdOf) int {
		if a.pid != b.pid {
			return a.pid - b.pid
		}
		return a.fd - b.fd
	})
	if all := fds(got); !slices.Equal(all, want) {
		s.Errorf("holders %v, want %v", all, want)
	}
}

// From one holder to a child, a third process and none.
func TestHolders(t *testing.T) {
	for _, r := range routes {
		t.Run(r.name, func(t *testing.T) {
			s := script{t}
			ns := s.netns()
			client, server, third := s.start(ns, "client"), s.start(ns, "server"), s.start(ns, "third")
			c, d := r.pair(s, client, server)
			other := s.inode(server, s.num(server.Socket(r.family)))
			find := func() *Scan {
				t.Helper()
				scan, err := Find(set(c.inode, d.inode), nil)
				s.no(err)
				if scan.Holders[other] != nil || scan.Strays != nil {
					t.Errorf("not asked for: %v, %v", scan.Holders[other], scan.Strays)
				}
				s.expect(scan.Holders[c.inode], fdOf{c.PID(), c.fd})
				return scan
			}
			s.expect(find().Holders[d.inode], fdOf{d.PID(), d.fd})

			forked, err := server.Spawn("forked", d.fd)
			s.no(err)
			scan := find()
			s.expect(scan.Holders[d.inode], fdOf{d.PID(), d.fd}, fdOf{forked.PID(), d.fd})
			for _, h := range scan.Holders[d.inode] {
				if h.Process.PID == forked.PID() && (h.Process.PPID != server.PID() || h.Process.Comm != "forked") {
					t.Errorf("%+v, want a child of %d", h.Process, server.PID())
				}
			}
			s.step(server.CloseFD(d.fd))
			s.expect(find().Holders[d.inode], fdOf{forked.PID(), d.fd})

			sent, err := forked.SendFD(third, d.fd)
			s.no(err)
			s.expect(find().Holders[d.inode], fdOf{forked.PID(), d.fd}, fdOf{third.PID(), sent})
			s.no(forked.Kill())
			s.expect(find().Holders[d.inode], fdOf{third.PID(), sent})
			s.step(third.CloseFD(sent))
			if got := find().Holders; len(got) != 1 {
				t.Errorf("%d sockets have holders, want the client's alone", len(got))
			}
		})
	}
}

// All descriptors of one process for one socket, by number and not by text.
func TestHoldersSorted(t *testing.T) {
	s := script{t}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	s.no(err)
	defer unix.Close(fd)
	want := []fdOf{{os.Getpid(), fd}}
	for _, above := range []int{900, 99, 1000} {
		duplicate, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, above)
		s.no(err)
		defer unix.Close(duplicate)
		want = append(want, fdOf{os.Getpid(), duplicate})
	}
	inode := inodeOf(t, fd)
	scan, err := among(t, os.Getpid()).find(set(inode), set())
	s.no(err)
	s.expect(scan.Holders[inode], want...)
	first := scan.Holders[inode][0].Process
	for _, h := range scan.Holders[inode] {
		if h.Process != first {
			t.Error("one process is there twice")
		}
	}
}

func inodeOf(t testing.TB, fd int) uint64 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Ino
}

// A process that has ended is left out, also while nobody has waited for it.
func TestEnded(t *testing.T) {
	s := script{t}
	var a, b int
	s.no(s.netns().Do(func() (err error) {
		if a, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
			b, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		}
		return err
	}))
	first, second := os.NewFile(uintptr(a), "a"), os.NewFile(uintptr(b), "b")
	wanted := []uint64{inodeOf(t, a), inodeOf(t, b)}
	cmd := child(holdChild, nil)
	cmd.ExtraFiles = []*os.File{first, second}
	stdin, err := cmd.StdinPipe()
	s.no(err)
	s.no(cmd.Start())
	first.Close()
	second.Close()
	pid := cmd.Process.Pid
	f := among(t, pid)
	p, err := f.open(pid)
	s.no(err)
	defer p.close()

	scan, err := f.find(set(wanted...), nil)
	s.no(err)
	s.expect(scan.Holders[wanted[0]], fdOf{pid, 3})
	s.expect(scan.Holders[wanted[1]], fdOf{pid, 4})
	dir, _, err := p.descriptors()
	s.no(err)
	defer dir.Close()

	stdin.Close()
	s.no(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil))
	if _, err := f.describe(p, 0); !gone(err) {
		t.Errorf("of a zombie: %v", err)
	}
	empty := &Scan{Holders: map[uint64][]Holder{}, Fixed: map[uint64][]Holder{}}
	check := func() {
		t.Helper()
		if scan, err := f.find(set(wanted...), set()); err != nil || !reflect.DeepEqual(scan, empty) {
			t.Errorf("%+v, %v", scan, err)
		}
	}
	check()
	s.no(cmd.Wait())
	check()
	// What was opened before knows it, even if the number belongs to another now.
	if err := p.there(); !gone(err) {
		t.Errorf("there() = %v", err)
	}
	w := &walk{finder: f, wanted: set(wanted...), scan: empty, processes: map[int]*Process{}}
	if err := w.look(p, dir, []string{"3"}); err != nil || len(empty.Holders) > 0 {
		t.Errorf("look = %v, %v", err, empty)
	}
}

func TestParseSocket(t *testing.T) {
	for link, want := range map[string]uint64{
		"socket:[1]":                   1,
		"socket:[4294967296]":          4294967296,
		"socket:[0]":                   0,
		"socket:[]":                    0,
		"socket:[-1]":                  0,
		"socket:[1":                    0,
		"socket:[1]x":                  0,
		"socket:[99999999999999999999": 0,
		"pipe:[12]":                    0,
		"/tmp/socket:[12]":             0,
		"":                             0,
	} {
		inode, ok := parseSocket([]byte(link))
		if inode != want || ok != (want > 0 || link == "socket:[0]") {
			t.Errorf("parseSocket(%q) = %d, %v; want %d", link, inode, ok, want)
		}
	}
}

// 20,000 descriptors of 50 processes, all of them wanted, or all known and none
// wanted.
func BenchmarkFind(b *testing.B) {
	const processes, each = 50, 400
	all := map[uint64]bool{}
	var pids []int
	for range processes {
		cmd := child(holdChild, nil)
		for range each {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				b.Fatal(err)
			}
			all[inodeOf(b, fd)] = true
			cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(fd), strconv.Itoa(fd)))
		}
		start(b, cmd)
		for _, file := range cmd.ExtraFiles {
			file.Close()
		}
		pids = append(pids, cmd.Process.Pid)
	}
	f := among(b, pids...)
	for _, c := range []struct {
		name           string
		wanted, listed map[uint64]bool
		found          int
	}{
		{"wanted", all, all, processes * each},
		{"listed", nil, all, 0},
	} {
		b.Run(fmt.Sprintf("%s=%d", c.name, len(all)), func(b *testing.B) {
			before := cpu(b)
			for b.Loop() {
				scan, err := f.find(c.wanted, c.listed)
				if err != nil || len(scan.Holders) != c.found || len(scan.Strays) > 0 {
					b.Fatalf("%d holders, %v", len(scan.Holders), err)
				}
			}
			b.ReportMetric((cpu(b)-before)*1e3/float64(b.N), "cpu-ms/op")
		})
	}
	b.Run("machine", func(b *testing.B) {
		before := cpu(b)
		for b.Loop() {
			if _, err := Find(all, nil); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric((cpu(b)-before)*1e3/float64(b.N), "cpu-ms/op")
	})
}

// start starts a process that ends with the test.
func start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// cpu gives the time in seconds that this process has used.
func cpu(t testing.TB) float64 {
	t.Helper()
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return float64(usage.Utime.Nano()+usage.Stime.Nano()) / 1e9
}
