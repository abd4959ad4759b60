// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"errors"
	"io/fs"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/netns"
	"afterfin/internal/sockdiag"
	"afterfin/internal/tcp"
	"afterfin/internal/tracer"
)

// found is what was there before us.
type found struct {
	sockets    []event.Existing
	holders    []event.Holder
	states     map[tcp.State]int
	left       time.Duration
	netns      int
	unreadable int
	overflows  *overflows
}

// seed dumps every reachable netns, then asks the kernel who holds the sockets.
// The order matters: the dump makes the kernel give each socket its cookie.
func seed(t *tracer.Tracer, cfg Config) (*found, error) {
	spaces := []netns.NS{{Inode: cfg.Filter.NetNS, Path: cfg.NetNSPath}}
	f := &found{states: make(map[tcp.State]int), overflows: newOverflows()}
	if cfg.Filter.NetNS == 0 {
		var err error
		if spaces, f.unreadable, err = netns.List(); err != nil {
			return nil, err
		}
	}
	var entered []netns.NS
	for _, ns := range spaces {
		err := netns.Do(ns, func() error {
			f.overflows.begin(ns, readOverflows())
			return f.dump(&cfg)
		})
		switch {
		case err == nil:
			entered = append(entered, ns)
		case errors.Is(err, fs.ErrNotExist): // it died since
		case errors.Is(err, fs.ErrPermission) && cfg.Filter.NetNS == 0:
			f.unreadable++
			f.overflows.begin(ns, nil)
		default:
			return nil, err
		}
	}
	f.netns = len(entered)

	if err := t.Seed(func(h *event.Holder) {
		if !cfg.Counts || cfg.Rows != 0 {
			f.holders = append(f.holders, *h)
		}
	}); err != nil {
		return nil, err
	}
	for _, ns := range entered {
		if err := netns.Do(ns, t.SeedSockets); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return f, nil
}

// keeps: does a socket in this state go into the table? Counting needs the dump and the walk for
// what they tell the kernel side, and has no rows but from and to some states: of a socket in
// another one the end may never be told.
func (cfg *Config) keeps(s tcp.State) bool { return !cfg.Counts || cfg.Rows.Has(s) }

func (f *found) dump(cfg *Config) error {
	return sockdiag.Dump(tcp.Live, func(e *event.Existing) {
		if cfg.Filter.MatchExisting(e) {
			f.states[e.State]++
			if e.State == tcp.TimeWait {
				f.left = max(f.left, e.Left)
			}
			if cfg.keeps(e.State) {
				f.sockets = append(f.sockets, *e)
			}
		}
	})
}

func (f *found) into(to *Feed) {
	for i := range f.sockets {
		to.table.AddExisting(&f.sockets[i])
	}
	for i := range f.holders {
		to.table.AddHolder(&f.holders[i])
	}
	to.overflows = f.overflows
	to.start.States = f.states
	to.start.TimeWaitLeft = f.left
	to.start.NetNS = f.netns
	to.start.Unreadable = f.unreadable
}
