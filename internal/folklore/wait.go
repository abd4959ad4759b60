// SPDX-License-Identifier: Apache-2.0

package folklore

import (
	"net/netip"
	"slices"
	"time"

	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/lab"
	"afterfin/internal/tcp"
)

// mini is a mini-socket: what its timer was set to, to a tenth of a second; 0: it could not be told so well.
type mini struct {
	cookie uint64
	timer  time.Duration
}

// mini waits for the mini-socket of an end in a state, into which a step has brought it.
func (s *stage) mini(local netip.AddrPort, state tcp.State, step lab.Step) (m mini) {
	s.await("a mini-socket", func() bool {
		for _, x := range s.sockets(state) {
			if x.Tuple.Local != local || x.Info.Timer != event.TimerTimeWait {
				continue
			}
			m.cookie = x.Cookie
			// It was set during the step, and read between After and Before.
			least, most := x.Left+x.After-step.After, x.Left+x.Before-step.Before
			if most-least < 50*time.Millisecond {
				m.timer = ((least + most) / 2).Round(100 * time.Millisecond)
			}
			return true
		}
		return false
	})
	return m
}

// wait is one TIME_WAIT, and how long it lasted.
type wait struct {
	mini
	entered time.Duration
	ended   bool
	told    bool // the tracer saw the end, and length is exact; else up to a look (lookEvery) too long
	length  time.Duration
	byTimer bool // if not told: it lasted at least as long as its timer
}

// lookEvery is how often is looked where nothing tells.
const lookEvery = 100 * time.Millisecond

// wait takes in an end that a step has brought to TIME_WAIT.
func (s *stage) wait(local netip.AddrPort, step lab.Step) *wait {
	return &wait{mini: s.mini(local, tcp.TimeWait, step), entered: step.After}
}

// nominal is what their timers were set to.
func (s *stage) nominal(waits []*wait) time.Duration {
	for _, w := range waits {
		if w.timer != 0 {
			return w.timer
		}
	}
	s.fail("the machine is too busy to tell what the timers were set to")
	return 0
}

// ends2MSL waits for the end of each of them.
func (s *stage) ends2MSL(waits []*wait, nominal time.Duration) {
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
				w.byTimer = w.length >= nominal
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
			if row.From == tcp.TimeWait && w.cookie == row.Cookie && row.InState.Quality == conn.Exact {
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
