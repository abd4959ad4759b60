// SPDX-License-Identifier: Apache-2.0

package survey

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"afterfin/internal/clock"
	"afterfin/internal/event"
	"afterfin/internal/netns"
	"afterfin/internal/ports"
	"afterfin/internal/sockdiag"
	"afterfin/internal/tcp"
)

// Ports looks at how the ports are used, in one netns (only.Inode) or in all that can be
// reached. l has all but At and Sockets. ask lists the sockets of the calling thread's netns; nil:
// sock_diag does, which does not tell whose port bind() chose, nor what tcp_tw_reuse would take.
// bound are the sockets of all netns that are bound and nothing else. Errors are those of ask,
// or of sockdiag.Dump, and of netns.List.
func Ports(only netns.NS, l ports.Look, ask func(func(*event.Port)) error, bound []event.Port) (spaces []*ports.Space, unreachable int, err error) {
	reachable := []netns.NS{only}
	if only.Inode == 0 {
		if reachable, unreachable, err = netns.List(); err != nil {
			return nil, 0, err
		}
	}
	own, _ := netns.Self() // not known: then the view names it by its number, as any other
	for _, ns := range reachable {
		s := &ports.Space{NetNS: ns.Inode, Path: ns.Path, Inferred: ask == nil}
		if ns.Inode == own {
			s.Path = ""
		}
		err := netns.Do(ns, func() error {
			if err := readRules(s); err != nil {
				return err
			}
			l.Sockets = nil
			if ask == nil {
				return inferPorts(&l)
			}
			return ask(func(p *event.Port) { l.Sockets = append(l.Sockets, *p) })
		})
		switch {
		case err == nil:
			for _, b := range bound {
				if b.NetNS == ns.Inode {
					l.Sockets = append(l.Sockets, b)
				}
			}
			l.At = clock.Mono()
			s.Take(&l)
			spaces = append(spaces, s)
		case errors.Is(err, fs.ErrNotExist): // it died since
		case errors.Is(err, fs.ErrPermission) && only.Inode == 0:
			unreachable++
		default:
			return nil, 0, err
		}
	}
	slices.SortFunc(spaces, func(a, b *ports.Space) int {
		return cmp.Or(cmp.Compare(len(b.Destinations), len(a.Destinations)), cmp.Compare(a.NetNS, b.NetNS))
	})
	return spaces, unreachable, nil
}

// readRules reads what the calling thread's netns is set to.
func readRules(s *ports.Space) error {
	between, err := netns.Sysctl("net.ipv4.ip_local_port_range")
	if err != nil || len(between) != 2 {
		return fmt.Errorf("read ip_local_port_range: %d numbers, %w", len(between), err)
	}
	reserved, err := netns.SysctlText("net.ipv4.ip_local_reserved_ports")
	if err != nil {
		return err
	}
	r := ports.Rules{Low: uint16(between[0]), High: uint16(between[1]), ReuseDelay: -1}
	if r.Reserved, err = ports.ParseSpans(reserved); err != nil {
		return err
	}
	for name, to := range map[string]*int{"tcp_tw_reuse": &r.Reuse, "tcp_timestamps": &r.Timestamps} {
		if *to, err = sysctl("net.ipv4." + name); err != nil {
			return err
		}
	}
	if ms, err := sysctl("net.ipv4.tcp_tw_reuse_delay"); err == nil {
		r.ReuseDelay = time.Duration(ms) * time.Millisecond
	} else if !errors.Is(err, fs.ErrNotExist) { // before 6.14
		return err
	}
	s.Rules = r
	s.Conntrack = conntrack()
	return nil
}

func sysctl(name string) (int, error) {
	n, err := netns.Sysctl(name)
	if err == nil && len(n) != 1 {
		err = fmt.Errorf("%s: %d numbers", name, len(n))
	}
	if err != nil {
		return 0, err
	}
	return n[0], nil
}

// conntrack tells of it where it tracks anything; each netns has its own.
func conntrack() *ports.Conntrack {
	count, err := sysctl("net.netfilter.nf_conntrack_count")
	if err != nil || count == 0 { // the module is not loaded, or no rule here needs it
		return nil
	}
	seconds, err := sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait")
	if err != nil {
		return nil
	}
	return &ports.Conntrack{Count: count, TimeWait: time.Duration(seconds) * time.Second}
}

// inferPorts takes from sock_diag what that knows. A port that somebody listens on was not chosen
// by connect().
func inferPorts(l *ports.Look) error {
	listens := make(map[uint16]bool)
	err := sockdiag.Dump(tcp.Live, func(e *event.Existing) {
		if e.Tuple.Local.Port() == 0 || e.State == tcp.NewSynRecv {
			return
		}
		mini := e.Info.Timer == event.TimerTimeWait
		p := event.Port{NetNS: e.NetNS, Cookie: e.Cookie, Tuple: e.Tuple, State: e.State, Mini: mini, Mono: e.Before}
		if mini {
			p.Expires = uint64(e.Left / l.Clock.Wheel.Tick)
		}
		if e.State == tcp.Listen {
			listens[e.Tuple.Local.Port()] = true
		}
		l.Sockets = append(l.Sockets, p)
	})
	for i := range l.Sockets {
		p := &l.Sockets[i]
		p.Taken = listens[p.Tuple.Local.Port()]
	}
	return err
}
