// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"time"
)

// Place is where a process stands to a Tree.
type Place uint8

// Gone: it had ended before anybody could look, so nothing is known of it.
const (
	Gone Place = iota
	Outside
	Inside
)

// Tree tells which processes descend from one. That one must be a child subreaper
// (PR_SET_CHILD_SUBREAPER): then it adopts the orphans among its descendants, and a process
// once inside stays so. For concurrent use.
type Tree struct {
	root int
	*finder

	mu      sync.Mutex
	inside  map[identity]*Process // nil: not described yet
	outside map[identity]bool
}

// identity of a process: a pid alone is used again.
type identity struct {
	pid   int
	start time.Duration // to a clock tick
}

// maxOutside is how many processes outside are remembered; then they are looked up anew.
const maxOutside = 1 << 16

// NewTree is about the descendants of a process, which is not among them itself.
func NewTree(root int) *Tree { return newTree(root, system()) }

func newTree(root int, f *finder) *Tree {
	return &Tree{root: root, finder: f, inside: make(map[identity]*Process), outside: make(map[identity]bool)}
}

// Place says where a process stands, and for one inside who it is, as it was when it
// was asked for first. start is CLOCK_BOOTTIME at its start: another process with the same
// pid is another one.
func (t *Tree) Place(pid int, start time.Duration) (Place, *Process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := identity{pid, start.Truncate(ClockTick)} // the kernel rounds down for /proc
	place := t.place(id)
	if place != Inside {
		return place, nil
	}
	if t.inside[id] == nil {
		if p, err := t.processOf(pid); err == nil && p.Start == id.start {
			t.inside[id] = p
		}
	}
	return Inside, t.inside[id]
}

// Note remembers a process while it can still be read: call it for a child that has ended
// and is not reaped yet. The error wraps fs.ErrNotExist if there is none.
func (t *Tree) Note(pid int) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, err := t.stat(pid)
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	t.place(s.identity)
	return nil
}

// Alive says whether a process has not ended.
func (t *Tree) Alive(pid int, start time.Duration) bool {
	s, err := t.stat(pid)
	return err == nil && s.start == start.Truncate(ClockTick) && s.state != 'Z' && s.state != 'X'
}

func (t *Tree) place(id identity) Place {
	if _, ok := t.inside[id]; ok {
		return Inside
	}
	if t.outside[id] {
		return Outside
	}
	const tries = 8 // an ancestor that ends while we climb hands its children to another
	for range tries {
		first, err := t.stat(id.pid)
		if err != nil || first.identity != id {
			return Gone
		}
		chain, place, err := t.climb(first)
		if err != nil {
			continue
		}
		t.remember(chain, place)
		return place
	}
	return Gone
}

// climb follows the parents to the root, to process 1's, or to one that is known.
func (t *Tree) climb(p parentage) (chain []identity, place Place, err error) {
	for {
		_, inside := t.inside[p.identity]
		switch {
		case inside:
			return chain, Inside, nil
		case t.outside[p.identity] || p.pid == t.root:
			return chain, Outside, nil
		}
		chain = append(chain, p.identity)
		switch p.parent {
		case t.root:
			return chain, Inside, nil
		case 0:
			return chain, Outside, nil
		}
		if p, err = t.stat(p.parent); err != nil {
			return nil, Gone, err
		}
	}
}

func (t *Tree) remember(chain []identity, place Place) {
	if len(t.outside) > maxOutside {
		clear(t.outside)
	}
	for _, id := range chain {
		if place == Inside {
			t.inside[id] = nil
		} else {
			t.outside[id] = true
		}
	}
}

// parentage is a process and the pid of its parent, 0 if it has none.
type parentage struct {
	identity
	parent int
	state  byte
}

var errStat = errors.New("not in the form of /proc/PID/stat")

// stat reads what there is also of a process that has ended and was not reaped.
func (f *finder) stat(pid int) (parentage, error) {
	raw, err := os.ReadFile(f.proc + "/" + strconv.Itoa(pid) + "/stat")
	if gone(err) {
		return parentage{}, fs.ErrNotExist
	}
	if err != nil {
		return parentage{}, err
	}
	const state, ppid, starttime = 3, 4, 22 // as proc_pid_stat(5) counts
	end := bytes.LastIndexByte(raw, ')')    // the name before it may hold anything
	fields := bytes.Fields(raw[end+1:])
	if end < 0 || len(fields) <= starttime-state {
		return parentage{}, errStat
	}
	parent, err := strconv.Atoi(string(fields[ppid-state]))
	if err != nil {
		return parentage{}, errStat
	}
	ticks, err := strconv.ParseInt(string(fields[starttime-state]), 10, 64)
	if err != nil {
		return parentage{}, errStat
	}
	return parentage{identity{pid, time.Duration(ticks) * ClockTick}, parent, fields[0][0]}, nil
}
