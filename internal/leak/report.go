// SPDX-License-Identifier: Apache-2.0

package leak

import (
	"slices"
	"time"

	"afterfin/internal/owner"
	"afterfin/internal/tcp"
)

// Report is the answer to who leaks.
type Report struct {
	State     tcp.State
	OlderThan time.Duration
	Groups    []Group
	Younger   int // sockets in State that are younger
	Ignored   int // leaks that the user knows of
	// Parents are the processes that those of Groups descend from, by pid, as far as they
	// live.
	Parents map[int]*owner.Process
	// Unclear descriptors are of TCP sockets in no dump, but whether their connection is
	// gone, or there never was one, was not shown.
	Unclear int
	Seen    Seen
}

// Seen says how sockets are seen being made. The zero value: not at all.
type Seen struct {
	Makes   bool // by connect(), and by accept() if Accepts
	Accepts bool
	Deep    bool // processes that leak are looked at closely
}

// Make judges what was found and puts it down to processes. ignore may be nil.
func Make(f *Found, state tcp.State, olderThan time.Duration, ignore *Ignore) *Report {
	r := &Report{State: state, OlderThan: olderThan}
	leaks := Judge(f, state, olderThan)
	for i := range f.Sockets {
		if f.Sockets[i].waits(state) {
			r.Younger++
		}
	}
	r.Younger -= len(leaks)
	kept := leaks[:0]
	for _, l := range leaks {
		if ignore.Leak(&l) {
			r.Ignored++
			continue
		}
		kept = append(kept, l)
	}
	var dead []Dead
	if state == tcp.CloseWait {
		dead, r.Unclear = f.dead()
		dead = slices.DeleteFunc(dead, func(d Dead) bool { return d.At != 0 && f.At-d.At < olderThan })
		all := len(dead)
		dead = slices.DeleteFunc(dead, func(d Dead) bool { return ignore.Dead(&d) })
		r.Ignored += all - len(dead)
	}
	r.Groups = GroupByProcess(kept, dead, olderThan)
	return r
}

// Total counts the leaks that are no pool's, and the dead descriptors.
func (r *Report) Total() (n int) {
	for i := range r.Groups {
		if g := &r.Groups[i]; !g.Pool {
			n += len(g.Leaks) + len(g.Dead)
		}
	}
	return n
}

// Oldest is the greatest age that is proven, pools left out.
func (r *Report) Oldest() (d time.Duration) {
	for i := range r.Groups {
		if r.Groups[i].Pool {
			continue
		}
		for j := range r.Groups[i].Leaks {
			d = max(d, r.Groups[i].Leaks[j].Age.Min)
		}
	}
	return d
}
