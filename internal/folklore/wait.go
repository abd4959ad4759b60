// SPDX-License-Identifier: Apache-2.0

package folklore

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

// wait is one TIME_WAIT: what its timer was set to, and how long it lasted.
type wait struct {
	local   netip.AddrPort
	cookie  uint64
	entered time.Duration
	timer   time.Duration // to a tenth of a second
	ended   bool
	told    bool // the tracer saw the end, and length is exact; else up to a look (lookEvery) too long
	length  time.Duration
	byTimer bool // if not told: it lasted at least as long as its timer
}

// lookEvery is how often is looked where nothing tells.
const lookEvery = 100 * time.Millisecond

// wait has an end come to TIME_WAIT.
func (s *stage) wait(local netip.AddrPort, finish func() lab.Step) *wait {
	w := &wait{local: local, entered: finish().After}
	w.timer = s.timerOf(local, w.entered)
	for _, m := range s.sockets(tcp.TimeWait) {
		if m.Tuple.Local == local {
			w.cookie = m.Cookie
		}
	}
	return w
}

// ends2MSL waits for the end of each of them.
func (s *stage) ends2MSL(waits []*wait) {
	for begin := lab.Mono(); ; s.sleep(lookEvery) {
		there := make(map[uint64]bool)
		for _, m := range s.sockets(tcp.TimeWait) {
			there[m.Cookie] = true
		}
		now, left := lab.Mono(), 0
		for _, w := range waits {
			switch {
			case there[w.cookie]:
				left++
			case !w.ended:
				w.ended, w.length = true, now-w.entered
				w.byTimer = w.length >= w.timer
			}
		}
		if left == 0 {
			break
		}
		if now-begin > 3*time.Minute {
			s.fail("%d TIME_WAIT are still there after %v", left, now-begin)
		}
	}
	for _, row := range s.rows() {
		for _, w := range waits {
			if row.From == tcp.TimeWait && w.cookie == row.Cookie {
				w.told, w.length, w.byTimer = true, row.InState.D, row.Cause == event.CauseExpired
			}
		}
	}
}

// lengthsOf gives how long they lasted, in order, and whether the timer ended each. missed is how many of them
// the tracer did not see end.
func (s *stage) lengthsOf(waits []*wait) (lengths []time.Duration, byTimer bool, missed int) {
	byTimer = true
	for _, w := range waits {
		lengths = append(lengths, w.length)
		byTimer = byTimer && w.byTimer
		if !w.told && s.recorder != nil {
			missed++
		}
	}
	slices.Sort(lengths)
	return lengths, byTimer, missed
}

// list joins words.
func list(words []string) string {
	switch n := len(words); n {
	case 0:
		return "none"
	case 1:
		return words[0]
	default:
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
}
