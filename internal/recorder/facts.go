// SPDX-License-Identifier: Apache-2.0

package recorder

import (
	"time"

	"afterfin/internal/event"
	"afterfin/internal/leak"
	"afterfin/internal/ports"
	"afterfin/internal/site"
	"afterfin/internal/tcp"
)

// What can be asked for.
const (
	AskLeaks    = "/v1/leaks"
	AskTimeWait = "/v1/timewait" // since=DURATION: of how long at least
	AskPorts    = "/v1/ports"
)

// Leaks is what AskLeaks tells of sockets in CLOSE_WAIT.
type Leaks struct {
	leak.Record
	Seen  leak.Seen
	Lost  event.Lost
	Sites []*site.Site
	Made  map[uint64]int // cookie → place in Sites
}

// NewLeaks puts together what is known.
func NewLeaks(m *leak.Memory, book *site.Book, seen leak.Seen, lost event.Lost) *Leaks {
	l := &Leaks{Record: m.Record(), Seen: seen, Lost: lost, Made: make(map[uint64]int)}
	at := make(map[*site.Site]int)
	book.Each(func(cookie uint64, s *site.Site) {
		i, known := at[s]
		if !known {
			i = len(l.Sites)
			at[s] = i
			l.Sites = append(l.Sites, s)
		}
		l.Made[cookie] = i
	})
	return l
}

// Complete adds it to a look that was taken before it was asked for.
func (l *Leaks) Complete(f *leak.Found) {
	l.Recall(tcp.CloseWait).Complete(f)
	f.Sites = site.NewBook()
	for cookie, i := range l.Made {
		if i >= 0 && i < len(l.Sites) {
			f.Sites.Put(cookie, l.Sites[i])
		}
	}
}

// TimeWait is what AskTimeWait tells; Window is nil if there were no two looks yet.
type TimeWait struct {
	*Window
	Length    time.Duration // that the kernel's timers are set to; 0: none was seen
	Lost      event.Lost
	MapMemory uint64 // bytes
}

// Ports is what AskPorts tells: a look of just now, and what was counted since the one before.
type Ports struct {
	Took        time.Duration
	Spaces      []*ports.Space
	Unreachable int
	Length      time.Duration
	Measured    bool
	Lost        event.Lost
}
