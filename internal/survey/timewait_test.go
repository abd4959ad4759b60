// SPDX-License-Identifier: Apache-2.0

package survey

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/event"
	"afterfin/internal/lab"
	"afterfin/internal/netns"
	"afterfin/internal/timewait"
)

// TestTimeWaits: what is in TIME_WAIT in a netns, which side it is of, and what stands apart.
func TestTimeWaits(t *testing.T) {
	ns, err := lab.NewNetNS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	if err := ns.SetSysctl("net.ipv4.tcp_max_tw_buckets", "1234"); err != nil {
		t.Fatal(err)
	}
	var c *lab.Closer
	in := func(f func() error) {
		t.Helper()
		if err := ns.Do(f); err != nil {
			t.Fatal(err)
		}
	}
	in(func() error {
		if c, err = lab.NewCloser(); err != nil {
			return err
		}
		for range 3 {
			if _, err := c.Leave(); err != nil {
				return err
			}
		}
		return leaveOthers(c)
	})
	t.Cleanup(func() { c.Close() })
	only := netns.NS{Inode: ns.Inode(), Path: ns.Path()}
	// The last ones may still be in a softirq.
	s := census1(t, only, &event.Filter{}, func(s *timewait.Space) bool { return s.Live == 5 && s.Halfway == 1 })
	if s.Live != 5 || s.Halfway != 1 || s.Max != 1234 || s.Overflows != 0 || s.NetNS != ns.Inode() || s.Path != ns.Path() {
		t.Errorf("%+v", s)
	}
	if s.Sides[event.SideConnect] != 3 || s.Sides[event.SideAccept] != 2 || s.Sides[event.SideUnknown] != 0 {
		t.Errorf("sides %v", s.Sides)
	}
	port := c.Addr().Port()
	if len(s.Peers) != 2 || s.Peers[0].Count != 3 || s.Peers[0].Port != port || s.Peers[0].Side != event.SideConnect ||
		s.Peers[1].Count != 2 || s.Peers[1].Port != port || s.Peers[1].Side != event.SideAccept {
		t.Errorf("peers %+v", s.Peers)
	}
	if s := census1(t, only, &event.Filter{LocalPorts: []uint16{port}}, nil); s.Live != 2 {
		t.Errorf("on one local port: %+v", s)
	}
	if s := census1(t, only, &event.Filter{Family: 6}, nil); s.Live != 0 {
		t.Errorf("IPv6: %+v", s)
	}
	// Without the listener, and with other ephemeral ports, nothing tells.
	if err := ns.SetSysctl("net.ipv4.ip_local_port_range", "1024 1030"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	if s := census1(t, only, &event.Filter{}, nil); s.Sides[event.SideUnknown] != 5 {
		t.Errorf("sides %v", s.Sides)
	}
	// One that gets no mini-socket.
	if err := ns.SetSysctl("net.ipv4.tcp_max_tw_buckets", "0"); err != nil {
		t.Fatal(err)
	}
	in(func() error {
		c, err := lab.NewCloser()
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Leave()
		return err
	})
	if s := census1(t, only, &event.Filter{}, func(s *timewait.Space) bool { return s.Overflows == 1 }); s.Overflows != 1 || s.Live != 5 {
		t.Errorf("%+v", s)
	}
}

// leaveOthers has the server close two first, and leaves an orphan whose peer does not close.
func leaveOthers(c *lab.Closer) error {
	for range 2 {
		client, server, err := c.Pair()
		if err != nil {
			return err
		}
		if err := lab.CloseBoth(server, client); err != nil {
			return err
		}
	}
	client, _, err := c.Pair() // the server's end stays open as long as the test does
	if err != nil {
		return err
	}
	return unix.Close(client)
}

// census1 looks at one netns, until done or for a while.
func census1(t *testing.T, only netns.NS, filter *event.Filter, done func(*timewait.Space) bool) *timewait.Space {
	t.Helper()
	for begin := time.Now(); ; {
		now, err := TimeWaits(only, filter)
		if err != nil {
			t.Fatal(err)
		}
		if len(now.Spaces) != 1 {
			t.Fatalf("%d netns", len(now.Spaces))
		}
		if s := &now.Spaces[0]; done == nil || done(s) || time.Since(begin) > 10*time.Second {
			return s
		}
	}
}

// TestTimeWaitsEverywhere: our own netns is among them, and says so by having no path.
func TestTimeWaitsEverywhere(t *testing.T) {
	self, err := netns.Self()
	if err != nil {
		t.Fatal(err)
	}
	now, err := TimeWaits(netns.NS{}, &event.Filter{})
	if err != nil {
		t.Fatal(err)
	}
	own := 0
	for _, s := range now.Spaces {
		if s.Path == "" {
			own++
			if s.NetNS != self || s.Max <= 0 || s.Overflows < 0 {
				t.Errorf("%+v", s)
			}
		}
	}
	if own != 1 || now.At == 0 {
		t.Errorf("%d of %d are our own", own, len(now.Spaces))
	}
	if _, err := TimeWaits(netns.NS{Inode: 1, Path: "/nowhere"}, &event.Filter{}); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a netns that is not there: %v", err)
	}
	if os.Geteuid() == 0 && now.MiniBytes != 0 && (now.MiniBytes < 128 || now.MiniBytes > 1024) {
		t.Errorf("a mini-socket takes %d bytes", now.MiniBytes)
	}
}
