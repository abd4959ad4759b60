// SPDX-License-Identifier: Apache-2.0

package site

import (
	"slices"
	"testing"
	"time"

	"afterfin/internal/symbol"
)

const sec = time.Second

var (
	first, second = Process{10, sec}, Process{11, 2 * sec}
	known         = &Site{How: ByUnwinding, Frames: []symbol.Frame{{Function: "serve", Module: "/bin/served", Quality: symbol.Symbol}}}
	unsure        = &Site{Frames: known.Frames}
)

// told is an Order without its times.
type told struct {
	pid int
	arm bool
	why string
}

func orders(s *Suspects, now time.Duration) (out []told) {
	for _, o := range s.Orders(now) {
		out = append(out, told{o.PID, o.Arm, o.Why})
	}
	return out
}

func expect(t *testing.T, what string, got []told, want ...told) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func TestSuspects(t *testing.T) {
	s, book := NewSuspects(), NewBook()
	look := func(of map[Process][]uint64) { s.Found(of, book) }
	expect(t, "nobody leaks", orders(s, 0))

	look(map[Process][]uint64{first: {1, 2}, second: {9}})
	expect(t, "two leak", orders(s, sec), told{10, true, ""}, told{11, true, ""})
	expect(t, "once", orders(s, 2*sec))

	s.Left(9)
	expect(t, "the second has closed", orders(s, 3*sec), told{11, false, "it leaks no more"})

	book.Put(1, known)
	book.Put(2, unsure)
	book.Put(3, known)
	look(map[Process][]uint64{first: {1, 2, 3}})
	expect(t, "two are sure", orders(s, 4*sec))
	book.Put(4, known)
	look(map[Process][]uint64{first: {1, 2, 3, 4}})
	expect(t, "three are", orders(s, 5*sec), told{10, false, "it is known where it leaks"})
	if s.Armed() != 0 {
		t.Errorf("%d armed", s.Armed())
	}

	// A program with frame pointers needs no closer look.
	third := Process{12, sec}
	book.Put(30, known)
	look(map[Process][]uint64{first: {1, 2, 3, 4}, third: {30}})
	expect(t, "all are known", orders(s, 5*sec))
	look(map[Process][]uint64{first: {1, 2, 3, 4}, third: {30, 31}})
	expect(t, "one is not", orders(s, 5*sec), told{12, true, ""})
	look(map[Process][]uint64{first: {1, 2, 3, 4}})
	expect(t, "it has ended", orders(s, 5*sec), told{12, false, "it leaks no more"})

	// The next leak of the same process is another one.
	for c := range uint64(5) {
		s.Left(c)
	}
	expect(t, "over", orders(s, 6*sec))
	look(map[Process][]uint64{first: {20}})
	expect(t, "again", orders(s, 7*sec), told{10, true, ""})
	look(map[Process][]uint64{})
	expect(t, "not found any more", orders(s, 8*sec), told{10, false, "it leaks no more"})
}

func TestSuspectsRest(t *testing.T) {
	s := NewSuspects()
	look := func() { s.Found(map[Process][]uint64{first: {1}}, nil) }
	look()
	expect(t, "arm", orders(s, 0), told{10, true, ""})
	look()
	expect(t, "not yet", orders(s, closely-1))
	got := s.Orders(closely)
	if len(got) != 1 || got[0].Arm || got[0].For != closely || got[0].Why != "nothing more is found" {
		t.Errorf("after a minute: %+v", got)
	}
	look()
	expect(t, "rests", orders(s, closely+rest-1))
	expect(t, "and again", orders(s, closely+rest), told{10, true, ""})
	s.Refused(first, closely+rest)
	expect(t, "refused: rests", orders(s, closely+rest+1))
	expect(t, "and is tried again", orders(s, closely+2*rest), told{10, true, ""})
}

func TestBook(t *testing.T) {
	b := NewBook()
	b.Put(1, unsure)
	b.Put(1, known)
	b.Put(1, unsure)
	if b.Get(1) != known || b.Get(2) != nil || (*Book)(nil).Get(1) != nil {
		t.Errorf("what was unwound stays: %+v", b.Get(1))
	}
	b.Put(1, nil)
	if b.Get(1) != nil || b.Len() != 0 {
		t.Error("it is gone")
	}
}

func TestBookIsBounded(t *testing.T) {
	b := NewBook()
	for c := range uint64(maxBook + 2) {
		b.Put(c, known)
	}
	b.Put(1, unsure)
	if b.Len() != maxBook || b.Refused() != 2 {
		t.Errorf("%d sockets, %d refused", b.Len(), b.Refused())
	}
}
