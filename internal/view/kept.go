// SPDX-License-Identifier: Apache-2.0

package view

import (
	"net/netip"
	"time"

	"afterfin/internal/event"
)

// What the rows of a busy host have in common is formatted once and kept.

// clock writes the times of rows. It keeps how the last second reads; no zone changes its
// offset within one.
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

// owners writes the owners of rows. It keeps how the latest ones read: few processes make
// most of the connections.
type owners struct {
	write func([]byte, *event.Owner) []byte
	kept  [128]struct {
		owner event.Owner
		text  []byte // nil: none kept yet
	}
}

func (k *owners) append(b []byte, o *event.Owner) []byte {
	// Workers of one server have pids in a row, and each is told of in more than one way.
	place := &k.kept[(o.PID*8+uint32(o.How))%uint32(len(k.kept))]
	if place.text == nil || place.owner != *o {
		place.owner, place.text = *o, k.write(place.text[:0], o)
	}
	return append(b, place.text...)
}

// ends writes the ends of connections. It keeps the latest IPv6 addresses, which take several
// times as long to format as those of IPv4; of either a host meets few that come often.
type ends struct {
	kept [64]struct {
		addr netip.Addr
		text []byte // up to the port
	}
}

func (k *ends) append(b []byte, end netip.AddrPort) []byte {
	addr := end.Addr()
	if !addr.Is6() {
		return end.AppendTo(b)
	}
	place := &k.kept[int(addr.As16()[15])%len(k.kept)]
	if place.addr != addr {
		place.addr = addr
		place.text = append(addr.AppendTo(append(place.text[:0], '[')), "]:"...)
	}
	return appendUint(append(b, place.text...), uint64(end.Port()))
}
