// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"fmt"
	"net/netip"
	"time"

	"afterfin/internal/event"
)

// Ports calls fn with each socket and mini-socket of the calling thread's netns that has a
// port, but for those that are bound and nothing else. Only with Config.Ports. fn must not keep p.
func (t *Tracer) Ports(fn func(p *event.Port)) error {
	return walk(t.ports, event.PortSize, decodePort(fn))
}

// BoundPorts calls fn with each socket, of any netns, that a descriptor leads to and that has a
// port and nothing else: no dump of a kernel before 6.8 has it. Once for each descriptor.
func (t *Tracer) BoundPorts(fn func(p *event.Port)) error {
	return walk(t.bound, event.PortSize, decodePort(fn))
}

func decodePort(fn func(*event.Port)) func([]byte) error {
	return func(raw []byte) error {
		p, err := event.DecodePort(raw)
		if err == nil {
			fn(&p)
		}
		return err
	}
}

// Callers reads who has called connect() since StartCounting, in no order. Only with
// Config.Ports.
func (t *Tracer) Callers() ([]event.Caller, error) {
	var (
		found []event.Caller
		key   rawCaller
		value rawCalls
	)
	all := t.coll.Maps["callers"].Iterate()
	for all.Next(&key, &value) {
		found = append(found, caller(&key, &value))
	}
	if err := all.Err(); err != nil {
		return nil, fmt.Errorf("read callers: %w", err)
	}
	return found, nil
}

func caller(key *rawCaller, value *rawCalls) event.Caller {
	return event.Caller{
		Owner: event.Owner{PID: key.PID, Start: time.Duration(key.Start), Comm: value.Comm},
		NetNS: key.NetNS, Source: netip.AddrFrom16(key.Source).Unmap(), Bound: key.Bound != 0,
		Destination: netip.AddrPortFrom(netip.AddrFrom16(key.Remote).Unmap(), uint16(key.Port)),
		Calls: event.Calls{
			Connects: value.Connects, Failures: value.Failures, TimeWaits: value.TimeWaits, Released: value.Released,
			Failed: time.Duration(value.Failed),
		},
	}
}
