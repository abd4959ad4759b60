// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"time"

	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

// budget lets walks over all descriptors of the host take one part in a hundred
// of one CPU. What is not used is saved up, so that a quiet host looks at once.
type budget struct {
	credit time.Duration
	last   time.Time
}

const (
	share     = 100
	fruitless = 4 // what a walk that found nobody counts more
	maxCredit = 50 * time.Millisecond
)

func (b *budget) allows(now time.Time) bool {
	b.credit = min(b.credit+now.Sub(b.last)/share, maxCredit)
	b.last = now
	return b.credit > 0
}

// spent may leave a debt: one walk is never cut short.
func (b *budget) spent(took time.Duration) { b.credit -= took }

// resolve looks for the holder of sockets whose rows would name only their
// listener's owner, or nobody. The walk also tells the kernel, so that the next
// row of the same socket needs none.
func (f *Feed) resolve(now time.Time) error {
	first := 0
	for first < len(f.changes) && !unresolved(&f.changes[first]) {
		first++
	}
	if first == len(f.changes) || !f.walk.allows(now) {
		return nil
	}
	open := make(map[uint64]event.Owner)
	for i := range f.changes[first:] {
		if ch := &f.changes[first+i]; unresolved(ch) {
			open[ch.Cookie] = event.Owner{}
		}
	}
	err := f.tracer.Holders(func(h *event.Holder) {
		f.table.AddHolder(h)
		if o, ok := open[h.Cookie]; ok && o.PID == 0 { // the first holder, as in the kernel
			open[h.Cookie] = h.Owner
		}
	})
	took, helped := time.Since(now), false
	for i := range f.changes {
		ch := &f.changes[i]
		if o := open[ch.Cookie]; o.PID != 0 && unresolved(ch) {
			ch.Owner, helped = o, true
		}
	}
	if !helped { // sockets so short-lived are not found
		took *= fruitless
	}
	f.walk.spent(took)
	return err
}

// unresolved: there is a file, so somebody holds it, and the row does not say who.
func unresolved(ch *conn.Change) bool {
	return !ch.Owner.How.Direct() && ch.Inode != 0 && ch.From != tcp.Listen && ch.To != tcp.Listen
}
