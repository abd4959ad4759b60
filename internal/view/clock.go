// SPDX-License-Identifier: Apache-2.0

package view

import "time"

// clock writes the times of rows. It keeps how the last second reads, as a busy one has many
// rows; no zone changes its offset within a second.
type clock struct {
	layout string // to the second
	one    uint64 // a second in the last digit of the fraction
	unix   int64
	zone   *time.Location // nil: none kept yet
	text   []byte
}

func (c *clock) append(b []byte, t time.Time) []byte {
	if unix, zone := t.Unix(), t.Location(); unix != c.unix || zone != c.zone {
		c.unix, c.zone = unix, zone
		c.text = t.AppendFormat(c.text[:0], c.layout)
	}
	return appendPadded(append(b, c.text...), '.', uint64(t.Nanosecond())*c.one/1e9, c.one)
}
