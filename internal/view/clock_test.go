// SPDX-License-Identifier: Apache-2.0

package view

import (
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"afterfin/internal/conn"
)

// The kept second is that of the time asked for, whatever comes after what, in a zone whose
// offset changes too.
func TestTimesOfDay(t *testing.T) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		zone = time.FixedZone("CET", 3600) // no zone files here
	}
	r := rand.New(rand.NewPCG(1, 2))
	turn := time.Date(2026, 10, 25, 2, 59, 58, 0, zone).UnixNano() // to winter time within the hour
	for _, loc := range []*time.Location{time.UTC, zone} {
		var day, ns timesOfDay
		for range 20_000 {
			wall := time.Unix(0, turn+r.Int64N(5e9)+r.Int64N(2)*3600e9).In(loc)
			if got, want := string(day.append(nil, wall, "15:04:05.", 3)), wall.Format("15:04:05.000"); got != want {
				t.Fatalf("%s, want %s", got, want)
			}
			if got, want := string(ns.append(nil, wall, "2006-01-02T15:04:05.", 9)), wall.Format("2006-01-02T15:04:05.000000000"); got != want {
				t.Fatalf("%s, want %s", got, want)
			}
		}
	}
}

// Three digits, the last one rounded: what the standard library writes of the same number,
// but for halves, which binary numbers do not have.
func TestAppendFixed(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200_000 {
		n := int64(math.Exp(r.Float64() * math.Log(999_400)))
		if n%10 == 5 || n%100 == 50 || n%1000 == 500 {
			continue
		}
		v := float64(n) / 1000
		want := strconv.FormatFloat(v, 'f', 2, 64)
		for decimals := 1; len(strings.Replace(want, ".", "", 1)) > 3; decimals-- {
			want = strconv.FormatFloat(v, 'f', decimals, 64)
		}
		if got := string(appendFixed(nil, n, 1000, 3)); got != want {
			t.Fatalf("%d: %s, want %s", n, got, want)
		}
	}
	for n, want := range map[int64]string{9_994: "9.99", 9_995: "10.0", 99_949: "99.9", 99_950: "100", 1_005: "1.01", 0: "0.00"} {
		if got := string(appendFixed(nil, n, 1000, 3)); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestWritersAllocateNothing(t *testing.T) {
	ch := change("10.0.0.5:43210", "[2001:db8::7]:443", 1, 8)
	ch.InState = conn.Span{D: 1234567, Quality: conn.Exact}
	text, json := NewText(discard{}, TextOptions{NetNS: ch.NetNS}), NewJSON(discard{})
	wall := time.Unix(1764000000, 0)
	if n := testing.AllocsPerRun(10_000, func() {
		wall = wall.Add(time.Millisecond)
		text.Change(&ch, wall)
		json.Change(&ch, wall)
	}); n != 0 {
		t.Errorf("%v allocations a row", n)
	}
}
