// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

// followed is leaks --follow -o json on a scene's netns, running.
type followed struct {
	cancel context.CancelFunc
	code   chan int
	docs   chan leaksDoc
	stderr *notes
}

func (s *scene) follow(args ...string) *followed {
	s.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &followed{cancel: cancel, code: make(chan int, 1), docs: make(chan leaksDoc), stderr: &notes{ready: make(chan struct{})}}
	out, in := io.Pipe()
	args = append([]string{"leaks", "--follow", "-o", "json", "--netns", s.ns.Path(), "--older-than", "0s", "--every", "50ms"}, args...)
	go func() {
		f.code <- run(env{ctx: ctx, stdout: in, stderr: f.stderr, getenv: os.Getenv, types: types}, args)
		in.Close()
	}()
	go func() {
		defer close(f.docs)
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return
			}
			var doc leaksDoc
			if err := json.Unmarshal(line, &doc); err != nil {
				s.Errorf("%v: %s", err, line)
			}
			f.docs <- doc
		}
	}()
	select {
	case <-f.stderr.ready:
	case code := <-f.code:
		s.Fatalf("exit %d: %s", code, f.stderr)
	case <-time.After(patience):
		s.Fatalf("not ready: %s", f.stderr)
	}
	s.Cleanup(func() {
		cancel()
		for range f.docs {
		}
	})
	return f
}

// until gives the first report that satisfies ok.
func (s *scene) until(f *followed, ok func(*leaksDoc) bool) (leaksDoc, lab.Step) {
	s.Helper()
	late := time.After(patience)
	when := lab.Step{Before: lab.Mono()}
	for {
		select {
		case doc, open := <-f.docs:
			if !open {
				s.Fatalf("it ended: %s", f.stderr)
			}
			when.After = lab.Mono()
			if ok(&doc) {
				return doc, when
			}
			when.Before = when.After
		case <-late:
			s.Fatalf("no such report: %s", f.stderr)
		}
	}
}

// TestLeaksFollow: with BPF, ages are exact, the side of a connection is known, a
// descriptor that dies is seen, and who made a socket that somebody else holds.
func TestLeaksFollow(t *testing.T) {
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			s := &scene{T: t, begin: lab.Mono(), ns: newNetNS(t), family: family, sock: make(map[uint64]*expected)}
			f := s.follow()
			client, srv := s.actor("client"), s.actor("server")
			_, c, a := s.pair(client, srv)
			fin := s.closeWait(client, srv, c, a)
			doc, when := s.until(f, func(d *leaksDoc) bool { return len(d.Leaks) == 1 })
			want := waiting("eof_unread", client, c, fin)
			want.side = "connect"
			when.Before = fin.After // of a report that was under way
			s.leaks(doc, when, want)
			if l := doc.Leaks[0].Sockets[0]; l.Quality != "exact" || l.Age == nil || doc.Lost == nil {
				t.Errorf("age %s %v, lost %v", l.Quality, ptr(l.Age), doc.Lost)
			}

			_, c2, a2 := s.pair(client, srv)
			s.step(client.SetLinger0(c2.fd))
			s.step(client.CloseFD(c2.fd))
			s.state(srv, a2.fd, tcp.Close)
			doc, when = s.until(f, func(d *leaksDoc) bool { return len(d.Leaks) == 2 })
			when.Before = fin.After
			s.leaks(doc, when, want, leaked{verdict: "dead_fd", by: srv, fd: a2.fd, local: a2.local, remote: a2.remote})

			s.step(client.CloseFD(c.fd))
			doc, _ = s.until(f, func(d *leaksDoc) bool { return len(d.Leaks) == 1 })
			if doc.Leaks[0].Verdict != "dead_fd" {
				t.Errorf("what is left: %+v", doc.Leaks)
			}
			f.cancel()
			for range f.docs {
			}
			if code := <-f.code; code != exitOK {
				t.Errorf("exit %d: %s", code, f.stderr)
			}
		})
	}
}

// TestLeaksFailOver: thresholds that were asked for exit 3, what is ignored does not count.
func TestLeaksFailOver(t *testing.T) {
	s := &scene{T: t, begin: lab.Mono(), ns: newNetNS(t), family: families[0], sock: make(map[uint64]*expected)}
	client, srv := s.actor("client"), s.actor("server")
	_, c, a := s.pair(client, srv)
	s.step(srv.Shutdown(a.fd, unix.SHUT_WR))
	s.state(client, c.fd, tcp.CloseWait)
	at := []string{"leaks", "--netns", s.ns.Path(), "--older-than", "0s"}
	for _, test := range []struct {
		args []string
		code int
	}{
		{[]string{"--fail-over", "0"}, exitThreshold},
		{[]string{"--fail-over", "1"}, exitOK},
		{[]string{"--fail-over", "1h"}, exitOK},
		{[]string{"--fail-over", "1ns", "--ignore", "comm=client"}, exitOK},
		{[]string{"--fail-over", "0", "--ignore", "comm=server"}, exitThreshold},
		{[]string{"--fail-over", "0", "--ignore", "remote=" + c.remote}, exitOK},
		{[]string{"--fail-over", "0", "--comm", "server"}, exitOK},
		{[]string{"--fail-over", "0", "--comm", "client"}, exitThreshold},
		{[]string{"--fail-over", "0", "--pid", "1"}, exitOK},
		{[]string{"--fail-over", "0", "--sample", "10ms"}, exitThreshold},
	} {
		stdout, stderr, code := runAs(t, nil, "", append(at, test.args...)...)
		if code != test.code {
			t.Errorf("%v exits %d, want %d: %s%s", test.args, code, test.code, stdout, stderr)
		}
	}
}

// TestLeaksUnprivileged: without root there is a report all the same. Other users'
// sockets are seen, who holds them is not, and that is said.
func TestLeaksUnprivileged(t *testing.T) {
	s := &scene{T: t, begin: lab.Mono(), ns: newNetNS(t), family: families[0], sock: make(map[uint64]*expected)}
	client, srv := s.actor("client"), s.actor("server")
	_, c, a := s.pair(client, srv)
	fin := s.closeWait(client, srv, c, a)
	when := lab.Step{Before: lab.Mono()}
	var stdout, stderr string
	var code int
	s.must(s.ns.Do(func() error {
		stdout, stderr, code = asNobody(t, nil, "leaks", "-o", "json", "--older-than", "0s")
		return nil
	}))
	when.After = lab.Mono()
	var doc leaksDoc
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil || code != exitOK {
		t.Fatalf("exit %d, %v: %s%s", code, err, stdout, stderr)
	}
	want := waiting("unknown", nil, c, fin)
	want.fd = -1
	s.leaks(doc, when, want)
	if doc.Unreadable == 0 {
		t.Errorf("no process is unreadable: %s", stdout)
	}
}
