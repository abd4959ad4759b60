// SPDX-License-Identifier: Apache-2.0

// Package survey takes one look at the host without BPF: the TCP sockets by sock_diag,
// netns after netns, and who holds them by /proc. It needs no privilege for one's own
// processes; what it may not see is counted.
package survey

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"afterfin/internal/clock"
	"afterfin/internal/event"
	"afterfin/internal/leak"
	"afterfin/internal/netns"
	"afterfin/internal/owner"
	"afterfin/internal/sockdiag"
	"afterfin/internal/tcp"
)

// Config says what to look at.
type Config struct {
	State tcp.State // of the sockets to describe
	NetNS netns.NS  // only this one; zero: every one that can be reached
	// Confirm is after when strays are looked at once more: a program that is just about
	// to close has one for a moment. 0: not.
	Confirm time.Duration
}

// Survey is what was found.
type Survey struct {
	leak.Found
	NetNS       int               // network namespaces looked at
	Unreachable int               // network namespaces, or processes that may be in one
	States      map[tcp.State]int // all live sockets, but for TIME_WAIT
	Orphans     Orphans
}

// Look asks for the sockets first, then for their holders. The errors are those of
// sockdiag.Dump and of reading /proc.
func Look(cfg Config) (*Survey, error) {
	s := &Survey{States: make(map[tcp.State]int)}
	s.Began = clock.Mono()
	spaces := []netns.NS{cfg.NetNS}
	if cfg.NetNS.Inode == 0 {
		var err error
		if spaces, s.Unreachable, err = netns.List(); err != nil {
			return nil, err
		}
	}
	l := look{Survey: s, state: cfg.State, listeners: make(map[place]*leak.Listener), listed: make(map[uint64]bool)}
	for _, ns := range spaces {
		err := netns.Do(ns, l.dump)
		switch {
		case err == nil:
			s.NetNS++
		case errors.Is(err, fs.ErrNotExist): // it died since
		case errors.Is(err, fs.ErrPermission) && cfg.NetNS.Inode == 0:
			s.Unreachable++
		default:
			return nil, err
		}
	}
	if cfg.NetNS.Inode != 0 {
		if err := l.listOthers(cfg.NetNS.Inode); err != nil {
			return nil, err
		}
	}
	if err := l.findHolders(); err != nil {
		return nil, err
	}
	if only := cfg.NetNS.Inode; only != 0 {
		s.Strays = slices.DeleteFunc(s.Strays, func(stray owner.Stray) bool {
			return stray.NetNS != 0 && stray.NetNS != only
		})
	}
	if cfg.Confirm > 0 && len(s.Strays) > 0 {
		time.Sleep(cfg.Confirm)
		if err := l.confirmStrays(); err != nil {
			return nil, err
		}
	}
	s.At, s.Tick = clock.Mono(), clock.Jiffy()
	s.Boot = clock.Boot() - s.At
	var err error
	s.Orphans, err = HostOrphans()
	return s, err
}

// look is a survey under way.
type look struct {
	*Survey
	state     tcp.State
	listeners map[place]*leak.Listener
	listed    map[uint64]bool // inodes of all TCP sockets
}

// place is what a listener listens on.
type place struct {
	netns uint32
	at    netip.AddrPort
}

// dump lists the sockets of the calling thread's netns.
func (l *look) dump() error {
	var wanted tcp.StateSet
	wanted.Add(l.state)
	err := sockdiag.DumpInfo(wanted, func(e *event.Existing) {
		l.seen(e)
		l.Sockets = append(l.Sockets, leak.Socket{Existing: *e})
	})
	if err != nil {
		return err
	}
	wanted.Add(tcp.TimeWait) // no descriptor leads to one
	return sockdiag.Dump(tcp.Live&^wanted, func(e *event.Existing) {
		l.seen(e)
		if e.State == tcp.Listen {
			l.listens(e)
		}
	})
}

// listOthers notes the sockets of every other netns that can be reached: the walk comes by
// their descriptors too, and must not take them for strays.
func (l *look) listOthers(than uint32) error {
	spaces, _, err := netns.List()
	if err != nil {
		return err
	}
	for _, ns := range spaces {
		if ns.Inode == than {
			continue
		}
		_ = netns.Do(ns, func() error { // what cannot be entered is asked itself
			return sockdiag.Dump(tcp.Live&^(1<<tcp.TimeWait), func(e *event.Existing) {
				if e.Inode != 0 {
					l.listed[e.Inode] = true
				}
			})
		})
	}
	return nil
}

// listens: of several at one place (SO_REUSEPORT) the one with the longest queue counts; it
// is the one that does not accept.
func (l *look) listens(e *event.Existing) {
	at := place{e.NetNS, e.Tuple.Local}
	if other := l.listeners[at]; other == nil || e.RecvQ > other.RecvQ {
		l.listeners[at] = &leak.Listener{Existing: *e}
	}
}

func (l *look) seen(e *event.Existing) {
	l.States[e.State]++
	if e.Inode != 0 {
		l.listed[e.Inode] = true
	}
}

func (l *look) findHolders() error {
	wanted := make(map[uint64]bool)
	for i := range l.Sockets {
		s := &l.Sockets[i]
		if s.Inode != 0 {
			wanted[s.Inode] = true
		}
		if s.Listener = l.listenerOf(s); s.Listener != nil {
			s.Side = event.SideAccept
			if s.Listener.Inode != 0 { // MPTCP's own has none
				wanted[s.Listener.Inode] = true
			}
		}
	}
	scan, err := owner.Find(wanted, l.listed)
	if err != nil {
		return fmt.Errorf("find holders: %w", err)
	}
	l.Strays, l.Carriers, l.Rings, l.Unreadable = scan.Strays, scan.Carriers, scan.Rings, scan.Unreadable
	for i := range l.Sockets {
		s := &l.Sockets[i]
		s.Holders, s.Fixed = scan.Holders[s.Inode], scan.Fixed[s.Inode]
		if s.Listener != nil {
			s.Listener.Holders = scan.Holders[s.Listener.Inode]
		}
	}
	return nil
}

// confirmStrays keeps those that are there still.
func (l *look) confirmStrays() error {
	scan, err := owner.Find(nil, l.listed)
	if err != nil {
		return fmt.Errorf("find holders: %w", err)
	}
	l.Strays = slices.DeleteFunc(l.Strays, func(s owner.Stray) bool {
		return !slices.ContainsFunc(scan.Strays, func(again owner.Stray) bool {
			return again.Inode == s.Inode && again.FD == s.FD && again.Process.PID == s.Process.PID
		})
	})
	return nil
}

// listenerOf finds the one that a connection to the same address and port would get
// to now.
func (l *look) listenerOf(s *leak.Socket) *leak.Listener {
	local := s.Tuple.Local
	any := []netip.Addr{local.Addr(), netip.IPv6Unspecified()}
	if local.Addr().Is4() {
		any = []netip.Addr{local.Addr(), netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	for _, addr := range any {
		if found := l.listeners[place{s.NetNS, netip.AddrPortFrom(addr, local.Port())}]; found != nil {
			return found
		}
	}
	return nil
}
