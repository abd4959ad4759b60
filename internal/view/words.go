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
		return append(appendUint(b, uint64(d)), " ns"...)
	case d < 999500*time.Nanosecond:
		return append(appendScaled(b, uint64(d), 1e3, digits), " µs"...)
	case d < 999500*time.Microsecond:
		return append(appendScaled(b, uint64(d), 1e6, digits), " ms"...)
	case d < 100*time.Second:
		return append(appendScaled(b, uint64(d), 1e9, digits), " s"...)
	case d < time.Hour:
		return appendPair(b, d, time.Minute, 'm', time.Second, 's')
	case d < 24*time.Hour:
		return appendPair(b, d, time.Hour, 'h', time.Minute, 'm')
	}
	return appendPair(b, d, 24*time.Hour, 'd', time.Hour, 'h')
}

// appendPair writes d in a large unit, and in two digits what is left in a small one.
func appendPair(b []byte, d, large time.Duration, name byte, small time.Duration, smallName byte) []byte {
	b = appendPadded(appendUint(b, uint64(d/large)), name, uint64(d%large/small), 100)
	return append(b, smallName)
}

// roundDown keeps the two digits that are shown: a lower bound must not be rounded up.
func roundDown(d time.Duration) time.Duration {
	if d >= 100*time.Second {
		return d
	}
	step := time.Duration(1)
	for d >= 100*step {
		step *= 10
	}
	return d - d%step
}

// appendScaled writes n in a unit of 1,000 or a larger power of ten. It rounds in whole
// numbers, as to print a float is slow; an exact half goes where the float goes.
func appendScaled(b []byte, n, unit uint64, digits int) []byte {
	decimals := digits - 1
	for limit := unit / 1000 * 9995; n >= limit && decimals > 0; limit *= 10 {
		decimals--
	}
	one := uint64(1) // in the last digit shown
	for range decimals {
		one *= 10
	}
	last := unit / one
	shown, rest := n/last, n%last
	switch {
	case 2*rest == last:
		return strconv.AppendFloat(b, float64(n)/float64(unit), 'f', decimals, 64)
	case 2*rest > last:
		shown++
	}
	if decimals == 0 {
		return appendUint(b, shown)
	}
	return appendPadded(appendUint(b, shown/one), '.', shown%one, one)
}

// appendPadded writes mark, and n with as many digits as one, a power of ten, has zeros.
func appendPadded(b []byte, mark byte, n, one uint64) []byte {
	at := len(b)
	b = appendUint(b, one+n)
	b[at] = mark // instead of the leading 1
	return b
}

func pad(b []byte, n int) []byte {
	const spaces = "                                                                                          "
	return append(b, spaces[:max(0, min(n, len(spaces)))]...)
}
