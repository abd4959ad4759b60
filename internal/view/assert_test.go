// SPDX-License-Identifier: Apache-2.0

package view

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/event"
	"afterfin/internal/leak"
	"afterfin/internal/owner"
	"afterfin/internal/tcp"
)

// failed has a leak that a look has described, and one that only a transition has told.
func failed() *Assertion {
	tuple := tcp.Tuple{Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.MustParseAddrPort("10.0.0.2:4000")}
	holder := owner.Holder{Process: &owner.Process{PID: 41, Start: 90, Comm: "pay\x1b", Cmdline: []string{"./pay", "--port", "80"}}, FD: 7}
	seen := &leak.Socket{Existing: event.Existing{Cookie: 5, NetNS: 9, Tuple: tuple, RecvQ: 1}, Side: event.SideAccept, Holders: []owner.Holder{holder}}
	told := &leak.Socket{Existing: event.Existing{Cookie: 6, NetNS: 9, Tuple: tuple}}
	return &Assertion{
		Command: []string{"make", "test"}, Status: 137, Signal: unix.SIGKILL, Exit: 3, Limit: 2 * time.Second,
		Leaks: []leak.Overdue{
			{Leak: leak.Leak{Socket: seen, Verdict: leak.EOFUnread, Age: leak.Age{Min: 3 * time.Second, Max: 3 * time.Second, Quality: leak.Exact}},
				Process: holder.Process, FD: 7, Looked: true},
			{Leak: leak.Leak{Socket: told, Age: leak.Age{Min: 2500 * time.Millisecond, Max: leak.Forever, Quality: leak.Bound}},
				Named: event.Owner{PID: 42, Start: 91, Comm: event.Comm{'s', 'h'}}, FD: -1, Closed: true},
		},
		TimeWait: &TimeWaitCount{Most: 12, Limit: 10, Unplaced: 1200},
		Lost:     &event.Lost{Ring: 4},
	}
}

func TestAssertionText(t *testing.T) {
	var b strings.Builder
	if err := WriteAssertion(&b, failed()); err != nil {
		t.Fatal(err)
	}
	want := `LEAK 10.0.0.1:80 -> 10.0.0.2:4000   3.00 s (exact) in CLOSE_WAIT, open to the end
  held by pay? pid 41 fd 7
  cmd   ./pay --port 80
  why   eof_unread: the program never read the end of stream (Recv-Q 1)
LEAK 10.0.0.1:80 -> 10.0.0.2:4000   at least 2.50 s in CLOSE_WAIT, then closed
  held by sh pid 42
notice: 1,200 TIME_WAIT are not counted: their processes had ended before it was known whose they were
notice: lost 4 rows (ring full): what rests on them was not seen
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got, want := failed().Reason(), "2 CLOSE_WAIT outlived 2.00 s; 12 TIME_WAIT at once, more than 10"; got != want {
		t.Errorf("reason %q, want %q", got, want)
	}
	b.Reset()
	fine := &Assertion{Status: 7, TimeWait: &TimeWaitCount{Most: 10, Limit: 10}}
	if err := WriteAssertion(&b, fine); err != nil || b.Len() > 0 || fine.Leaked() {
		t.Errorf("of no leak it says %q, leaked %v, %v", &b, fine.Leaked(), err)
	}
}

func TestAssertionJSON(t *testing.T) {
	at := time.Unix(1, 0)
	for want, a := range map[string]*Assertion{
		`{"time":"1970-01-01T00:00:01Z","leaked":true,"reason":"2 CLOSE_WAIT outlived 2.00 s; 12 TIME_WAIT at once, more than 10","exit":3,` +
			`"command":["make","test"],"command_exit":137,"command_signal":"SIGKILL","max_close_wait_age_ns":2000000000,"resolution_ns":null,"leaks":[` +
			`{"pid":41,"start_ns":90,"comm":"pay\u001b","cmdline":["./pay","--port","80"],"fd":7,"holders":[{"pid":41,"comm":"pay\u001b","fd":7,"io_uring":false}],` +
			`"netns":9,"inode":null,"local":"10.0.0.1:80","remote":"10.0.0.2:4000","cookie":5,"side":"accept","recv_q":1,"send_q":0,` +
			`"age_min_ns":3000000000,"age_max_ns":3000000000,"age_ns":3000000000,"age_quality":"exact","verdict":"eof_unread","inferred":false,"inherited":false,"backlog":null,"carrier_fd":null,"site_index":null,"closed":false,"site":null,"sites":[]},` +
			`{"pid":42,"start_ns":91,"comm":"sh","cmdline":null,"fd":null,"holders":[],` +
			`"netns":9,"inode":null,"local":"10.0.0.1:80","remote":"10.0.0.2:4000","cookie":6,"side":null,"recv_q":null,"send_q":null,` +
			`"age_min_ns":2500000000,"age_max_ns":null,"age_ns":null,"age_quality":"bound","verdict":"unknown","inferred":false,"inherited":false,"backlog":null,"carrier_fd":null,"site_index":null,"closed":true,"site":null,"sites":[]}],` +
			`"time_wait":12,"max_time_wait":10,"time_wait_unplaced":1200,"unreadable":0,` +
			`"lost":{"lost_ring":4,"lost_recursion":0,"lost_accept":0,"lost_map":0,"lost_read":0,"evicted":0}}` + "\n": failed(),
		`{"time":"1970-01-01T00:00:01Z","leaked":false,"reason":"","exit":0,"command":["true"],"command_exit":0,"command_signal":null,` +
			`"max_close_wait_age_ns":1000000000,"resolution_ns":250000000,"leaks":[],"time_wait":null,"max_time_wait":null,"time_wait_unplaced":null,` +
			`"unreadable":2,"lost":null}` + "\n": {Command: []string{"true"}, Limit: time.Second, Resolution: time.Second / 4, Unreadable: 2},
	} {
		var b strings.Builder
		if err := WriteAssertionJSON(&b, a, at); err != nil || b.String() != want {
			t.Errorf("got\n%s\nwant\n%s\n%v", &b, want, err)
		}
	}
}
