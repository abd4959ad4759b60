// SPDX-License-Identifier: Apache-2.0

package survey

import (
	"cmp"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"afterfin/internal/clock"
	"afterfin/internal/event"
	"afterfin/internal/netns"
	"afterfin/internal/sockdiag"
	"afterfin/internal/tcp"
	"afterfin/internal/timewait"
)

// TimeWaits looks at what is in TIME_WAIT now, in one netns (only.Inode) or in all that can be
// reached, as far as the filter lets pass. It keeps no socket, so its memory is that of the
// peers. Errors are those of sockdiag.Dump and of netns.List.
func TimeWaits(only netns.NS, filter *event.Filter) (*timewait.Now, error) {
	now := &timewait.Now{At: clock.Mono(), MiniBytes: Slabs()["tw_sock_TCP"]}
	spaces := []netns.NS{only}
	if only.Inode == 0 {
		var err error
		if spaces, now.Unreachable, err = netns.List(); err != nil {
			return nil, err
		}
	}
	own, _ := netns.Self() // not known: then the view names it by its number, as any other
	for _, ns := range spaces {
		c := census{space: timewait.Space{NetNS: ns.Inode, Path: ns.Path}, filter: filter}
		if ns.Inode == own {
			c.space.Path = ""
		}
		err := netns.Do(ns, c.take)
		switch {
		case err == nil:
			now.Spaces = append(now.Spaces, c.space)
		case errors.Is(err, fs.ErrNotExist): // it died since
		case errors.Is(err, fs.ErrPermission) && only.Inode == 0:
			now.Unreachable++
		default:
			return nil, err
		}
	}
	slices.SortFunc(now.Spaces, func(a, b timewait.Space) int {
		return cmp.Or(cmp.Compare(b.Live, a.Live), cmp.Compare(b.Halfway, a.Halfway), cmp.Compare(a.NetNS, b.NetNS))
	})
	return now, nil
}

// census is a look at one netns under way.
type census struct {
	space     timewait.Space
	filter    *event.Filter
	listeners map[netip.AddrPort]bool
	ports     [2]int // ip_local_port_range
	peers     map[event.Peer]uint64
}

func (c *census) take() error {
	c.space.Max, c.space.Overflows, c.space.RFC1337 = -1, -1, -1
	if n, err := sysctl("net.ipv4.tcp_max_tw_buckets"); err == nil {
		c.space.Max = n
	}
	if n, err := sysctl("net.ipv4.tcp_fin_timeout"); err == nil {
		c.space.FinTimeout = time.Duration(n) * time.Second
	}
	if n, err := sysctl("net.ipv4.tcp_rfc1337"); err == nil {
		c.space.RFC1337 = n
	}
	if n, err := netns.Sysctl("net.ipv4.ip_local_port_range"); err == nil && len(n) == 2 {
		c.ports = [2]int(n)
	}
	if n, err := netns.TimeWaitOverflows(); err == nil {
		c.space.Overflows = int64(n)
	}
	c.listeners, c.peers = make(map[netip.AddrPort]bool), make(map[event.Peer]uint64)
	if err := sockdiag.Dump(1<<tcp.Listen, func(e *event.Existing) { c.listeners[e.Tuple.Local] = true }); err != nil {
		return err
	}
	if err := sockdiag.Dump(1<<tcp.TimeWait|1<<tcp.FinWait2, c.add); err != nil {
		return err
	}
	for p, n := range c.peers {
		p.Count = n
		c.space.Peers = append(c.space.Peers, p)
	}
	timewait.SortPeers(c.space.Peers)
	return nil
}

func (c *census) add(e *event.Existing) {
	if e.Info.Timer != event.TimerTimeWait || !c.filter.MatchExisting(e) { // a FIN_WAIT2 may be a socket
		return
	}
	if e.State == tcp.FinWait2 {
		c.space.Halfway++
		return
	}
	c.space.Live++
	side := c.sideOf(e.Tuple.Local)
	c.space.Sides[side]++
	port := e.Tuple.Remote.Port()
	if side == event.SideAccept {
		port = e.Tuple.Local.Port()
	}
	c.peers[event.Peer{Remote: e.Tuple.Remote.Addr(), Port: port, NetNS: e.NetNS, Side: side}]++
}

// sideOf infers which end of its connection a socket was.
func (c *census) sideOf(local netip.AddrPort) event.Side {
	for _, addr := range []netip.Addr{local.Addr(), netip.IPv6Unspecified(), netip.IPv4Unspecified()} {
		if (addr.Is6() || local.Addr().Is4()) && c.listeners[netip.AddrPortFrom(addr, local.Port())] {
			return event.SideAccept
		}
	}
	if port := int(local.Port()); c.ports[0] <= port && port <= c.ports[1] {
		return event.SideConnect
	}
	return event.SideUnknown
}

// Slabs gives the size in bytes of an object of each of the kernel's slabs, by name (TCP, tw_sock_TCP). One that is
// merged with others of its size is not there, and where /proc/slabinfo, which is root's, cannot be read, none is.
func Slabs() map[string]int {
	sizes := make(map[string]int)
	raw, err := os.ReadFile("/proc/slabinfo")
	if err != nil {
		return sizes
	}
	for line := range strings.Lines(string(raw)) {
		if fields := strings.Fields(line); len(fields) > 3 {
			sizes[fields[0]], _ = strconv.Atoi(fields[3])
		}
	}
	return sizes
}
