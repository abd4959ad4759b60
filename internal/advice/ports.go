// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"fmt"
	"slices"
	"strings"

	"afterfin/internal/ports"
	"afterfin/internal/tcp"
)

// worst gives the first destination in need that something holds of, as first does.
func worst(f *Facts, holds func(*ports.Destination) bool) (*Need, string) {
	if f.Rules == nil {
		return nil, ""
	}
	return first(f.Needs, func(n *Need) bool { return holds(n.Destination) })
}

// used words how much of its ports a destination has.
func used(n *Need) string {
	d := n.Destination
	return fmt.Sprintf("%s has %d of %d ports in use, %d of them in TIME_WAIT", name(d), d.Used, d.Capacity, d.ByState[tcp.TimeWait])
}

func name(d *ports.Destination) string {
	if d.Bound {
		return d.Source.String() + " (bind before connect)"
	}
	return d.Source.String() + " -> " + d.Remote.String()
}

func reuse(f *Facts) *Advice {
	n, more := worst(f, func(d *ports.Destination) bool { return d.Reusable > d.InEffect && f.Rules.Reuse != 1 })
	if n == nil {
		return nil
	}
	d := n.Destination
	a := &Advice{
		Knob: "net.ipv4.tcp_tw_reuse", Value: fmt.Sprint(f.Rules.Reuse), Fact: used(n) + more,
		Would:    fmt.Sprintf("with 1, connect() takes %d of them now, and each one that comes after %v", d.Reusable-d.InEffect, f.Rules.Delay()),
		WouldNot: "shorten TIME_WAIT, help who calls bind() before connect(), or servers",
	}
	if d.NoStamp > 0 {
		a.WouldNot += fmt.Sprintf("; %d have no TCP timestamp and stay", d.NoStamp)
	}
	return a
}

func reuseDelay(f *Facts) *Advice {
	n, more := worst(f, func(d *ports.Destination) bool {
		return f.Rules.ReuseDelay > 0 && d.TooYoung > 0 && d.ReuseApplies(f.Rules)
	})
	if n == nil {
		return nil
	}
	return &Advice{
		Knob: "net.ipv4.tcp_tw_reuse_delay", Value: fmt.Sprint(f.Rules.ReuseDelay.Milliseconds()),
		Fact:     fmt.Sprintf("%s; %d are too young for tcp_tw_reuse%s", used(n), n.Destination.TooYoung, more),
		Would:    fmt.Sprintf("a smaller one lets connect() take those %d sooner", n.Destination.TooYoung),
		WouldNot: "help those without TCP timestamps; it guards against late segments of the old connection",
	}
}

func timestamps(f *Facts) *Advice {
	n, more := worst(f, func(d *ports.Destination) bool { return f.Rules.Timestamps == 0 && d.NoStamp > 0 })
	if n == nil {
		return nil
	}
	return &Advice{
		Knob: "net.ipv4.tcp_timestamps", Value: "0",
		Fact:     fmt.Sprintf("%s; %d have no TCP timestamp, so tcp_tw_reuse takes none of those%s", used(n), n.Destination.NoStamp, more),
		Would:    "with 1, TIME_WAIT of connections made from then on may be reused",
		WouldNot: fmt.Sprintf("help the %d that are there, or where the peer sends no timestamps", n.Destination.NoStamp),
	}
}

// widest is what ip_local_port_range can be without ports that need a privilege.
var widest = ports.Rules{Low: 1024, High: 65535}

// toReserve is how many listeners are named.
const toReserve = 8

func portRange(f *Facts) *Advice {
	n, more := worst(f, func(*ports.Destination) bool { return f.Rules.Range() < widest.Range() })
	if n == nil {
		return nil
	}
	d, wide := n.Destination, widest
	wide.Reserved = f.Rules.Reserved
	capacity := wide.Range() - wide.ReservedInRange() - d.Blocked
	a := &Advice{
		Knob: "net.ipv4.ip_local_port_range", Value: fmt.Sprintf("%d %d", f.Rules.Low, f.Rules.High), Fact: used(n) + more,
		Would:    fmt.Sprintf("\"%d %d\" gives %d ports", wide.Low, wide.High, capacity),
		WouldNot: "shorten TIME_WAIT; a program that binds a port of its own there may find it taken",
	}
	if s := n.Forecast.Sustainable; s > 0 && d.Capacity > 0 {
		a.Fact += fmt.Sprintf("; that sustains %.1f connections/s", s)
		if r := n.Forecast.Rate; r > 0 {
			a.Fact += fmt.Sprintf(", and the rate is %.1f", r)
		}
		a.Would += fmt.Sprintf(", which sustain %.1f connections/s", s*float64(capacity)/float64(d.Capacity))
	}
	there := slices.DeleteFunc(slices.Clone(f.Listening), func(port uint16) bool { return !wide.InRange(port) })
	if len(there) > 0 {
		a.Would += "; reserve with ip_local_reserved_ports what listens there: " + list(there)
	}
	return a
}

func list(listening []uint16) string {
	var parts []string
	for _, port := range listening[:min(len(listening), toReserve)] {
		parts = append(parts, fmt.Sprint(port))
	}
	text := strings.Join(parts, ",")
	if n := len(listening) - len(parts); n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text
}
