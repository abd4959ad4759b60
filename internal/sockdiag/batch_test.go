// SPDX-License-Identifier: Apache-2.0

package sockdiag

import (
	"maps"
	"net/netip"
	"testing"
	"time"

	"afterfin/internal/clock"
	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

// Threads in different netns dump at the same time; each sees its own.
func TestDumpThreads(t *testing.T) {
	for range 4 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			inode := fresh(t)
			want := listen(t, "127.0.0.1").seen(tcp.Listen)
			for range 50 {
				if got := dump(t, inode, only(tcp.Listen)); !maps.Equal(got, sockets{want.Cookie: want}) {
					t.Fatalf("%+v, want %+v", got, want)
				}
			}
		})
	}
}

// The sockets change while they are dumped. A row with the old state must not
// claim to be younger than the change, one with the new state not to be older.
func TestDumpBatches(t *testing.T) {
	const n = 1000
	fresh(t)
	l := listen(t, "0.0.0.0")
	clients := map[uint64]*sock{}
	for i := range n {
		// Connections to one address may be neighbours in the kernel's hash table;
		// these come in all batches.
		c := l.dial(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}).String())
		clients[c.seen(0).Cookie] = c
	}
	var begin, end time.Duration // of the change
	rows, windows, changed := map[uint64]event.Existing{}, map[time.Duration]bool{}, 0
	err := Dump(0, func(e *event.Existing) {
		if end == 0 {
			begin = clock.Mono()
			for _, c := range clients {
				c.finish()
			}
			end = clock.Mono()
		}
		rows[e.Cookie] = *e
		windows[e.After] = true
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 2*n+1 || len(windows) < 4 {
		t.Errorf("%d sockets in %d batches", len(rows), len(windows))
	}
	for cookie := range clients {
		switch row := rows[cookie]; row.State {
		case tcp.Established:
			if row.After > end {
				t.Errorf("still %v after %v, but it ended by %v", row.State, row.After, end)
			}
		case tcp.FinWait1, tcp.FinWait2:
			changed++
			if row.Before < begin {
				t.Errorf("already %v before %v, but it began at %v", row.State, row.Before, begin)
			}
		default:
			t.Errorf("client %+v", row)
		}
	}
	if changed == 0 || changed == n {
		t.Errorf("%d of %d changed: this test shows nothing", changed, n)
	}
}

func BenchmarkDump(b *testing.B) {
	fresh(b)
	const n = 2000
	l := listen(b, "127.0.0.1")
	for range n {
		l.dial("127.0.0.1")
	}
	b.ReportAllocs()
	rows := 0
	for b.Loop() {
		rows = 0
		if err := Dump(0, func(*event.Existing) { rows++ }); err != nil {
			b.Fatal(err)
		}
	}
	if rows != 2*n+1 {
		b.Fatalf("%d sockets, want %d", rows, 2*n+1)
	}
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(rows), "ns/socket")
}
