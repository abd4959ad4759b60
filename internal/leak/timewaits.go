// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"time"

	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/owner"
	"afterfin/internal/tcp"
)

// TimeWaits counts the sockets in TIME_WAIT that hold an ephemeral port (those of the
// side that connected) and were left by some processes. Not for concurrent use.
type TimeWaits struct {
	place func(pid int, start time.Duration) (owner.Place, *owner.Process)
	alive map[uint64]bool // by cookie
	ended map[uint64]bool // their beginning may come later: two CPUs write one ring
	most  int
	gone  int
}

// maxEnded is how many ends without a beginning are kept; those of sockets that were there
// before stay without.
const maxEnded = 1 << 16

// NewTimeWaits is about those processes that place finds Inside.
func NewTimeWaits(place func(pid int, start time.Duration) (owner.Place, *owner.Process)) *TimeWaits {
	return &TimeWaits{place: place, alive: make(map[uint64]bool), ended: make(map[uint64]bool)}
}

// Apply takes in what changed. Rows from before TIME_WAIT help: at the last one
// the process may have ended, and cannot be placed any more.
func (t *TimeWaits) Apply(ch *conn.Change) {
	if ch.From == tcp.TimeWait {
		if t.alive[ch.Cookie] {
			delete(t.alive, ch.Cookie)
			return
		}
		if len(t.ended) >= maxEnded {
			clear(t.ended)
		}
		t.ended[ch.Cookie] = true
		return
	}
	if ch.Owner.PID == 0 || ch.Side == event.SideAccept {
		return
	}
	place, _ := t.place(int(ch.Owner.PID), ch.Owner.Start)
	if ch.To != tcp.TimeWait || ch.Side != event.SideConnect {
		return
	}
	switch {
	case place == owner.Gone:
		t.gone++
	case place == owner.Inside && !t.ended[ch.Cookie]:
		t.alive[ch.Cookie] = true
		t.most = max(t.most, len(t.alive))
	}
	delete(t.ended, ch.Cookie)
}

// Most is how many there were at once.
func (t *TimeWaits) Most() int { return t.most }

// Unplaced counts those whose process had ended before it was known where it belongs.
func (t *TimeWaits) Unplaced() int { return t.gone }
