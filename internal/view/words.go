// SPDX-License-Identifier: Apache-2.0

package view

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"afterfin/internal/event"
)

// LostText says the losses in words, "nothing" if there are none.
func LostText(l event.Lost) string {
	var parts []string
	for _, c := range []struct {
		n    uint64
		what string
	}{
		{l.Ring, "rows (ring full)"},
		{l.Recursion, "rows (program skipped by the kernel)"},
		{l.Accept, "accepts (program skipped by the kernel)"},
		{l.Map, "owners or times (no memory for the socket)"},
		{l.Read, "fields (not readable)"},
		{l.Evicted, "connections not kept in the table"},
	} {
		if c.n > 0 {
			parts = append(parts, Thousands(c.n)+" "+c.what)
		}
	}
	if parts == nil {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

// Text says the summary in one line.
func (s Summary) Text() string {
	text := fmt.Sprintf("%s transitions in %s, lost %s, own CPU %s",
		Thousands(s.Transitions), Duration(s.Elapsed), LostText(s.Lost), Duration(s.CPU))
	if s.Hidden > 0 {
		text += ", " + Thousands(s.Hidden) + " rows hidden on this terminal"
	}
	return text
}

// Thousands writes 183204 as 183,204.
func Thousands(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// plural counts things: 1 process, 2 processes.
func plural(n int, thing string) string {
	switch {
	case n == 1:
	case strings.HasSuffix(thing, "s"):
		thing += "es"
	default:
		thing += "s"
	}
	return Thousands(uint64(n)) + " " + thing
}

// Duration writes d with three significant digits and a unit.
func Duration(d time.Duration) string { return string(appendDuration(nil, d, 3)) }

// appendDuration: 850 ns, 12.3 µs, 4.56 ms, 59.9 s, 2m05s, 2h08m, 3d04h.
func appendDuration(b []byte, d time.Duration, digits int) []byte {
	switch {
	case d < 0:
		return append(b, '?')
	case d < time.Microsecond:
		return append(strconv.AppendInt(b, int64(d), 10), " ns"...)
	case d < 999500*time.Nanosecond:
		return append(appendFloat(b, float64(d)/1e3, digits), " µs"...)
	case d < 999500*time.Microsecond:
		return append(appendFloat(b, float64(d)/1e6, digits), " ms"...)
	case d < 100*time.Second:
		return append(appendFloat(b, float64(d)/1e9, digits), " s"...)
	case d < time.Hour:
		return fmt.Appendf(b, "%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Appendf(b, "%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Appendf(b, "%dd%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// roundDown keeps the two digits that are shown: a lower bound must not be rounded up.
func roundDown(d time.Duration) time.Duration {
	step := time.Duration(1)
	for d/step >= 100 && d < 100*time.Second {
		step *= 10
	}
	return d / step * step
}

func appendFloat(b []byte, v float64, digits int) []byte {
	decimals := digits - 1
	for limit := 9.995; v >= limit && decimals > 0; limit *= 10 {
		decimals--
	}
	return strconv.AppendFloat(b, v, 'f', decimals, 64)
}

func pad(b []byte, n int) []byte {
	for ; n > 0; n-- {
		b = append(b, ' ')
	}
	return b
}

// column pads to a width in characters, not bytes.
func column(b []byte, width int, fill func([]byte) []byte) []byte {
	begin := len(b)
	b = fill(b)
	n := 0
	for _, c := range b[begin:] {
		if c&0xc0 != 0x80 { // not a continuation byte
			n++
		}
	}
	return pad(b, width-n)
}
