// SPDX-License-Identifier: Apache-2.0

package site

import (
	"cmp"
	"slices"
	"time"
)

// What it takes to look closely at a process, which costs the process, and on some kernels
// everybody.
const (
	enough  = 3                // leaked sockets whose place is known: the others come from there as well
	closely = time.Minute      // at a time
	rest    = 10 * time.Minute // before the next time
)

// Process is one that was found leaking: a pid alone is used again.
type Process struct {
	PID   int
	Start time.Duration
}

// Suspects says which processes to look at closely (tracer.Arm): those that leak, until it
// is known where. Pure; times are CLOCK_MONOTONIC. Not for concurrent use.
type Suspects struct {
	all map[Process]*suspect
}

type suspect struct {
	leaks  map[uint64]bool // cookies of what it was found to leak, and has not closed
	found  int             // them at the last look
	final  int             // and of those whose place is known as well as it can be
	armed  bool
	since  time.Duration // of the last arming
	rested time.Duration // may be armed again from then on
}

// NewSuspects knows none.
func NewSuspects() *Suspects { return &Suspects{all: make(map[Process]*suspect)} }

// Found takes in what a look has found: the cookies that each process leaks now. Whoever is
// not among them leaks no more.
func (s *Suspects) Found(leaking map[Process][]uint64, sites *Book) {
	for p, cookies := range leaking {
		sus := s.all[p]
		if sus == nil {
			sus = &suspect{}
			s.all[p] = sus
		}
		sus.leaks, sus.found, sus.final = make(map[uint64]bool, len(cookies)), len(cookies), 0
		for _, c := range cookies {
			sus.leaks[c] = true
			if at := sites.Get(c); at != nil && at.Final() {
				sus.final++
			}
		}
	}
	for p, sus := range s.all {
		if leaking[p] == nil {
			sus.leaks = nil
		}
	}
}

// Left is for a socket that has left the state, or is gone.
func (s *Suspects) Left(cookie uint64) {
	for _, sus := range s.all {
		delete(sus.leaks, cookie)
	}
}

// Order is what to do about one process.
type Order struct {
	Process
	Arm bool // else disarm
	Why string
	For time.Duration // it was armed, if it is to be disarmed
}

// Orders gives what is to change now. They count as carried out.
func (s *Suspects) Orders(now time.Duration) (orders []Order) {
	for p, sus := range s.all {
		why := ""
		switch {
		case len(sus.leaks) == 0:
			why = "it leaks no more"
		case sus.final >= min(enough, sus.found):
			why = "it is known where it leaks"
		case sus.armed && now-sus.since >= closely:
			why = "nothing more is found"
		}
		switch {
		case sus.armed && why != "":
			orders = append(orders, Order{Process: p, Why: why, For: now - sus.since})
			sus.armed, sus.rested = false, now+rest
			if len(sus.leaks) == 0 {
				sus.rested = now // the next leak is another one
			}
		case !sus.armed && why == "" && now >= sus.rested:
			orders = append(orders, Order{Process: p, Arm: true})
			sus.armed, sus.since = true, now
		}
		if len(sus.leaks) == 0 {
			delete(s.all, p)
		}
	}
	slices.SortFunc(orders, func(a, b Order) int { return cmp.Compare(a.PID, b.PID) })
	return orders
}

// Armed counts those that are looked at.
func (s *Suspects) Armed() (n int) {
	for _, sus := range s.all {
		if sus.armed {
			n++
		}
	}
	return n
}

// Refused takes back an order to arm that could not be carried out.
func (s *Suspects) Refused(p Process, now time.Duration) {
	if sus := s.all[p]; sus != nil {
		sus.armed, sus.rested = false, now+rest
	}
}
