// SPDX-License-Identifier: Apache-2.0

package view

import "time"

// timesOfDay writes times that mostly share their second: what stands for that is
// kept, and only the fraction is written anew. Zones change their offset at whole seconds only.
// All times must be of one location.
type timesOfDay struct {
	unix int64
	text []byte // of that second
}

// append writes wall by the layout, which ends with a whole second and its dot, and that many
// digits of the fraction, cut off as time.Format does.
func (s *timesOfDay) append(b []byte, wall time.Time, layout string, digits int) []byte {
	if unix := wall.Unix(); s.text == nil || unix != s.unix {
		s.unix, s.text = unix, wall.AppendFormat(s.text[:0], layout)
	}
	b = append(b, s.text...)
	fraction := wall.Nanosecond()
	for range 9 - digits {
		fraction /= 10
	}
	return appendDigits(b, uint64(fraction), digits)
}

// appendDigits writes n with zeros before it, so many digits in all.
func appendDigits(b []byte, n uint64, digits int) []byte {
	begin := len(b)
	b = append(b, "00000000000000000000"[:digits]...)
	for i := len(b) - 1; i >= begin && n > 0; i-- {
		b[i] = '0' + byte(n%10)
		n /= 10
	}
	return b
}
