// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"afterfin/internal/clock"
	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/feed"
	"afterfin/internal/owner"
	"afterfin/internal/site"
	"afterfin/internal/tcp"
	"afterfin/internal/tracer"
	"afterfin/internal/view"
)

// settle is how long a report waits for places that are just being named.
const settle = 2 * time.Second

// places learns where sockets were made, of those that a feed with Config.Sites tells. Not
// for concurrent use; its caller closes it, before the feed.
type places struct {
	feed   *feed.Feed
	finder *site.Finder
	book   *site.Book

	// For those who look closely (feed.Config.Deep).
	suspects *site.Suspects // nil: nobody does
	names    map[site.Process]string
	untaxed  time.Duration // a system call with nothing armed
	stderr   io.Writer
}

func openPlaces(f *feed.Feed, deep bool, stderr io.Writer) *places {
	p := &places{feed: f, finder: site.NewFinder(), book: site.NewBook(), stderr: stderr}
	if deep {
		p.suspects, p.names, p.untaxed = site.NewSuspects(), make(map[site.Process]string), tracer.CallCost()
	}
	return p
}

func (p *places) close() { p.finder.Close() }

// apply forgets sockets that are over, or have left the state they are about, unless they are now
// a descriptor without a connection.
func (p *places) apply(ch *conn.Change, state tcp.State) {
	if p.suspects != nil && ch.From == state {
		p.suspects.Left(ch.Cookie)
	}
	if (ch.From == state || ch.To == tcp.Close) && !ch.DiedOpen() {
		p.gone(ch.Cookie)
	}
}

// gone forgets one socket: of most there is nothing to forget.
func (p *places) gone(cookie uint64) {
	if p.book.Get(cookie) != nil || p.finder.Pending() {
		p.finder.Gone(cookie)
	}
}

// read takes in what has come since the last call. Call it after feed.Next.
func (p *places) read() error {
	t := p.feed.Tracer()
	for _, s := range t.Sites() {
		p.finder.Told(s)
	}
	if err := t.Slices(func(s event.Slice) { p.finder.Slice(s) }); err != nil {
		return err
	}
	p.finder.Collect(p.book.Put)
	return p.order()
}

// settled gives the book when what waits is in it, or is not within reach.
func (p *places) settled() (*site.Book, error) {
	if err := p.read(); err != nil {
		return nil, err
	}
	p.finder.Settle(settle)
	p.finder.Collect(p.book.Put)
	return p.book, nil
}

// found takes in who leaks.
func (p *places) found(leaking map[*owner.Process][]uint64) error {
	if p.suspects == nil {
		return nil
	}
	by := make(map[site.Process][]uint64, len(leaking))
	for process, cookies := range leaking {
		id := site.Process{PID: process.PID, Start: process.Start}
		by[id], p.names[id] = cookies, process.Comm
	}
	p.suspects.Found(by, p.book)
	return p.order()
}

// order arms and disarms, and says so.
func (p *places) order() error {
	if p.suspects == nil {
		return nil
	}
	t := p.feed.Tracer()
	for _, o := range p.suspects.Orders(clock.Mono()) {
		name := fmt.Sprintf("%s[%d]", p.names[o.Process], o.PID)
		if !o.Arm {
			taken, err := t.Disarm(uint32(o.PID))
			if err != nil {
				return err
			}
			fmt.Fprintf(p.stderr, "deep: %s disarmed after %s, %s: %s stacks taken, %s sockets passed over\n", name,
				view.Duration(o.For), o.Why, view.Thousands(taken.Slices), view.Thousands(taken.Passed))
			delete(p.names, o.Process)
			continue
		}
		taxing := t.Taxing()
		switch err := t.Arm(uint32(o.PID)); {
		case errors.Is(err, tracer.ErrNotArmed):
			p.suspects.Refused(o.Process, clock.Mono())
			fmt.Fprintf(p.stderr, "deep: %s is not armed: %v\n", name, err)
			continue
		case err != nil:
			return err
		}
		cost := "nobody else pays for it"
		if t.Taxing() && !taxing {
			cost = fmt.Sprintf("meanwhile each system call of the machine takes %v instead of %v", tracer.CallCost(), p.untaxed)
		} else if taxing {
			cost = "each system call of the machine pays for it, as before"
		}
		fmt.Fprintf(p.stderr, "deep: %s armed, the stack of its next connections is taken, %d a second at most; %s\n", name, tracer.SlicesASecond, cost)
	}
	return nil
}
