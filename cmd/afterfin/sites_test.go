// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/feed"
	"afterfin/internal/lab"
	"afterfin/internal/site"
	"afterfin/internal/tcp"
)

// siteScene follows the places where sockets of a netns were made.
type siteScene struct {
	*scene
	feed   *feed.Feed
	places *places
}

func (s *siteScene) open() {
	s.Helper()
	cfg := feed.Config{NetNSPath: s.ns.Path(), Types: types}
	cfg.Filter.NetNS = s.ns.Inode()
	cfg.Sites.Add(tcp.CloseWait)
	cfg.Sites.Add(tcp.TimeWait)
	f, err := feed.Open(cfg)
	s.must(err)
	s.feed, s.places = f, openPlaces(f, false, io.Discard)
	s.Cleanup(func() { s.places.close(); f.Close() })
}

// until reads on until this socket comes to the state.
func (s *siteScene) until(e *end, state tcp.State) {
	s.Helper()
	for begin := time.Now(); time.Since(begin) < patience; {
		changes, _, err := s.feed.Next()
		s.must(err)
		there := false
		for i := range changes {
			s.places.apply(&changes[i], tcp.CloseWait)
			there = there || changes[i].Cookie == e.cookie && changes[i].To == state
		}
		if s.must(s.places.read()); there {
			return
		}
	}
	s.Fatalf("socket %d does not come to %v", e.cookie, state)
}

// madeBy: the place of a socket is known, and is the actor's call. The actors are this
// program.
func (s *siteScene) madeBy(e *end, by *lab.Actor, call, function string) {
	s.Helper()
	book, err := s.places.settled()
	s.must(err)
	at := book.Get(e.cookie)
	if at == nil {
		s.Fatalf("socket %d: no place, want %s of %s", e.cookie, call, by.Name())
	}
	if at.PID != by.PID() || uint64(at.Start)/10_000_000 != by.StartTime() || callOf(at) != call {
		s.Errorf("made by %s of %d started %d, want %s of %d started %d", callOf(at), at.PID, at.Start, call, by.PID(), by.StartTime())
	}
	var names []string
	for _, f := range at.Frames {
		names = append(names, f.Function)
	}
	if all := strings.Join(names, " "); !strings.Contains(all, function) || !strings.Contains(all, "internal/lab.") || !at.Sure() {
		s.Errorf("frames %v, sure %v", names, at.Sure())
	}
}

func callOf(at *site.Site) string {
	if at.Call == event.SideAccept {
		return "accept"
	}
	return "connect"
}

// TestSites: who comes to CLOSE_WAIT or TIME_WAIT brings the place where it was made, also
// of accept() where fexit loads. It is kept until TIME_WAIT ends. One that was there before
// has none.
func TestSites(t *testing.T) {
	for _, family := range families {
		t.Run(family.name, func(t *testing.T) {
			s := &siteScene{scene: &scene{T: t, begin: lab.Mono(), ns: newNetNS(t), family: family, sock: make(map[uint64]*expected)}}
			client, srv := s.actor("client"), s.actor("server")
			_, before, accepted := s.pair(client, srv)
			s.open()
			if want := os.Getenv(wantAccept); want != "" && s.feed.Tracer().Accepts() != (want == "fexit") {
				t.Fatalf("accept() is seen: %v, want %s", s.feed.Tracer().Accepts(), want)
			}
			_, c, a := s.pair(client, srv)
			_, c2, a2 := s.pair(client, srv)

			s.step(srv.CloseFD(accepted.fd))
			s.until(before, tcp.CloseWait)
			s.step(srv.CloseFD(a.fd))
			s.until(c, tcp.CloseWait)
			s.madeBy(c, client, "connect", "unix.Connect")
			s.step(client.CloseFD(c2.fd))
			s.until(a2, tcp.CloseWait)
			if s.feed.Tracer().Accepts() {
				s.madeBy(a2, srv, "accept", "lab.accept")
			} else if s.places.book.Get(a2.cookie) != nil {
				t.Error("a place of an accept() that nobody saw")
			}
			s.step(srv.CloseFD(a2.fd))
			s.until(c2, tcp.TimeWait)
			s.madeBy(c2, client, "connect", "unix.Connect")
			if s.places.book.Get(before.cookie) != nil {
				t.Error("a place of a socket from before")
			}

			s.destroy(netip.MustParseAddrPort(c2.local), netip.MustParseAddrPort(c2.remote))
			s.until(c2, tcp.Close)
			book, err := s.places.settled()
			s.must(err)
			if book.Get(c2.cookie) != nil || book.Get(c.cookie) == nil {
				t.Errorf("the end of TIME_WAIT is not that of its place: %v", book.Get(c2.cookie))
			}
		})
	}
}
