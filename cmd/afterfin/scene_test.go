// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
)

// scene is one scripted situation in a netns of its own. It knows which process
// did what and when, and so which rows must come.
type scene struct {
	*testing.T
	ns     *lab.NetNS
	end    time.Duration // when all was as expected; 0: still playing
	begin  time.Duration // when ns was made: it may have the inode number of a dead one
	family family
	sock   map[uint64]*expected // by cookie
	order  []*expected

	fake     *lab.Peer // of TIME_WAIT's scenes
	listener *server
}

// family is a way to speak TCP.
type family struct {
	name    string
	domain  int            // of the sockets
	address netip.AddrPort // to connect to and listen on, port 0
	json    string
}

var families = []family{
	{"ipv4", unix.AF_INET, netip.MustParseAddrPort("127.0.0.1:0"), "ipv4"},
	{"ipv6", unix.AF_INET6, netip.MustParseAddrPort("[::1]:0"), "ipv6"},
	{"mapped", unix.AF_INET6, netip.MustParseAddrPort("127.0.0.1:0"), "ipv4"},
}

// expected is one socket and the rows that it must give.
type expected struct {
	name          string
	cookie        uint64
	side          string // "connect", "accept" or "" for null
	local, remote string // at its last row
	rows          []want
}

// want is one row.
type want struct {
	change   string
	who      who
	from, to time.Duration // the change is within; to 0: open
	err      string
	cause    string // empty: the one that err stands for
	restarts int    // of 2MSL, for the hooks that count them
	accepted *bool
	min      bool // began before the tracer: in_state_ns null, and in_state_min_ns says at least
}

// who says which process may be named, by how it was learnt.
type who map[string][]*lab.Actor

func (s *scene) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// num unwraps a call that gives a number (a descriptor, a count, a cookie).
func num[N any](s *scene) func(n N, step lab.Step, err error) N {
	return func(n N, _ lab.Step, err error) N {
		s.Helper()
		s.must(err)
		return n
	}
}

func (s *scene) fd(fd int, step lab.Step, err error) int {
	s.Helper()
	return num[int](s)(fd, step, err)
}

func (s *scene) step(step lab.Step, err error) lab.Step {
	s.Helper()
	s.must(err)
	return step
}

func (s *scene) actor(name string) *lab.Actor {
	s.Helper()
	a, err := s.ns.Start(name)
	s.must(err)
	s.Cleanup(func() { a.Close() })
	return a
}

func (s *scene) addr(a netip.AddrPort, step lab.Step, err error) netip.AddrPort {
	s.Helper()
	return num[netip.AddrPort](s)(a, step, err)
}

// listen makes a listener and expects its own rows.
func (s *scene) listen(t *lab.Thread, owner *lab.Actor, backlog int) (fd int, at netip.AddrPort) {
	s.Helper()
	fd = s.fd(t.Socket(s.family.domain))
	s.step(t.Bind(fd, s.family.address))
	step := s.step(t.Listen(fd, backlog))
	at = s.addr(t.LocalAddr(fd))
	e := s.expect("listener", t, fd, "")
	e.local, e.remote = at.String(), "0.0.0.0:0"
	if s.family.domain == unix.AF_INET6 {
		e.remote = "[::]:0"
	}
	e.row("CLOSE→LISTEN", who{"listen": {owner}}, step)
	return fd, at
}

// expect begins the expectations of one socket.
func (s *scene) expect(name string, t *lab.Thread, fd int, side string) *expected {
	s.Helper()
	e := &expected{name: name, side: side, cookie: num[uint64](s)(t.Cookie(fd))}
	s.sock[e.cookie] = e
	s.order = append(s.order, e)
	return e
}

// server is a listener, the actor that owns it and the one that accepts from it.
type server struct {
	listener *lab.Actor
	fd       int
	at       netip.AddrPort
}

func (s *scene) server(a *lab.Actor, backlog int) *server {
	s.Helper()
	fd, at := s.listen(&a.Thread, a, backlog)
	return &server{a, fd, at}
}

// end is an end of a connection under the name of its socket.
type end struct {
	*expected
	fd   int
	step lab.Step // that made it
}

// connect makes the client's end.
func (s *scene) connect(c *lab.Actor, to *server) *end {
	s.Helper()
	return s.connectFrom(&c.Thread, c, to, s.fd(c.Socket(s.family.domain)))
}

func (s *scene) connectFrom(t *lab.Thread, c *lab.Actor, to *server, fd int) *end {
	s.Helper()
	e := s.expect(c.Name(), t, fd, "connect")
	step := s.step(t.Connect(fd, to.at))
	e.local, e.remote = s.addr(t.LocalAddr(fd)).String(), to.at.String()
	e.row("CLOSE→SYN_SENT", who{"connect": {c}}, step)
	e.row("SYN_SENT→ESTABLISHED", who{"connect": {c}}, step)
	return &end{e, fd, step}
}

// arrived is the server's end before anybody accepts it.
func (s *scene) arrived(srv *server, from *end) *end {
	e := &expected{name: "server", side: "accept", local: srv.at.String(), remote: from.local}
	s.order = append(s.order, e)
	e.later("LISTEN→SYN_RECV", who{"listen": {srv.listener}}, from.step).isAccepted(false)
	e.later("SYN_RECV→ESTABLISHED", who{"listen": {srv.listener}}, from.step).isAccepted(false)
	return &end{expected: e}
}

// accept makes the server's end of a connection that has arrived.
func (s *scene) accept(t *lab.Thread, srv *server, c *end) {
	s.Helper()
	c.fd = s.fd(t.Accept(srv.fd))
	c.cookie = num[uint64](s)(t.Cookie(c.fd))
	s.sock[c.cookie] = c.expected
}

// pair is a connection from client to server, accepted.
func (s *scene) pair(client, srvActor *lab.Actor) (*server, *end, *end) {
	s.Helper()
	srv := s.server(srvActor, 8)
	c := s.connect(client, srv)
	a := s.arrived(srv, c)
	s.accept(&srvActor.Thread, srv, a)
	return srv, c, a
}

// held: rows of an accepted connection before anybody closed it.
func held(listener, acceptor *lab.Actor) who {
	return who{"listen": {listener}, "fd": {acceptor}, "accept": {acceptor}}
}

// closedBy: the first evidence about a process stands, so one that was seen
// accepting or holding it stays under that word.
func closedBy(a *lab.Actor) who { return who{"close": {a}, "fd": {a}, "accept": {a}} }

// row expects a change made by a step, in the caller's own system call.
func (e *expected) row(change string, w who, step lab.Step) *want {
	e.rows = append(e.rows, want{change: change, who: w, from: step.Before, to: step.After})
	return &e.rows[len(e.rows)-1]
}

// later expects a change that a step brings about, in a softirq: not before it.
func (e *expected) later(change string, w who, step lab.Step) *want {
	e.rows = append(e.rows, want{change: change, who: w, from: step.Before})
	return &e.rows[len(e.rows)-1]
}

func (w *want) saying(errno string) *want { w.err = errno; return w }

func (w *want) because(cause string) *want { w.cause = cause; return w }

// causes are what an errno at →CLOSE stands for.
var causes = map[string]string{"ECONNRESET": "reset", "ECONNREFUSED": "reset", "EPIPE": "reset", "ETIMEDOUT": "timeout", "ECONNABORTED": "aborted"}

func (w *want) isAccepted(yes bool) *want { w.accepted = &yes; return w }

// check waits for the rows, and compares every one of this netns.
func (s *scene) check(w *watcher) {
	s.Helper()
	n := 0
	for _, e := range s.order {
		n += len(e.rows)
	}
	inode := s.ns.Inode()
	rows := w.wait(s.T, n, func(r *row) bool {
		return r.NetNS == inode && r.Mono >= int64(s.begin) && (s.end == 0 || r.Mono <= int64(s.end))
	})
	got := make(map[uint64][]row)
	for _, r := range rows {
		got[r.Cookie] = append(got[r.Cookie], r)
	}
	for _, e := range s.order {
		cookie := e.cookie
		if cookie == 0 { // never accepted: nobody had a descriptor to ask it of
			for c, rows := range got {
				if last := rows[len(rows)-1]; s.sock[c] == nil && last.Local == e.local && last.Remote == e.remote {
					cookie = c
				}
			}
		}
		s.compare(w, e, got[cookie])
		delete(got, cookie)
	}
	for cookie, rows := range got {
		s.Errorf("[%s] socket %d is not one of this scene: %s", w.name, cookie, changes(rows))
	}
}

func changes(rows []row) string {
	var out []string
	for _, r := range rows {
		out = append(out, fmt.Sprintf("%s(%s %d)", r.change(), r.Owner.How, r.Owner.PID))
	}
	return strings.Join(out, " ")
}

func (s *scene) compare(w *watcher, e *expected, rows []row) {
	s.Helper()
	if len(rows) != len(e.rows) {
		s.Errorf("[%s] %s: %d rows, want %d: %s", w.name, e.name, len(rows), len(e.rows), changes(rows))
		return
	}
	if len(rows) == 0 {
		return
	}
	for i := range rows {
		r, want := &rows[i], &e.rows[i]
		bad := func(format string, args ...any) {
			s.Helper()
			s.Errorf("[%s] %s row %d %s: %s", w.name, e.name, i, r.change(), fmt.Sprintf(format, args...))
		}
		if r.change() != want.change {
			bad("want %s", want.change)
			continue
		}
		s.compareOwner(w, r, want, bad)
		slack := time.Duration(0)
		if r.To == "TIME_WAIT" && !w.hooked(fentryTimeWait) {
			// A silent move is dated by its timer.
			slack = time.Duration(1+knob(s.T, lateTicks, 0))*jiffy(s.T) + time.Millisecond
		}
		// Whoever lets go of a file last closes it, and a walk over all descriptors holds each of them.
		late := max(min(slack, time.Millisecond), time.Duration(knob(s.T, heldUp, 0))*time.Millisecond)
		if got := time.Duration(r.Mono); got < want.from-slack || want.to != 0 && got > want.to+late {
			bad("at %v, the call ran from %v to %v", got, want.from, want.to)
		}
		s.compareTime(r, rows[:i], want, bad)
		if got := deref(r.SkErr); got != want.err {
			bad("sk_err %q, want %q", got, want.err)
		}
		cause := want.cause
		if cause == "" {
			cause = causes[want.err]
		}
		if got := deref(r.Cause); got != cause {
			bad("cause %q, want %q", got, cause)
		}
		if counts := r.From == "TIME_WAIT" && w.hooked(fentryTimeWait); counts != (r.Restarts != nil) || counts && *r.Restarts != want.restarts {
			bad("restarts %v, want %d (counted: %v)", r.Restarts, want.restarts, counts)
		}
		if r.Family != s.family.json {
			bad("family %s, want %s", r.Family, s.family.json)
		}
		if got := deref(r.Side); got != e.side {
			bad("side %q, want %q", got, e.side)
		}
		if want.accepted != nil && (r.Accepted == nil || *r.Accepted != *want.accepted) {
			bad("accepted %v, want %v", r.Accepted, *want.accepted)
		}
	}
	last := rows[len(rows)-1]
	if e.local != "" && (last.Local != e.local || last.Remote != e.remote) {
		s.Errorf("[%s] %s: %s > %s, want %s > %s", w.name, e.name, last.Local, last.Remote, e.local, e.remote)
	}
}

// compareOwner: the evidence must be one that this kernel and these flags can
// have, and name the process that it is about, by pid, name and start time.
func (s *scene) compareOwner(w *watcher, r *row, want *want, bad func(string, ...any)) {
	owners, ok := want.who[r.Owner.How]
	if !ok {
		bad("how %s (pid %d), want %s", r.Owner.How, r.Owner.PID, want.who)
		return
	}
	if r.Owner.How == "listen" && want.who["accept"] != nil && w.seesAccept() {
		bad("says listen although accept was seen")
	}
	if owners == nil && r.Owner.PID == 0 {
		return // nobody, and nobody is named
	}
	// /proc/PID/stat has the start time in clock ticks, of which there are 100 a second.
	ticks := uint64(r.Owner.Start) / 10_000_000
	for _, a := range owners {
		if r.Owner.PID == a.PID() && r.Owner.Comm == a.Name() && ticks == a.StartTime() {
			return
		}
	}
	bad("%s %s[%d] started %d, want %s", r.Owner.How, r.Owner.Comm, r.Owner.PID, ticks, want.who)
}

func (w *watcher) seesAccept() bool {
	return w.hooked("fexit/inet_csk_accept") || w.hooked("tp_btf/sys_exit")
}

// compareTime: the time in the old state runs from the row before to this one,
// and is null where the tracer did not see it begin.
func (s *scene) compareTime(r *row, before []row, want *want, bad func(string, ...any)) {
	switch {
	case want.min:
		if r.InState != nil || r.InStateMin == nil || *r.InStateMin <= 0 {
			bad("in_state_ns %v, in_state_min_ns %v, want null and a bound", ptr(r.InState), ptr(r.InStateMin))
		}
	case len(before) == 0:
		if r.InState != nil {
			bad("in_state_ns %d, but its beginning was not seen", *r.InState)
		}
	default:
		last := before[len(before)-1]
		if r.InState == nil || *r.InState != r.Mono-last.Mono || *r.InState == 0 {
			bad("in_state_ns %v, the rows are %d apart", ptr(r.InState), r.Mono-last.Mono)
		}
	}
}

func ptr(n *int64) any {
	if n == nil {
		return nil
	}
	return *n
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (w who) String() string {
	var out []string
	for how, actors := range w {
		for _, a := range actors {
			out = append(out, fmt.Sprintf("%s %s[%d] started %d", how, a.Name(), a.PID(), a.StartTime()))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " or ")
}
