// SPDX-License-Identifier: Apache-2.0

package view

import (
	"net/netip"
	"testing"
	"time"

	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

// A busy host has this many rows a second.
const busy = 100_000

// traffic is what a host with clients and servers shows: whole lives of connections, from
// the first look on.
func traffic() []conn.Change {
	const us, ms = time.Microsecond, time.Millisecond
	lives := [][]conn.Change{
		{ // a client
			step(tcp.Close, tcp.SynSent, conn.Unknown, 0), step(tcp.SynSent, tcp.Established, conn.Exact, 312*us+45),
			step(tcp.Established, tcp.FinWait1, conn.Exact, 9*ms+1234), step(tcp.FinWait1, tcp.FinWait2, conn.Exact, 41_207),
			step(tcp.FinWait2, tcp.TimeWait, conn.Exact, 127_903), ended(61*time.Second+7*ms, event.CauseExpired, 0),
		},
		{ // a server
			step(tcp.Listen, tcp.SynRecv, conn.Unknown, 0), step(tcp.SynRecv, tcp.Established, conn.Exact, 87_015),
			step(tcp.Established, tcp.CloseWait, conn.Exact, 1720*ms+3), step(tcp.CloseWait, tcp.LastAck, conn.Exact, 860),
			step(tcp.LastAck, tcp.Close, conn.Exact, 33*us),
		},
		{ // both close at once, and the port is taken again
			step(tcp.FinWait1, tcp.Closing, conn.Exact, 52_111), step(tcp.Closing, tcp.TimeWait, conn.Exact, 48_030),
			ended(12*time.Second+431*ms, event.CauseReusedConnect, 2),
		},
		{ // older than the tracer
			step(tcp.Established, tcp.CloseWait, conn.AtLeast, 59_900*ms+17), step(tcp.CloseWait, tcp.Close, conn.AtLeast, 2*time.Hour+8*time.Minute),
			step(tcp.Established, tcp.FinWait1, conn.AtLeast, 4*ms+99), ended(42*time.Second, event.CauseReusedSYN, event.RestartsUnknown),
		},
		{step(tcp.Close, tcp.Listen, conn.Unknown, 0), step(tcp.Listen, tcp.Close, conn.Exact, 26*time.Hour)},
	}
	refused := step(tcp.SynSent, tcp.Close, conn.Exact, 55*us)
	refused.SkErr, refused.Cause = 111, event.CauseReset
	lives = append(lives, []conn.Change{step(tcp.Close, tcp.SynSent, conn.Unknown, 0), refused})

	ends := [][2]string{
		{"10.0.0.5:43210", "10.0.4.9:443"}, {"192.168.178.24:8080", "203.0.113.77:51234"}, {"127.0.0.1:6379", "127.0.0.1:40022"},
		{"10.128.14.201:33848", "10.0.9.3:6379"}, {"172.17.0.2:80", "172.17.0.1:60404"}, {"10.0.0.5:0", "10.0.4.10:443"},
		{"[::ffff:10.0.0.5]:80", "[::ffff:10.0.4.9]:443"}, {"[::1]:5432", "[::1]:38114"},
		{"[2001:db8:85a3:8d3:1319:8a2e:370:7348]:43210", "[2001:db8:4::9]:443"}, {"[fe80::5054:ff:fe12:3456]:22", "[fe80::1]:50022"},
	}
	var rows []conn.Change
	for at := range 6 { // the steps of all lives among each other
		for i, life := range lives {
			if at >= len(life) {
				continue
			}
			for k, pair := range ends {
				ch := life[at]
				ch.Mono, ch.Cookie, ch.Inode = time.Duration(93_123_456_789_012+137*len(rows)), uint64(184_467+k*9+i), uint64(4_242_000+k)
				ch.Tuple = tcp.Tuple{Local: netip.MustParseAddrPort(pair[0]), Remote: netip.MustParseAddrPort(pair[1])}
				ch.Owner = event.Owner{PID: uint32(4121 + 7*k), Start: 55_123_456_789, How: []event.How{event.HowConnect, event.HowAccept, event.HowFD, event.HowListen}[(i+k)%4]}
				copy(ch.Owner.Comm[:], []string{"nginx", "payment-api", "redis-server", "php-fpm", "größe"}[k%5])
				if len(rows)%16 == 0 { // nobody knows whose
					ch.Owner = event.Owner{}
				}
				rows = append(rows, ch)
			}
		}
	}
	return rows
}

func step(from, to tcp.State, quality conn.Quality, in time.Duration) conn.Change {
	ch := conn.Change{InState: conn.Span{D: in, Quality: quality}}
	ch.From, ch.To, ch.NetNS = from, to, 4026531840
	ch.Side, ch.Accepted = event.SideAccept, event.AcceptedYes
	return ch
}

func ended(in time.Duration, cause event.Cause, restarts uint16) conn.Change {
	ch := step(tcp.TimeWait, tcp.Close, conn.Exact, in)
	ch.Cause, ch.Restarts = cause, restarts
	return ch
}

func TestRowsDoNotAllocate(t *testing.T) {
	rows := traffic()
	for name, write := range map[string]func(*conn.Change, time.Time){
		"text": NewText(discard{}, TextOptions{NetNS: rows[0].NetNS}).Change,
		"JSON": NewJSON(discard{}).Change,
	} {
		wall := time.Unix(1_795_348_800, 0)
		n := testing.AllocsPerRun(100, func() {
			for i := range rows {
				wall = wall.Add(time.Second / busy)
				write(&rows[i], wall)
			}
		})
		if n != 0 {
			t.Errorf("%s: %d rows allocate %v times", name, len(rows), n)
		}
	}
}

func BenchmarkJSONChange(b *testing.B) {
	benchmark(b, NewJSON(discard{}).Change)
}

func BenchmarkTextChange(b *testing.B) {
	benchmark(b, NewText(discard{}, TextOptions{NetNS: 4026531840}).Change)
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func benchmark(b *testing.B, write func(*conn.Change, time.Time)) {
	rows := traffic()
	wall, i := time.Unix(1_795_348_800, 0), 0
	b.ReportAllocs()
	for b.Loop() {
		write(&rows[i], wall)
		wall = wall.Add(time.Second / busy)
		if i++; i == len(rows) {
			i = 0
		}
	}
}
