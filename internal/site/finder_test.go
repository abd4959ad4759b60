// SPDX-License-Identifier: Apache-2.0

package site

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/owner"
)

// us is this process, as the kernel side would tell of it.
func us(t *testing.T, cookie uint64) event.Site {
	t.Helper()
	p, err := owner.ProcessOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	var stack [60]uintptr
	s := event.Site{Cookie: cookie, PID: uint32(p.PID), Start: p.Start + 5*time.Millisecond, Call: event.SideConnect}
	for _, pc := range stack[:runtime.Callers(1, stack[:])] {
		s.Stack = append(s.Stack, uint64(pc))
	}
	s.Stack[0]-- // where the thread is, not where a call returns to
	return s
}

func TestFinder(t *testing.T) {
	f := NewFinder()
	defer f.Close()
	book := NewBook()
	a := us(t, 1)
	b := a
	b.Cookie = 2
	other := a
	other.Cookie, other.Start = 3, a.Start-time.Hour // of a process that had this pid before
	f.Told(a)
	f.Told(b)
	f.Told(other)
	f.Told(event.Site{Cookie: 4, PID: 1 << 30, Stack: []uint64{1}})
	f.Settle(time.Minute)
	f.Collect(book.Put)
	s := book.Get(1)
	if s == nil || len(s.Frames) < 2 || !strings.HasSuffix(s.Frames[0].Function, "site.us") || !strings.HasSuffix(s.Frames[1].Function, "site.TestFinder") {
		t.Fatalf("%+v", s)
	}
	if at, own := s.Named(); at != 0 || !own || !s.Sure() {
		t.Errorf("frame %d is named (own %v, sure %v)", at, own, s.Sure())
	}
	if book.Get(2) != s {
		t.Error("the same stack is named twice")
	}
	for _, cookie := range []uint64{3, 4} {
		if s := book.Get(cookie); s == nil || s.Frames != nil || s.Note != "the process had ended before its stack could be named" {
			t.Errorf("socket %d: %+v", cookie, s)
		}
	}

	// The end of a socket comes after its site, in whatever order they are found.
	c := us(t, 5)
	f.Told(c)
	f.Gone(5)
	f.Gone(1)
	f.Settle(time.Minute)
	f.Collect(book.Put)
	if book.Get(5) != nil || book.Get(1) != nil || book.Len() != 3 {
		t.Errorf("%d sockets are known", book.Len())
	}
}

// What waits is bounded, and counted; and a Finder can be closed while it waits.
func TestFinderDrops(t *testing.T) {
	f := NewFinder()
	f.mu.Lock()
	f.busy, f.slices = true, maxSlices // as if it had a large file to read
	f.mu.Unlock()
	f.Slice(event.Slice{Cookie: 1})
	if f.Dropped() != 1 {
		t.Errorf("%d dropped", f.Dropped())
	}
	f.Settle(time.Millisecond) // it never will
	f.Close()
}
