// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/clock"
	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/netns"
	"afterfin/internal/tcp"
)

// at is CLOCK_MONOTONIC in seconds.
func at(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func TestOverflowMark(t *testing.T) {
	// batch is what one Next hands over: rows by their time, and the reading made then.
	type batch struct {
		rows  []float64
		value uint64
		read  float64 // when; 0: it could not be read
		want  string  // for each row: o overflow, - unknown
	}
	old := overflowCount{value: 7, at: at(1), known: true}
	for name, c := range map[string]struct {
		start   overflowCount
		batches []batch
	}{
		"nothing rose":                     {old, []batch{{[]float64{2, 3}, 7, 4, "--"}}},
		"all":                              {old, []batch{{[]float64{2, 3}, 9, 4, "oo"}}},
		"the first ones":                   {old, []batch{{[]float64{2, 3, 3.1}, 9, 4, "oo-"}}},
		"a young netns began at 0":         {overflowCount{known: true}, []batch{{[]float64{2}, 1, 4, "o"}}},
		"the first reading proves nothing": {overflowCount{}, []batch{{[]float64{2}, 9, 4, "-"}, {[]float64{5}, 10, 6, "o"}}},
		"from before the first reading":    {old, []batch{{[]float64{0.5}, 8, 2, "-"}}},
		"not readable":                     {old, []batch{{[]float64{2}, 0, 0, "-"}, {[]float64{3}, 8, 4, "o"}}},
		"each rise counts once":            {old, []batch{{[]float64{2}, 8, 3, "o"}, {[]float64{4}, 8, 5, "-"}}},
		"more in the ring, read with the first": {old, []batch{
			{[]float64{2, 2.1}, 11, 3, "oo"}, {[]float64{2.2}, 0, 0, "o"}, {[]float64{2.3, 2.4}, 0, 0, "o-"}}},
		"an old and a new rise in a batch":      {old, []batch{{[]float64{2}, 9, 3, "o"}, {[]float64{2.9, 3.5, 3.6}, 10, 4, "oo-"}}},
		"what is left of a rise is of its time": {old, []batch{{[]float64{2}, 20, 3, "o"}, {[]float64{4}, 20, 5, "-"}, {[]float64{4.5}, 20, 6, "-"}}},
		"counted just before the reading":       {old, []batch{{[]float64{2}, 9, 3, "o"}, {[]float64{3.001}, 9, 4, "o"}}},
		"another netns by the same number":      {old, []batch{{[]float64{2, 3, 3.1}, 2, 4, "oo-"}}},
	} {
		t.Run(name, func(t *testing.T) {
			count := c.start
			for _, b := range c.batches {
				rows := make([]*conn.Change, len(b.rows))
				for i, s := range b.rows {
					rows[i] = suspect(at(s))
				}
				var now *overflowCount
				if b.read != 0 {
					now = &overflowCount{value: b.value, at: at(b.read), known: true}
				}
				count.mark(rows, now)
				got := ""
				for _, r := range rows {
					got += map[event.Cause]string{event.CauseUnknown: "-", event.CauseOverflow: "o"}[r.Cause]
				}
				if got != b.want {
					t.Errorf("rows at %v: %s, want %s", b.rows, got, b.want)
				}
			}
		})
	}
}

// suspect is a row that an overflow may explain.
func suspect(mono time.Duration) *conn.Change {
	return &conn.Change{Transition: event.Transition{Mono: mono, From: tcp.FinWait2, To: tcp.Close, Cause: event.CauseUnknown}}
}

func TestOverflowSuspected(t *testing.T) {
	for name, change := range map[string]func(*conn.Change){
		"in TIME_WAIT":           func(ch *conn.Change) { ch.To = tcp.TimeWait },
		"its end":                func(ch *conn.Change) { ch.From = tcp.TimeWait },
		"no mini-socket wanted":  func(ch *conn.Change) { ch.From = tcp.FinWait1 },
		"linger2":                func(ch *conn.Change) { ch.Cause = event.CauseLinger2 },
		"--no-timewait":          func(ch *conn.Change) { ch.Cause = event.CauseNone },
		"an error":               func(ch *conn.Change) { ch.SkErr = uint16(unix.EACCES) },
		"the end of an orphan's": func(ch *conn.Change) { ch.Restarts = event.RestartsUnknown },
	} {
		ch := suspect(1)
		if change(ch); suspected(ch) {
			t.Errorf("%s: suspected", name)
		}
	}
	closing := suspect(1)
	closing.From = tcp.Closing
	if !suspected(suspect(1)) || !suspected(closing) {
		t.Error("FIN_WAIT2 or CLOSING: not suspected")
	}
}

// The counter is there, and a netns that cannot be entered leaves its rows unknown.
func TestOverflowRead(t *testing.T) {
	c := readOverflows()
	if c == nil || !c.known || c.at == 0 {
		t.Fatalf("own netns: %+v", c)
	}
	self, err := netns.Self()
	if err != nil {
		t.Fatal(err)
	}
	o := newOverflows()
	changes := []conn.Change{*suspect(clock.Mono())}
	changes[0].NetNS = 1 // no such inode number
	o.prove(changes)
	if changes[0].Cause != event.CauseUnknown {
		t.Errorf("a netns that is not there: %v", changes[0].Cause)
	}
	// A young netns is found by the owner of the socket.
	o = newOverflows()
	if c := o.read(self, uint32(os.Getpid())); c == nil || len(o.spaces) != 1 {
		t.Errorf("own netns by pid: %+v, by %v", c, o.spaces)
	}
	// A way that has gone is looked for anew.
	o = newOverflows()
	o.begin(netns.NS{Inode: self, Path: "/proc/self/nothing"}, &overflowCount{known: true})
	if c := o.read(self, 0); os.Geteuid() == 0 && c == nil {
		t.Error("own netns not read")
	}
}
