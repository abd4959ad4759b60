// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"slices"
	"time"

	"afterfin/internal/lab"
)

// leaksDoc is the document of leaks -o json, read as a script would.
type leaksDoc struct {
	State   string
	Leaks   []leakRow
	Younger int
	Lost    *struct{}

	Unreadable int
}

type leakRow struct {
	PID       int
	Start     int64 `json:"start_ns"`
	PPID      int
	Comm      string
	Count     int
	Dead      int `json:"dead_fds"`
	Verdict   string
	Inherited bool
	Pool      bool `json:"pool_like"`
	Site      []frameRow
	Sites     []siteRow
	Sockets   []leakedSocket
}

// siteRow and frameRow are where sockets were made.
type siteRow struct {
	Count     int
	Call, How string
	Sure      bool
	Named     *int
	Note      *string
	Frames    []frameRow
}

type frameRow struct {
	Function, File, Module *string
	Line                   *int64
}

type leakedSocket struct {
	FD        *int
	Holders   []struct{ PID, FD int }
	Cookie    *uint64
	Local     *string
	Remote    *string
	Side      *string
	AgeMin    *int64 `json:"age_min_ns"`
	AgeMax    *int64 `json:"age_max_ns"`
	Age       *int64 `json:"age_ns"`
	Quality   string `json:"age_quality"`
	Verdict   string
	Inferred  bool
	Inherited bool
	CarrierFD *int `json:"carrier_fd"`
	SiteIndex *int `json:"site_index"`
	Backlog   *struct {
		Listener      string
		Waiting, Size int
	}
}

// leaksOf runs leaks on the scene's netns, and says when.
func (s *scene) leaksOf(args ...string) (doc leaksDoc, when lab.Step) {
	s.Helper()
	var stdout, stderr bytes.Buffer
	args = append([]string{"leaks", "-o", "json", "--netns", s.ns.Path(), "--older-than", "0s"}, args...)
	when.Before, when.Ticked = lab.Mono(), lab.Ticked()
	code := run(env{ctx: context.Background(), stdout: &stdout, stderr: &stderr, getenv: os.Getenv}, args)
	when.After = lab.Mono()
	if code != exitOK {
		s.Fatalf("leaks exits %d: %s", code, &stderr)
	}
	if err := json.Unmarshal(stdout.Bytes(), &doc); err != nil {
		s.Fatalf("%v: %s", err, &stdout)
	}
	return doc, when
}

// leaksSoon is for sockets that nobody has a descriptor of, to ask for the state.
func (s *scene) leaksSoon() (doc leaksDoc, when lab.Step) {
	s.Helper()
	for begin := lab.Mono(); len(doc.Leaks) == 0 && lab.Mono()-begin < patience; {
		doc, when = s.leaksOf()
	}
	return doc, when
}

// leaked is one socket that must be found, and where.
type leaked struct {
	verdict       string
	by            *lab.Actor // nil: nobody
	fd            int        // -1: none
	others        []*lab.Actor
	side          string
	since         lab.Step // what began it; zero: its age is not known
	inferred      bool
	inherited     bool
	local, remote string
}

// leaks compares what is found with what there is: all of it, and nothing else.
func (s *scene) leaks(doc leaksDoc, when lab.Step, want ...leaked) {
	s.Helper()
	found := 0
	for _, g := range doc.Leaks {
		found += len(g.Sockets)
	}
	if found != len(want) {
		raw, _ := json.Marshal(doc)
		s.Fatalf("%d sockets, want %d: %s", found, len(want), raw)
	}
	for _, w := range want {
		g, l := find(doc, w)
		if l == nil {
			raw, _ := json.Marshal(doc)
			s.Errorf("%s > %s is not there: %s", w.local, w.remote, raw)
			continue
		}
		s.compareLeak(g, l, w, when)
	}
}

func find(doc leaksDoc, w leaked) (*leakRow, *leakedSocket) {
	for i := range doc.Leaks {
		for j := range doc.Leaks[i].Sockets {
			l := &doc.Leaks[i].Sockets[j]
			if deref(l.Local) == w.local && deref(l.Remote) == w.remote {
				return &doc.Leaks[i], l
			}
		}
	}
	return nil, nil
}

func (s *scene) compareLeak(g *leakRow, l *leakedSocket, w leaked, when lab.Step) {
	s.Helper()
	if l.Verdict != w.verdict || l.Inferred != w.inferred || l.Inherited != w.inherited || deref(l.Side) != w.side {
		s.Errorf("verdict %s (inferred %v), inherited %v, side %q; want %s (%v), %v, %q",
			l.Verdict, l.Inferred, l.Inherited, deref(l.Side), w.verdict, w.inferred, w.inherited, w.side)
	}
	if w.by != nil && (g.PID != w.by.PID() || g.Comm != w.by.Name() || uint64(g.Start)/10_000_000 != w.by.StartTime()) {
		s.Errorf("%s[%d] started %d, want %s[%d] started %d", g.Comm, g.PID, g.Start, w.by.Name(), w.by.PID(), w.by.StartTime())
	}
	if w.by == nil && g.PID != 0 {
		s.Errorf("%s[%d], want nobody", g.Comm, g.PID)
	}
	var holders []struct{ PID, FD int }
	if w.fd >= 0 {
		for _, a := range append([]*lab.Actor{w.by}, w.others...) {
			holders = append(holders, struct{ PID, FD int }{a.PID(), w.fd})
		}
	}
	if !slices.Equal(l.Holders, holders) {
		s.Errorf("holders %v, want %v", l.Holders, holders)
	}
	if w.fd >= 0 && (l.FD == nil || *l.FD != w.fd) {
		s.Errorf("fd %v, want %d", l.FD, w.fd)
	}
	if w.since.After == 0 {
		return
	}
	// The kernel counts in ticks, and a CPU that its host holds up comes late to them.
	least, most := when.Ticked-w.since.After, when.After-w.since.Ticked
	if l.AgeMin == nil || l.AgeMax == nil || time.Duration(*l.AgeMin) > most || time.Duration(*l.AgeMax) < least || *l.AgeMin > *l.AgeMax {
		s.Errorf("age %s: %v to %v, the truth is within %v and %v", l.Quality, ptr(l.AgeMin), ptr(l.AgeMax), least, most)
	}
}
