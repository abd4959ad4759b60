// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"math"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/clock"
	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

// client connects at a constant rate, and keeps what became of it.
type client struct {
	*pool
	every  time.Duration
	begin  time.Duration
	tries  int
	made   []time.Duration // CLOCK_MONOTONIC of those that worked
	failed []time.Duration
}

// until goes on until done says so.
func (c *client) until(done func(now time.Duration) bool) {
	c.Helper()
	for !done(lab.Mono()) {
		time.Sleep(c.begin + time.Duration(c.tries)*c.every - lab.Mono()) // the rate is what is tested
		c.tries++
		switch err := c.leave(); {
		case errors.Is(err, unix.EADDRNOTAVAIL):
			c.failed = append(c.failed, lab.Mono())
		case err != nil:
			c.Fatal(err)
		default:
			c.made = append(c.made, lab.Mono())
		}
	}
}

// TestPortsExhaustion runs a client at a constant rate into a range of 200 ports: when that ends is
// foretold, and above which rate it does; who failed is named; and when all is free again.
func TestPortsExhaustion(t *testing.T) {
	t.Parallel()
	const ports = 200
	c := &client{pool: newPool(t, "40000 40199", "tcp_tw_reuse", "0", "tcp_rfc1337", "1"), every: time.Second / 10}
	report := startReport(t, "ports", "--netns", c.ns.Path())
	c.begin = lab.Mono()
	c.until(func(now time.Duration) bool { return now-c.begin > 6*time.Second })
	var r portsReport
	c.settle()
	asked := lab.Mono()
	report.stopInto(t, &r)
	d := r.only(t)
	if d.Used != len(c.made) || d.Capacity != ports || d.ByState["TIME_WAIT"] != d.Used || d.Connects != c.tries || d.TimeWaits != d.Used || d.Failures != 0 {
		t.Errorf("%d connections: %+v", len(c.made), d)
	}
	if math.Abs(d.Rate-10) > 0.5 || d.Peak < d.Rate || d.Peak > 13 {
		t.Errorf("rate %.2f, peak %.2f", d.Rate, d.Peak)
	}
	if len(d.Owners) != 1 || d.Owners[0].PID != c.cl.PID() || d.Owners[0].Comm != "client" || d.Owners[0].Connects != c.tries {
		t.Errorf("owners %+v", d.Owners)
	}

	// Into the wall, and on for as long as each port takes to come round again.
	report = startReport(t, "ports", "--netns", c.ns.Path())
	before := len(c.made)
	tries := c.tries
	c.until(func(time.Duration) bool { return len(c.failed) > 0 })
	wall := c.failed[0]
	if d.Exhausted == nil || d.Sustainable == 0 {
		t.Fatalf("exhaustion is not foretold: %+v", d)
	}
	foretold, was := time.Duration(*d.Exhausted), wall-asked
	t.Logf("runs out in %v, foretold %v", was, foretold)
	if math.Abs(float64(foretold-was)) > 0.2*float64(was) {
		t.Errorf("it runs out in %v, foretold %v", was, foretold)
	}
	var at portsReport
	c.settle()
	report.stopInto(t, &at)
	full := at.only(t)
	if full.Free != 0 || full.Used != ports || full.Exhausted == nil || *full.Exhausted != 0 || full.Failures != 1 || full.Connects != c.tries-tries ||
		full.TimeWaits != len(c.made)-before {
		t.Errorf("at the wall: %+v", full)
	}
	if o := full.Owners; len(o) != 1 || o[0].PID != c.cl.PID() || o[0].Failures != 1 || o[0].Errno == nil || *o[0].Errno != "EADDRNOTAVAIL" {
		t.Errorf("who failed: %+v", o)
	}
	// Each port is taken again as soon as it is free: that many in the time of one round is what
	// the netns sustains.
	c.until(func(time.Duration) bool { return len(c.made) >= 2*ports })
	round := (c.made[2*ports-1] - c.made[ports-1]).Seconds()
	sustained := ports / round
	t.Logf("sustains %.3f connects/s, said %.3f", sustained, d.Sustainable)
	if math.Abs(d.Sustainable-sustained) > 0.05*sustained {
		t.Errorf("%.3f connects/s are sustained, said %.3f", sustained, d.Sustainable)
	}

	begin := lab.Mono()
	after := c.ports(attachPorts(t))
	end, last := lab.Mono(), after.only(t)
	if last.AllFree == nil {
		t.Fatalf("recovery is not foretold: %+v", last)
	}
	left := time.Duration(*last.AllFree)
	time.Sleep(left - lateness) // most of a minute, and to look all the time would take an emulated CPU
	over := c.waitFor(1 << tcp.TimeWait)
	if over < begin+left-clock.Jiffy() || over > end+left+clock.Jiffy()+lateness {
		t.Errorf("the last TIME_WAIT is over after %v to %v, foretold %v", over-end, over-begin, left)
	}
	if n := c.fill(unix.EADDRNOTAVAIL); n != ports {
		t.Errorf("%d connections after that, want %d", n, ports)
	}
}

// lateness is what a look of waitFor may come late by.
const lateness = 100 * time.Millisecond

// TestPortsRules: what is said to be free is what then connects, or binds, by the kernel's rules.
func TestPortsRules(t *testing.T) {
	t.Parallel()
	f := attachPorts(t)
	noPort := func(p *pool) func(int) error { // IP_BIND_ADDRESS_NO_PORT
		return func(fd int) error {
			p.must(p.cl.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1))
			return p.bindFirst(fd)
		}
	}
	for name, play := range map[string]func(p *pool){
		"connect": func(p *pool) {
			p.leaveMany(3)
			p.value2(p.dial())
		},
		"reserved": func(p *pool) {
			p.set("ip_local_reserved_ports", "40003,40010-40012,50000")
			p.leaveMany(3)
		},
		"a listener in the range": func(p *pool) {
			p.listen("127.0.0.7:40005")
			p.leaveMany(3)
		},
		"bound and no more": func(p *pool) {
			fd := p.value(p.srv.Socket(unix.AF_INET))
			p.must(p.srv.Bind(fd, p.on("127.0.0.9:40006")))
			p.leaveMany(2)
		},
		"others bind first": func(p *pool) {
			p.leaveMany(2)
			p.leaveMany(3, p.bindFirst)
			p.value2(p.dial(p.bindFirst))
		},
		"IP_BIND_ADDRESS_NO_PORT": func(p *pool) {
			p.leaveMany(3, noPort(p))
			p.value2(p.dial(noPort(p)))
		},
		"another destination": func(p *pool) {
			listener, at := p.listener, p.at
			p.listener, p.at = p.listen("127.0.0.1:9090")
			p.leaveMany(4)
			p.listener, p.at = listener, at
			p.leaveMany(2)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, "40000 40019", "tcp_tw_reuse", "0")
			play(p)
			r := p.ports(f)
			d := r.to(p.at.String(), false)
			if d == nil {
				t.Fatalf("no such destination: %+v", r.Destinations)
			}
			free := d.Free
			if d.Capacity-d.Used != free || d.Capacity+d.Blocked+r.Spaces[0].Reserved != 20 {
				t.Errorf("%d used and %d blocked of %d, %d free", d.Used, d.Blocked, d.Capacity, free)
			}
			if n := p.fill(unix.EADDRNOTAVAIL); n != free {
				t.Errorf("%d connections, %d were said to be free: %+v", n, free, d)
			}
			if again := p.ports(f); again.to(p.at.String(), false).Free != 0 {
				t.Errorf("nothing is free: %+v", again.Destinations)
			}
		})
	}
	t.Run("bind first", func(t *testing.T) {
		p := newPool(t, "40000 40019", "tcp_tw_reuse", "0")
		p.listen("127.0.0.7:40005")                                                    // another address: not in its way
		p.must(p.srv.Bind(p.value(p.srv.Socket(unix.AF_INET)), p.on("0.0.0.0:40006"))) // all of them: is
		p.leaveMany(3, p.bindFirst)
		p.leaveMany(2) // chosen by connect(): in the way of bind(0) all the same
		r := p.ports(f)
		d := r.to("*", true)
		if d == nil {
			t.Fatalf("no such destination: %+v", r.Destinations)
		}
		if n := p.fill(unix.EADDRINUSE, p.bindFirst); n != d.Free {
			t.Errorf("%d connections, %d were said to be free: %+v", n, d.Free, d)
		}
	})
}

// to finds a destination; nil: there is no such one.
func (r *portsReport) to(remote string, bound bool) *portsDestination {
	for i := range r.Destinations {
		if d := &r.Destinations[i]; d.Destination == remote && d.Bound == bound {
			return d
		}
	}
	return nil
}
