// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"afterfin/internal/lab"
)

// timeWaitLines is stdout of a reader that keeps what TIME_WAIT in one netns is about.
type timeWaitLines struct {
	netns []byte // as the rows have it: other netns may be dying beside it
	mu    sync.Mutex
	more  *sync.Cond
	lines []byte
	ends  int
	last  []byte
}

func (l *timeWaitLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(p) { // JSON is written in whole lines
		if bytes.Contains(line, []byte(`"TIME_WAIT"`)) && bytes.Contains(line, l.netns) {
			l.lines = append(l.lines, line...)
			l.ends += bytes.Count(line, []byte(`"from":"TIME_WAIT"`))
		}
		l.last = append(l.last[:0], line...)
	}
	l.more.Broadcast()
	return len(p), nil
}

// wait returns once n ends of TIME_WAIT came, or none for long.
func (l *timeWaitLines) wait(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.ends < n {
		before := l.ends
		timer := time.AfterFunc(patience, l.more.Broadcast)
		l.more.Wait()
		if !timer.Stop() && l.ends == before {
			return
		}
	}
}

// keepTimeWaits lets nothing but its timer, or the death of the netns, end a TIME_WAIT: by default
// a connect() over lo takes one, and a FIN sent twice by a CPU that is late draws a RST that ends one.
func keepTimeWaits(t *testing.T, ns *lab.NetNS) {
	t.Helper()
	for name, value := range map[string]string{"tcp_tw_reuse": "0", "tcp_rfc1337": "1", "tcp_max_tw_buckets": "200000"} {
		if err := ns.SetSysctl("net.ipv4."+name, value); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFlatOutNetNSExit leaves 100,000 TIME_WAIT in a netns and lets it die: each
// of them begins once and ends once, in that order.
func TestFlatOutNetNSExit(t *testing.T) {
	ns := newNetNS(t)
	inode := ns.Inode()
	keepTimeWaits(t, ns)
	sink := &timeWaitLines{netns: fmt.Appendf(nil, `"netns":%d,`, inode)}
	sink.more = sync.NewCond(&sink.mu)
	w := startWatchTo(t, sink, "-o", "json") // --netns would keep it alive
	perThread := knob(t, loadConnections, 100_000) / threads
	begin := lab.Mono()
	connect(t, ns, perThread)
	exit := lab.Mono()
	if err := ns.Close(); err != nil {
		t.Fatal(err)
	}
	sink.wait(threads * perThread)
	w.cancel()
	sum := w.summary(t, &sink.last)

	type life struct{ entries, ends int }
	lives := make(map[uint64]*life)
	entered := make(map[uint64]int64)
	for line := range bytes.Lines(sink.lines) {
		var r row
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		l := lives[r.Cookie]
		if l == nil {
			l = &life{}
			lives[r.Cookie] = l
		}
		switch r.change() {
		case "FIN_WAIT2→TIME_WAIT":
			l.entries++
			entered[r.Cookie] = r.Mono
		case "TIME_WAIT→CLOSE":
			l.ends++
			if l.entries != 1 || r.InState == nil || *r.InState != r.Mono-entered[r.Cookie] || deref(r.Cause) != "netns_exit" || r.Mono < int64(exit) {
				t.Fatalf("%d entries, the last at %d, before the end %s", l.entries, entered[r.Cookie], line)
			}
		default:
			t.Fatalf("%s", line)
		}
	}
	once := 0
	for _, l := range lives {
		if *l == (life{1, 1}) {
			once++
		}
	}
	lost := sum.LostRing + sum.Recursion + sum.LostMap + sum.LostRead
	t.Logf("%d connections in %v, %d with one entry and one end, %d rows lost", len(lives), exit-begin, once, lost)
	if once != threads*perThread || len(lives) != once || lost != 0 {
		t.Errorf("%d of %d began once and ended once, %d cookies in all, %d rows lost", once, threads*perThread, len(lives), lost)
	}
}
