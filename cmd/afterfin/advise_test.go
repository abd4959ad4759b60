// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/advice"
	"afterfin/internal/clock"
	"afterfin/internal/feed"
	"afterfin/internal/lab"
	"afterfin/internal/ports"
	"afterfin/internal/view"
)

// advised gives the knobs that are named for the netns and the client, by a look before and one
// after during.
func (p *pool) advised(f *feed.Feed, during func()) map[string]advice.Advice {
	p.Helper()
	look := &porter{env: env{ctx: context.Background()}, all: true, sample: time.Nanosecond}
	look.cfg.Filter.NetNS, look.cfg.NetNSPath = p.ns.Inode(), p.ns.Path()
	err := look.look(f, ports.Look{})
	if err == nil {
		err = f.Tracer().StartCounting()
	}
	look.begin = clock.Mono()
	if during != nil {
		during()
	}
	var l ports.Look
	if err == nil {
		l, err = look.follow(f)
	}
	if err == nil {
		err = look.look(f, l)
	}
	r := &view.Advised{}
	if err == nil {
		err = look.advise(r)
	}
	if err != nil {
		p.Fatal(err)
	}
	return p.ours(r.List)
}

// ours are those about the netns, or the client.
func (p *pool) ours(list []advice.Advice) map[string]advice.Advice {
	found := make(map[string]advice.Advice)
	for _, a := range list {
		if a.Where == fmt.Sprintf("netns %d", p.ns.Inode()) || strings.HasPrefix(a.Where, fmt.Sprintf("pid %d ", p.cl.PID())) {
			found[a.Knob] = a
		}
	}
	return found
}

// TestAdviseCommand: the whole of doctor --advise, with what a sample shows.
func TestAdviseCommand(t *testing.T) {
	t.Parallel()
	p := newPool(t, "1024 65535", "tcp_tw_reuse", "0", "tcp_max_tw_buckets", "0")
	report := startReport(t, "doctor", "--advise", "--netns", p.ns.Path())
	p.leaveMany(3)
	var doc struct {
		Checks []struct{ Name string }
		Advice []advice.Advice
		Sample int64 `json:"sample_ns"`
	}
	report.stopInto(t, &doc)
	a := p.ours(doc.Advice)
	if len(doc.Checks) == 0 || doc.Sample == 0 || len(a) != 1 || !strings.Contains(a["net.ipv4.tcp_max_tw_buckets"].Fact, "3 sockets got no TIME_WAIT") {
		t.Errorf("%+v", doc)
	}
}

// rst sends the client's socket in TIME_WAIT a RST that ends it, if tcp_rfc1337 lets it.
func (p *pool) rst(fake *lab.Peer) {
	p.Helper()
	s, err := fake.ConnectScene(p.cl, lab.PeerOptions{})
	if err == nil {
		err = s.CloseFirst(0)
	}
	if err != nil {
		p.Fatal(err)
	}
	p.must(s.Conn.RST(s.Conn.SndNxt))
}

// TestAdvise makes each fact for real, and takes it away again: the line comes and goes with it.
// tcp_max_orphans is of the whole host, and only in the table of package advice.
func TestAdvise(t *testing.T) {
	t.Parallel()
	attached := attachPorts(t)
	const narrow, wide = "40000 40019", "1024 65535"
	type fact struct {
		knob, between string
		sysctls       []string
		make          func(p *pool)
		during        func(p *pool) func()
		remove        func(p *pool)
		says          string // in the fact
	}
	for _, f := range []fact{
		{"net.ipv4.tcp_tw_reuse", narrow, []string{"tcp_tw_reuse", "0"}, func(p *pool) { p.leaveMany(18); p.waitNextSecond(); p.waitNextSecond() }, nil,
			func(p *pool) { p.set("tcp_tw_reuse", "1") }, "18 of 20 ports in use, 18 of them in TIME_WAIT"},
		{"net.ipv4.tcp_timestamps", narrow, []string{"tcp_tw_reuse", "0", "tcp_timestamps", "0"}, func(p *pool) { p.leaveMany(17) }, nil,
			func(p *pool) { p.set("tcp_timestamps", "1") }, "17 have no TCP timestamp"},
		{"net.ipv4.ip_local_port_range", narrow, []string{"tcp_tw_reuse", "0"}, func(p *pool) { p.leaveMany(16) }, nil,
			func(p *pool) { p.set("ip_local_port_range", wide) }, "16 of 20 ports in use"},
		{"net.ipv4.tcp_max_tw_buckets", wide, []string{"tcp_tw_reuse", "0", "tcp_max_tw_buckets", "10"}, func(p *pool) { p.leaveMany(8) }, nil,
			func(p *pool) { p.set("tcp_max_tw_buckets", "11") }, "8 are in use"},
		{"net.ipv4.tcp_max_tw_buckets", wide, []string{"tcp_tw_reuse", "0", "tcp_max_tw_buckets", "0"}, nil,
			func(p *pool) func() { return func() { p.leaveMany(3) } }, nil, "3 sockets got no TIME_WAIT"},
		{"net.ipv4.tcp_fin_timeout", wide, []string{"tcp_tw_reuse", "0", "tcp_max_tw_buckets", "40"}, func(p *pool) { p.halfway(4) }, nil,
			func(p *pool) { p.set("tcp_max_tw_buckets", "41") }, "4 closed sockets wait in FIN_WAIT2"},
		{"net.ipv4.tcp_rfc1337", wide, []string{"tcp_rfc1337", "0"}, nil, (*pool).resets, func(p *pool) { p.set("tcp_rfc1337", "1") }, "a RST ended 1 TIME_WAIT"},
		{"net.core.somaxconn", wide, nil, func(p *pool) { p.crowd(3) }, nil, func(p *pool) { p.value(p.srv.Accept(p.listener)) }, "3 connections wait to be accepted"},
		{"RLIMIT_NOFILE", wide, nil, func(p *pool) { p.limit(p.descriptors() + 1) }, nil, func(p *pool) { p.limit(2 * p.descriptors()) }, " descriptors are in use"},
	} {
		t.Run(f.knob, func(t *testing.T) {
			p := newPool(t, f.between, f.sysctls...)
			if f.make != nil {
				f.make(p)
			}
			var during func()
			if f.during != nil {
				during = f.during(p)
			}
			a, ok := p.advised(attached, during)[f.knob]
			if !ok || !strings.Contains(a.Fact, f.says) || a.Would == "" || a.WouldNot == "" || a.Value == "" {
				t.Errorf("%v %+v", ok, a)
			}
			if f.remove == nil { // it is in the sample alone
				during = nil
			} else {
				f.remove(p)
			}
			if a, ok := p.advised(attached, during)[f.knob]; ok {
				t.Errorf("the fact is gone: %+v", a)
			}
		})
	}
	t.Run("net.ipv4.tcp_tw_reuse_delay", func(t *testing.T) {
		p := newPool(t, narrow, "tcp_tw_reuse", "1")
		if err := p.ns.SetSysctl("net.ipv4.tcp_tw_reuse_delay", "60000"); err != nil {
			// Before 6.14 there is none, and so no advice on it.
			p.leaveMany(18)
			if a, ok := p.advised(attached, nil)["net.ipv4.tcp_tw_reuse_delay"]; ok {
				t.Errorf("%+v", a)
			}
			return
		}
		p.leaveMany(18)
		if a := p.advised(attached, nil)["net.ipv4.tcp_tw_reuse_delay"]; !strings.Contains(a.Fact, "18 are too young for tcp_tw_reuse") || a.Value != "60000" {
			t.Errorf("%+v", a)
		}
		p.set("tcp_tw_reuse_delay", "1")
		if a, ok := p.advised(attached, nil)["net.ipv4.tcp_tw_reuse_delay"]; ok {
			t.Errorf("the fact is gone: %+v", a)
		}
	})
}

// halfway leaves orphans whose peer does not close.
func (p *pool) halfway(n int) {
	p.Helper()
	for range n {
		c, s, err := p.dial()
		p.value2(c, s, err)
		p.must(p.cl.CloseFD(c))
	}
}

// resets has a RST come into TIME_WAIT each time it is called.
func (p *pool) resets() func() {
	fake, err := p.ns.Peer(unix.AF_INET)
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { fake.Close() })
	return func() { p.rst(fake) }
}

// crowd fills the accept queue of a listener that asks for more than somaxconn.
func (p *pool) crowd(n int) {
	p.Helper()
	if err := p.ns.SetSysctl("net.core.somaxconn", fmt.Sprint(n-1)); err != nil {
		p.Fatal(err)
	}
	p.listener, p.at = p.listen("127.0.0.1:9000")
	for range n {
		fd := p.value(p.cl.Socket(unix.AF_INET))
		p.must(p.cl.Connect(fd, p.at))
	}
}

// descriptors counts the client's.
func (p *pool) descriptors() uint64 {
	p.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cl.PID()))
	if err != nil {
		p.Fatal(err)
	}
	return uint64(len(open))
}

// limit sets the client's RLIMIT_NOFILE.
func (p *pool) limit(n uint64) {
	p.Helper()
	if err := unix.Prlimit(p.cl.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: 1024}, nil); err != nil {
		p.Fatal(err)
	}
}
