// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/event"
	"afterfin/internal/feed"
	"afterfin/internal/lab"
	"afterfin/internal/ports"
	"afterfin/internal/sockdiag"
	"afterfin/internal/tcp"
)

// portsReport is ports -o json, read as a script would.
type portsReport struct {
	Hold   int64 `json:"time_wait_ns"`
	Spaces []struct {
		NetNS      uint32
		Ports      int
		Reserved   int
		ReuseDelay *int64 `json:"tcp_tw_reuse_delay_ns"`
		Inferred   bool
	} `json:"netns"`
	Destinations []portsDestination
	Listeners    []struct {
		Local     string
		Listening bool
		ByState   map[string]int `json:"by_state"`
		Refuses   bool           `json:"refuses_reuseaddr"`
		Until     *int64         `json:"over_in_ns"`
	}
	Lost map[string]int
}

type portsDestination struct {
	Source, Destination string
	Bound               bool           `json:"bound_first"`
	ByState             map[string]int `json:"by_state"`
	Capacity            int
	Blocked             int
	Used, Free          int
	Rate                float64
	Peak                float64 `json:"peak_rate"`
	Sustainable         float64 `json:"sustainable_rate"`
	Exhausted           *int64  `json:"exhausted_in_ns"`
	AllFree             *int64  `json:"all_free_in_ns"`
	Connects, Failures  int
	TimeWaits           int `json:"time_waits"`
	Reuse               *struct {
		Reusable int
		InEffect int `json:"in_effect"`
		TooYoung int `json:"too_young"`
		NoStamp  int `json:"no_timestamp"`
	}
	Owners []struct {
		PID       int
		Comm      string
		Sockets   int
		Connects  int
		Failures  int
		TimeWaits int `json:"time_waits"`
		Errno     *string
	}
}

// only is the one that a report is about.
func (r *portsReport) only(t *testing.T) *portsDestination {
	t.Helper()
	if len(r.Destinations) != 1 {
		t.Fatalf("%d destinations: %+v", len(r.Destinations), r.Destinations)
	}
	return &r.Destinations[0]
}

// pool is a netns with few ports, a server, and a client.
type pool struct {
	*testing.T
	ns       *lab.NetNS
	cl, srv  *lab.Actor
	listener int
	at       netip.AddrPort
}

func newPool(t *testing.T, between string, sysctls ...string) *pool {
	t.Helper()
	p := &pool{T: t, ns: newNetNS(t)}
	for i := 0; i < len(sysctls); i += 2 {
		p.set(sysctls[i], sysctls[i+1])
	}
	p.set("ip_local_port_range", between)
	for name, a := range map[string]**lab.Actor{"client": &p.cl, "server": &p.srv} {
		var err error
		if *a, err = p.ns.Start(name); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { (*a).Close() })
	}
	p.listener, p.at = p.listen("127.0.0.1:8080")
	return p
}

func (p *pool) set(name, value string) {
	p.Helper()
	if err := p.ns.SetSysctl("net.ipv4."+name, value); err != nil {
		p.Fatal(err)
	}
}

func (p *pool) must(_ lab.Step, err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *pool) value(n int, _ lab.Step, err error) int {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
	return n
}

func (p *pool) listen(at string) (fd int, addr netip.AddrPort) {
	p.Helper()
	fd, addr = p.value(p.srv.Socket(unix.AF_INET)), netip.MustParseAddrPort(at)
	p.must(p.srv.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	p.must(p.srv.Bind(fd, addr))
	p.must(p.srv.Listen(fd, 64))
	return fd, addr
}

// dial makes a connection as the client would; options set up its socket first.
func (p *pool) dial(options ...func(fd int) error) (c, s int, err error) {
	p.Helper()
	c = p.value(p.cl.Socket(unix.AF_INET))
	for _, o := range options {
		if err := o(c); err != nil {
			p.must(p.cl.CloseFD(c))
			return -1, -1, err
		}
	}
	if _, err := p.cl.Connect(c, p.at); err != nil {
		p.must(p.cl.CloseFD(c))
		return -1, -1, err
	}
	return c, p.value(p.srv.Accept(p.listener)), nil
}

// bindFirst lets bind() choose the port.
func (p *pool) bindFirst(fd int) error {
	_, err := p.cl.Bind(fd, netip.MustParseAddrPort("127.0.0.1:0"))
	return err
}

// leave makes one connection and closes it from the client's side, or fails as connect() does.
func (p *pool) leave(options ...func(fd int) error) error {
	p.Helper()
	c, s, err := p.dial(options...)
	if err != nil {
		return err
	}
	p.must(p.cl.CloseFD(c))
	p.value(p.srv.Read(s, 1)) // its end
	p.must(p.srv.CloseFD(s))
	return nil
}

func (p *pool) leaveMany(n int, options ...func(fd int) error) {
	p.Helper()
	for range n {
		if err := p.leave(options...); err != nil {
			p.Fatal(err)
		}
	}
	p.settle()
}

// fill makes connections until that fails with the errno, and says how many there were. They
// stay open.
func (p *pool) fill(with unix.Errno, options ...func(fd int) error) (n int) {
	p.Helper()
	for {
		_, _, err := p.dial(options...)
		if errors.Is(err, with) {
			return n
		}
		if err != nil {
			p.Fatal(err)
		}
		n++
	}
}

// ports is what afterfin says of the netns now, without a sample. It goes by f, attached once for
// many looks, which take it no time; nil: by sock_diag.
func (p *pool) ports(f *feed.Feed) (r portsReport) {
	p.Helper()
	p.settle()
	var stdout bytes.Buffer
	look := &porter{env: env{stdout: &stdout}, output: "json"}
	look.cfg.Filter.NetNS, look.cfg.NetNSPath = p.ns.Inode(), p.ns.Path()
	err := look.look(f, ports.Look{})
	if err == nil {
		err = look.write()
	}
	if err == nil {
		err = json.Unmarshal(stdout.Bytes(), &r)
	}
	if err != nil {
		p.Fatal(err)
	}
	return r
}

func attachPorts(t *testing.T) *feed.Feed {
	t.Helper()
	f, err := attach(env{types: types}, feed.Config{Counts: true, Ports: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// value2 is value for a call that gives both ends.
func (p *pool) value2(c, s int, err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

func (p *pool) on(at string) netip.AddrPort { return netip.MustParseAddrPort(at) }

// settle waits until the last segments of what was closed are no longer in a softirq.
func (p *pool) settle() {
	p.Helper()
	p.waitFor(1<<tcp.FinWait1 | 1<<tcp.FinWait2 | 1<<tcp.Closing | 1<<tcp.LastAck)
}

// waitFor waits until no socket is in one of these states, and says when that was.
func (p *pool) waitFor(states tcp.StateSet) time.Duration {
	p.Helper()
	for begin := lab.Mono(); ; time.Sleep(time.Millisecond) { // nothing tells
		n := 0
		if err := p.ns.Do(func() error {
			return sockdiag.Dump(states, func(*event.Existing) { n++ })
		}); err != nil {
			p.Fatal(err)
		}
		switch now := lab.Mono(); {
		case n == 0:
			return now
		case now-begin > 90*time.Second:
			p.Fatalf("%d sockets stay", n)
		}
	}
}
