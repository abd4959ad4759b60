// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/feed"
	"afterfin/internal/lab"
)

// TestPortsReuse: what is said that tcp_tw_reuse would take is what then connects: those with
// timestamps, and of them those that are old enough, which the kernel judges in another way since 6.14.
func TestPortsReuse(t *testing.T) {
	f := attachPorts(t)
	for try := range 5 {
		if reuseHolds(t, f) {
			return
		}
		t.Logf("try %d: held up, so the young ones came of age meanwhile", try+1)
	}
	t.Error("never quick enough")
}

// reuseHolds is false if it took so long that the answer changed meanwhile.
func reuseHolds(t *testing.T, f *feed.Feed) bool {
	const old, plain, young, open = 12, 5, 4, 3
	p := newPool(t, "40000 40039", "tcp_tw_reuse", "0", "tcp_rfc1337", "1")
	if p.second() == 0 {
		p.waitNextSecond() // in the first second after boot the kernel takes a time stamp for none
	}
	p.leaveMany(old)
	p.set("tcp_timestamps", "0")
	p.leaveMany(plain)
	p.set("tcp_timestamps", "1")
	for range open {
		p.value2(p.dial())
	}
	p.waitNextSecond() // of the kernel's clock: the old ones were made before
	p.waitNextSecond() // tcp_tw_reuse_delay is a second too
	second := p.second()
	begin := lab.Mono()
	p.leaveMany(young)
	r := p.ports(f)
	p.set("tcp_tw_reuse", "1")
	n := p.fill(unix.EADDRNOTAVAIL)
	if took := lab.Mono() - begin; p.second() != second || took > 900*time.Millisecond {
		return false
	}
	d := r.only(t)
	if d.Reuse == nil || d.Reuse.Reusable != old || d.Reuse.NoStamp != plain || d.Reuse.TooYoung != young || d.Reuse.InEffect != 0 || d.ByState["ESTABLISHED"] != open {
		t.Errorf("%+v, reuse %+v", d, d.Reuse)
	} else if free := d.Free; n != free+d.Reuse.Reusable {
		t.Errorf("%d connections; free were said to be %d, and to be taken by tcp_tw_reuse %d", n, free, d.Reuse.Reusable)
	}
	// In effect they are no longer in the way.
	again := p.ports(f)
	if a := again.only(t); a.Reuse.InEffect != a.Reuse.Reusable || a.Free != a.Reuse.Reusable {
		t.Errorf("with tcp_tw_reuse=1: %+v %+v", a, a.Reuse)
	}
	return true
}

// second is the kernel's clock as tcp_twsk_unique() reads it up to 6.13: as far as ticks have come.
func (p *pool) second() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_COARSE, &ts); err != nil {
		p.Fatal(err)
	}
	return ts.Sec
}

func (p *pool) waitNextSecond() {
	for begin := p.second(); p.second() == begin; {
		time.Sleep(time.Millisecond)
	}
}

// TestPortsListeners: which bind() fails over what a listener has left is told, with how long.
func TestPortsListeners(t *testing.T) {
	t.Parallel()
	f := attachPorts(t)
	for name, c := range map[string]struct {
		first, next int // SO_REUSEADDR of the old listener and of the new one
		refuses     bool
		err         error
	}{
		"both":    {1, 1, false, nil},
		"new one": {0, 1, true, unix.EADDRINUSE},
		"old one": {1, 0, false, unix.EADDRINUSE},
		"neither": {0, 0, true, unix.EADDRINUSE},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPool(t, "40000 40019", "tcp_tw_reuse", "0")
			listen := func(reuse int) (int, error) {
				fd := p.value(p.srv.Socket(unix.AF_INET))
				p.must(p.srv.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, reuse))
				if _, err := p.srv.Bind(fd, p.at); err != nil {
					p.must(p.srv.CloseFD(fd))
					return -1, err
				}
				p.must(p.srv.Listen(fd, 64))
				return fd, nil
			}
			p.at = p.on("127.0.0.1:9000")
			var err error
			if p.listener, err = listen(c.first); err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				client, s, err := p.dial(func(fd int) error { // each from another port: a SYN from the same one ends the TIME_WAIT
					_, err := p.cl.Bind(fd, netip.AddrPortFrom(p.at.Addr(), uint16(50000+i)))
					return err
				})
				p.value2(client, s, err)
				p.must(p.srv.CloseFD(s)) // first, so that the port of the listener stays in TIME_WAIT
				p.value(p.cl.Read(client, 1))
				p.must(p.cl.CloseFD(client))
			}
			before := p.ports(f)
			if n := len(before.Listeners); (n > 0) != c.refuses || n > 0 && !before.Listeners[0].Listening {
				t.Errorf("while it listens: %+v", before.Listeners)
			}
			p.must(p.srv.CloseFD(p.listener))
			r := p.ports(f)
			if len(r.Listeners) != 1 {
				t.Fatalf("%+v", r.Listeners)
			}
			l := r.Listeners[0]
			if l.Local != "127.0.0.1:9000" || l.Listening || l.ByState["TIME_WAIT"] != 3 || l.Refuses != c.refuses ||
				l.Until == nil || *l.Until < int64(50*time.Second) || *l.Until > int64(63*time.Second) {
				t.Errorf("%+v", l)
			}
			if len(r.Destinations) != 0 {
				t.Errorf("a server uses up no ports: %+v", r.Destinations)
			}
			if _, err := listen(c.next); !errors.Is(err, c.err) {
				t.Errorf("bind: %v, want %v", err, c.err)
			}
		})
	}
}

// TestPortsNow: one look needs no BPF. What it cannot know it does not tell.
func TestPortsNow(t *testing.T) {
	t.Parallel()
	p := newPool(t, "40000 40019", "tcp_tw_reuse", "0")
	p.leaveMany(5)
	p.value2(p.dial())
	r := p.ports(nil)
	d := r.only(t)
	if d.Used != 6 || d.ByState["TIME_WAIT"] != 5 || d.ByState["ESTABLISHED"] != 1 || d.Free != 14 || d.Reuse != nil || !r.Spaces[0].Inferred ||
		d.AllFree == nil || *d.AllFree > int64(63*time.Second) || d.Exhausted != nil {
		t.Errorf("%+v %+v", d, r.Spaces)
	}
	if n := p.fill(unix.EADDRNOTAVAIL); n != d.Free {
		t.Errorf("%d connections, %d were said to be free", n, d.Free)
	}
}

// TestPortsUnprivileged: nobody may look, and may not trace.
func TestPortsUnprivileged(t *testing.T) {
	stdout, stderr, code := asNobody(t, nil, "ports", "--sample", "0", "-o", "json")
	var r portsReport
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || code != exitOK || len(r.Spaces) == 0 || !r.Spaces[0].Inferred {
		t.Errorf("exit %d: %s%s (%v)", code, stdout, stderr, err)
	}
	stdout, stderr, code = asNobody(t, nil, "doctor", "--advise", "--sample", "0")
	if code != exitOK || !strings.Contains(stdout, "one look, without BPF") {
		t.Errorf("exit %d: %s%s", code, stdout, stderr)
	}
	for _, args := range [][]string{{"ports"}, {"doctor", "--advise"}} {
		stdout, stderr, code := asNobody(t, nil, args...)
		if code != exitPrivilege || stdout != "" || !strings.HasPrefix(stderr, "error: CAP_BPF") || !strings.Contains(stderr, "\nhint: ") {
			t.Errorf("%v exits %d: %s%s", args, code, stdout, stderr)
		}
	}
}
