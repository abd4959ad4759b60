// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

// TestFilters runs one tracer per filter beside each other, over two connections
// of two pairs of processes, one IPv4 and one v4-mapped, and one over IPv6.
func TestFilters(t *testing.T) {
	ns := newNetNS(t)
	other := newNetNS(t)
	s := &scene{T: t, begin: lab.Mono(), ns: ns, sock: make(map[uint64]*expected)}
	type pair struct {
		client, server *lab.Actor
		port           uint16
		family         family
	}
	var pairs []pair
	for i, f := range []family{families[0], families[2], families[1]} {
		pairs = append(pairs, pair{s.actor(fmt.Sprintf("client-%d", i)), s.actor(fmt.Sprintf("server-%d", i)), uint16(7000 + i), f})
	}
	a, b, c := pairs[0], pairs[1], pairs[2]

	// What each filter must let through, by socket and change.
	type keep func(name string, change string) bool
	sockets := func(names ...string) keep {
		return func(name, _ string) bool { return slices.Contains(names, name) }
	}
	all := func(string, string) bool { return true }
	filters := map[string]struct {
		args []string
		keep keep
	}{
		"none":        {nil, all},
		"pid":         {[]string{"-p", fmt.Sprint(a.client.PID())}, sockets("client-0")},
		"two pids":    {[]string{"-p", fmt.Sprintf("%d,%d", b.client.PID(), c.server.PID())}, sockets("client-1", "listener server-2", "server-2")},
		"comm":        {[]string{"--comm", "client-2"}, sockets("client-2")},
		"local port":  {[]string{"-L", "7000,7001"}, sockets("listener server-0", "server-0", "listener server-1", "server-1")},
		"remote port": {[]string{"-D", "7002"}, sockets("client-2")},
		"ipv4":        {[]string{"-4"}, sockets("listener server-0", "server-0", "client-0", "server-1", "client-1", "listener server-1")},
		"ipv6":        {[]string{"-6"}, sockets("listener server-2", "server-2", "client-2")},
		"state": {[]string{"--state", "close-wait"}, func(_, change string) bool {
			return change == "ESTABLISHED→CLOSE_WAIT" || change == "CLOSE_WAIT→LAST_ACK"
		}},
		"netns by path": {[]string{"--netns", ns.Path()}, all},
		"other netns":   {[]string{"--netns", other.Path()}, sockets()},
		"all at once": {[]string{"-p", fmt.Sprint(a.client.PID()), "-D", "7000", "-4", "--comm", "client-0", "--state", "SYN_SENT", "--netns", ns.Path()},
			func(name, change string) bool {
				return name == "client-0" && (change == "CLOSE→SYN_SENT" || change == "SYN_SENT→ESTABLISHED")
			}},
	}
	watchers := make(map[string]*watcher)
	for name, f := range filters {
		watchers[name] = startWatch(t, f.args...)
	}

	want := make(map[string][]string) // socket → changes
	names := make(map[uint64]string)
	for i, p := range pairs {
		s.family = p.family
		s.family.address = netip.AddrPortFrom(p.family.address.Addr(), p.port)
		l := s.server(p.server, 8)
		conn := s.connect(p.client, l)
		in := s.arrived(l, conn)
		s.accept(&p.server.Thread, l, in)
		s.step(p.client.Shutdown(conn.fd, unix.SHUT_WR))
		s.state(p.server, in.fd, tcp.CloseWait)
		s.step(p.server.CloseFD(in.fd))
		for name, cookie := range map[string]uint64{
			fmt.Sprintf("listener server-%d", i): s.order[3*i].cookie,
			fmt.Sprintf("client-%d", i):          conn.cookie,
			fmt.Sprintf("server-%d", i):          in.cookie,
		} {
			names[cookie] = name
		}
		want[fmt.Sprintf("listener server-%d", i)] = []string{"CLOSE→LISTEN"}
		want[fmt.Sprintf("client-%d", i)] = []string{"CLOSE→SYN_SENT", "SYN_SENT→ESTABLISHED", "ESTABLISHED→FIN_WAIT1", "FIN_WAIT1→FIN_WAIT2", "FIN_WAIT2→TIME_WAIT"}
		want[fmt.Sprintf("server-%d", i)] = []string{"LISTEN→SYN_RECV", "SYN_RECV→ESTABLISHED", "ESTABLISHED→CLOSE_WAIT", "CLOSE_WAIT→LAST_ACK", "LAST_ACK→CLOSE"}
	}
	watchers["none"].wait(t, 33, func(r *row) bool { return r.NetNS == ns.Inode() && r.Mono >= int64(s.begin) })
	end := lab.Mono()
	for filter, f := range filters {
		n := 0
		expect := make(map[string][]string)
		for name, changes := range want {
			for _, change := range changes {
				if f.keep(name, change) {
					expect[name] = append(expect[name], change)
					n++
				}
			}
		}
		w := watchers[filter]
		w.stop(t) // then all that will come is there
		got := make(map[string][]string)
		for _, r := range w.wait(t, n, func(r *row) bool { return r.NetNS == ns.Inode() && r.Mono >= int64(s.begin) && r.Mono <= int64(end) }) {
			got[names[r.Cookie]] = append(got[names[r.Cookie]], r.change())
		}
		for name := range want {
			if !slices.Equal(got[name], expect[name]) {
				t.Errorf("filter %s: %s: got %v, want %v", filter, name, got[name], expect[name])
			}
		}
		if len(got[""]) > 0 {
			t.Errorf("filter %s: rows of no socket of ours: %v", filter, got[""])
		}
	}
}
