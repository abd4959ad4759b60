// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/specimen"
)

// whereScene is a C program that leaks what it connects or accepts.
type whereScene struct {
	*scene
	call    string
	program *specimen.Process
	peer    *lab.Actor
	at      *server // of the peer, if the program connects
	port    int     // of the program, if it accepts
}

func newWhereScene(t *testing.T, name, call string) *whereScene {
	s := &whereScene{scene: &scene{T: t, begin: lab.Mono(), ns: newNetNS(t), family: families[0], sock: make(map[uint64]*expected)}, call: call}
	s.peer = s.actor("peer")
	host, port := "127.0.0.1", "0"
	if call == "connect" {
		s.at = s.server(s.peer, 8)
		host, port = s.at.at.Addr().String(), fmt.Sprint(s.at.at.Port())
	}
	s.program = startSpecimen(t, s.ns, name, call, host, port)
	if call == "accept" {
		var err error
		s.port, err = s.program.Listening()
		s.must(err)
	}
	return s
}

// leak has the program make a connection that the peer closes, and gives its descriptor.
func (s *whereScene) leak() (fd int) {
	s.Helper()
	if s.call == "connect" {
		_, fd, err := s.program.Open()
		s.must(err)
		s.step(s.peer.CloseFD(s.fd(s.peer.Accept(s.at.fd))))
		return fd
	}
	c := s.fd(s.peer.Socket(unix.AF_INET))
	s.step(s.peer.Connect(c, netip.AddrPortFrom(s.family.address.Addr(), uint16(s.port))))
	_, fd, err := s.program.Open()
	s.must(err)
	s.step(s.peer.CloseFD(c))
	return fd
}

// chain gives the functions of a site from the call of ours to main, and their files.
func chain(s *siteRow) (functions, modules []string) {
	for i := range s.Frames {
		f := &s.Frames[i]
		name := deref(f.Function)
		if s.Named == nil || i < *s.Named {
			continue
		}
		functions, modules = append(functions, name), append(modules, path.Base(deref(f.Module)))
		if name == "main" {
			break
		}
	}
	return functions, modules
}

// TestWhere: the sockets that a program without frame pointers leaks are put down to the
// whole chain of callers, through libc and a shared library. It is looked at closely until
// it leaks no more, and nothing is armed then.
func TestWhere(t *testing.T) {
	for _, name := range specimen.Programs() {
		for _, call := range []string{"connect", "accept"} {
			t.Run(name+"/"+call, func(t *testing.T) {
				s := newWhereScene(t, name, call)
				f := s.follow("--deep")
				fds := []int{s.leak()}
				said := func(what string) func(*leaksDoc) bool {
					return func(*leaksDoc) bool { return strings.Contains(f.stderr.String(), what) }
				}
				s.until(f, said(" armed"))
				for range 2 {
					fds = append(fds, s.leak())
				}
				doc, _ := s.until(f, func(d *leaksDoc) bool {
					return len(d.Leaks) == 1 && d.Leaks[0].Count == len(fds) && slices.ContainsFunc(d.Leaks[0].Sites, func(at siteRow) bool { return at.How == "unwinding" && at.Count >= 2 })
				})
				s.checkWhere(&doc, name, fds)

				begin := time.Now()
				s.must(s.program.CloseAll())
				s.until(f, said(" disarmed"))
				if took := time.Since(begin); took > 5*time.Second {
					t.Errorf("disarmed %v after the end of the leak", took)
				}
			})
		}
	}
}

func (s *whereScene) checkWhere(doc *leaksDoc, name string, fds []int) {
	s.Helper()
	g := &doc.Leaks[0]
	if g.PID != s.program.PID() || g.Count != len(fds) {
		s.Fatalf("%d leaks of %d, want %d of %d", g.Count, g.PID, len(fds), s.program.PID())
	}
	at := slices.IndexFunc(g.Sites, func(at siteRow) bool { return at.How == "unwinding" })
	place := &g.Sites[at]
	functions, modules := chain(place)
	if want := specimen.Chain(s.call); !slices.Equal(functions, want) || !place.Sure || place.Call != s.call {
		s.Errorf("%s, sure %v: %v, want %v", place.Call, place.Sure, functions, want)
	}
	for i, f := range functions {
		want := name
		if specimen.InLibrary(f) {
			want = specimen.Library
		}
		if modules[i] != want {
			s.Errorf("%s is in %s, want %s", f, modules[i], want)
		}
	}
	if name == "leak-debug" {
		s.checkLines(place)
	}
	// The first one was made before anybody looked closely: frame pointers may know its place.
	for _, fd := range fds[1:] {
		n := slices.IndexFunc(g.Sockets, func(l leakedSocket) bool { return l.FD != nil && *l.FD == fd })
		if n < 0 {
			s.Fatalf("fd %d is not among %+v", fd, g.Sockets)
		}
		if i := g.Sockets[n].SiteIndex; i == nil || *i != at {
			s.Errorf("fd %d was made at %v", fd, g.Sockets[n].SiteIndex)
		}
	}
}

// checkLines: the line is that of the call, in the source itself.
func (s *whereScene) checkLines(place *siteRow) {
	s.Helper()
	lines := strings.Split(string(specimen.Source()), "\n")
	calls := map[string]string{"open_one": "ours_socket_" + s.call, "serve": "ours_repeat", "main": "serve"}
	for i := range place.Frames {
		f := &place.Frames[i]
		callee, ours := calls[deref(f.Function)]
		if !ours {
			continue
		}
		if f.Line == nil || int(*f.Line) > len(lines) || !strings.Contains(lines[*f.Line-1], callee) {
			s.Errorf("%s %s:%v does not call %s", deref(f.Function), deref(f.File), ptr(f.Line), callee)
		}
	}
}
