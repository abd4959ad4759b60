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
	var open map[uint64]event.Owner
	for i := range f.changes {
		if unresolved(&f.changes[i]) {
			if open == nil {
				open = make(map[uint64]event.Owner)
			}
			open[f.changes[i].Cookie] = event.Owner{}
		}
	}
	if open == nil || !f.walk.allows(now) {
		return nil
	}
	err := f.tracer.Holders(func(h *event.Holder) {
		f.table.AddHolder(h)
		if o, ok := open[h.Cookie]; ok && o.PID == 0 { // the first holder, as in the kernel
			open[h.Cookie] = h.Owner
		}
	})
	f.walk.spent(time.Since(now))
	if err != nil {
		return err
	}
	for i := range f.changes {
		ch := &f.changes[i]
		if o := open[ch.Cookie]; o.PID != 0 && unresolved(ch) {
			ch.Owner = o
		}
	}
	return nil
}

// unresolved: there is a file, so somebody holds it, and the row does not say who.
func unresolved(ch *conn.Change) bool {
	return !ch.Owner.How.Direct() && ch.Inode != 0 && ch.From != tcp.Listen && ch.To != tcp.Listen
}
