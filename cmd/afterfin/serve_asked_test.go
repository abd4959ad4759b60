// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

// asks is a report in this process, as JSON, that must not have counted anything itself.
func asks(t *testing.T, into any, args ...string) {
	t.Helper()
	var stdout bytes.Buffer
	stderr := &notes{ready: make(chan struct{})}
	code := run(env{ctx: context.Background(), stdout: &stdout, stderr: stderr, getenv: os.Getenv, types: types}, append(args, "-o", "json"))
	if err := json.Unmarshal(stdout.Bytes(), into); err != nil || code != exitOK {
		t.Fatalf("%v exits %d, %v: %s%s", args, code, err, stderr, &stdout)
	}
	if !strings.Contains(stderr.String(), "the flight recorder counted") || strings.Contains(stderr.String(), "ready ") {
		t.Errorf("%v: %s", args, stderr)
	}
}

// TestServeAsked: timewait and ports have from a serve that was there what came and went before them.
func TestServeAsked(t *testing.T) {
	s := &scene{T: t, begin: lab.Mono(), ns: newNetNS(t), family: families[0], sock: make(map[uint64]*expected)}
	ns := s.ns
	v := startServe(t, "--netns", ns.Path())
	const n = 10
	client, server := s.actor("client"), s.actor("server")
	srv := s.server(server, n)
	for range n {
		c := s.connect(client, srv)
		a := s.arrived(srv, c)
		s.accept(&server.Thread, srv, a)
		s.step(client.CloseFD(c.fd))
		s.state(server, a.fd, tcp.CloseWait)
		s.step(server.CloseFD(a.fd))
	}
	port := srv.at.Port()
	// Until two looks have come after it.
	m := v.until("looked at", func(m map[string]float64) bool { return m["afterfin_ports_used{rank=1}"] == n })
	at := m["afterfin_look_timestamp_seconds"]
	v.until("looked at again", func(m map[string]float64) bool { return m["afterfin_look_timestamp_seconds"] > at })

	var tw timeWaitReport
	asks(t, &tw, "timewait", "--recorder", v.socket)
	found := false
	for _, space := range tw.Spaces {
		if space.NetNS != ns.Inode() {
			continue
		}
		found = true
		if space.Flow.Entered != n || space.Flow.BySide.Connect != n || space.Live != n || space.LiveBefore == nil || *space.LiveBefore != 0 || space.Flow.Unseen != 0 {
			t.Errorf("of %d: %+v", n, space)
		}
		if len(space.Makers) != 1 || space.Makers[0].PID != client.PID() || space.Makers[0].Count != n {
			t.Errorf("makers %+v, want %d of %d", space.Makers, n, client.PID())
		}
		if len(space.Peers) != 1 || space.Peers[0].Port != port || space.Peers[0].Count != n {
			t.Errorf("peers %+v, want %d of :%d", space.Peers, n, port)
		}
	}
	if !found {
		t.Errorf("netns %d is not there: %+v", ns.Inode(), tw)
	}

	var ports portsReport
	asks(t, &ports, "ports", "--recorder", v.socket)
	if len(ports.Destinations) != 1 || ports.Destinations[0].Used != n {
		t.Errorf("ports: %+v, want %d of one", ports.Destinations, n)
	}
	asks(t, &ports, "ports", "--recorder", v.socket, "-D", "1")
	if len(ports.Destinations) != 0 {
		t.Errorf("to port 1: %+v", ports.Destinations)
	}
}

// TestServeNotThere: what is missing is said, and the report goes on without.
func TestServeNotThere(t *testing.T) {
	for command, missing := range map[string]string{"timewait": "counting for 10s", "ports": "counting for 10s"} {
		ctx, cancel := context.WithCancel(context.Background())
		stderr := &notes{ready: make(chan struct{})}
		code := make(chan int, 1)
		go func() {
			var stdout bytes.Buffer
			code <- run(env{ctx: ctx, stdout: &stdout, stderr: stderr, getenv: os.Getenv, types: types}, []string{command, "--recorder", filepath.Join(t.TempDir(), "none")})
		}()
		<-stderr.ready
		cancel()
		if got := <-code; got != exitOK || !strings.Contains(stderr.String(), "notice: no flight recorder (afterfin serve) is running: "+missing) {
			t.Errorf("%s exits %d: %s", command, got, stderr)
		}
	}
}
