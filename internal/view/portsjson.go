// SPDX-License-Identifier: Apache-2.0

package view

import (
	"encoding/json"
	"io"
	"time"

	"afterfin/internal/advice"
	"afterfin/internal/event"
	"afterfin/internal/ports"
	"afterfin/internal/tcp"
)

// The document of ports -o json, described in docs/json.md.
type portsDocument struct {
	Time         string            `json:"time"`
	Kernel       string            `json:"kernel"`
	Arch         string            `json:"arch"`
	Sample       *int64            `json:"sample_ns"`
	Nominal      int64             `json:"nominal_ns"`
	Measured     bool              `json:"nominal_measured"`
	Hold         int64             `json:"time_wait_ns"` // in the middle
	Spaces       []portSpaceJSON   `json:"netns"`
	Destinations []destinationJSON `json:"destinations"`
	LeftOut      int               `json:"destinations_left_out"`
	Listeners    []listenerJSON    `json:"listeners"`
	Advice       []advice.Advice   `json:"advice"`
	Unreachable  int               `json:"unreachable"`
	Lost         *event.Lost       `json:"lost"`
}

type portSpaceJSON struct {
	NetNS      uint32         `json:"netns"`
	Own        bool           `json:"own"`
	Range      [2]uint16      `json:"range"`
	Ports      int            `json:"ports"`
	Reserved   int            `json:"reserved"`
	Reuse      int            `json:"tcp_tw_reuse"`
	ReuseDelay *int64         `json:"tcp_tw_reuse_delay_ns"`
	Timestamps int            `json:"tcp_timestamps"`
	Inferred   bool           `json:"inferred"`
	Conntrack  *conntrackJSON `json:"conntrack"`
}

type conntrackJSON struct {
	Entries  int   `json:"entries"`
	TimeWait int64 `json:"time_wait_ns"`
}

type destinationJSON struct {
	NetNS       uint32         `json:"netns"`
	Source      string         `json:"source"`
	Destination string         `json:"destination"` // "*" if bound_first
	Bound       bool           `json:"bound_first"`
	Range       [2]uint16      `json:"range"`
	Capacity    int            `json:"capacity"`
	Blocked     int            `json:"blocked"`
	Used        int            `json:"used"`
	Free        int            `json:"free"`
	ByState     map[string]int `json:"by_state"`
	Rate        *float64       `json:"rate"`
	Peak        *float64       `json:"peak_rate"`
	Sustainable *float64       `json:"sustainable_rate"`
	Exhausted   *int64         `json:"exhausted_in_ns"`
	Level       *float64       `json:"settles_at"`
	NextFree    *int64         `json:"next_free_in_ns"`
	AllFree     *int64         `json:"all_free_in_ns"`
	Connects    *uint64        `json:"connects"`
	Failures    *uint64        `json:"failures"`
	TimeWaits   *uint64        `json:"time_waits"`
	Released    *uint64        `json:"released"`
	Reuse       *reuseJSON     `json:"reuse"`
	Owners      []userJSON     `json:"owners"`
}

type reuseJSON struct {
	Reusable int `json:"reusable"`
	InEffect int `json:"in_effect"`
	TooYoung int `json:"too_young"`
	NoStamp  int `json:"no_timestamp"`
}

type userJSON struct {
	PID       *uint32    `json:"pid"`
	StartNS   *int64     `json:"start_ns"`
	Comm      *string    `json:"comm"`
	Unit      *string    `json:"unit"`
	Container *container `json:"container"`
	Sockets   int        `json:"sockets"`
	Connects  *uint64    `json:"connects"`
	Failures  *uint64    `json:"failures"`
	TimeWaits *uint64    `json:"time_waits"`
	Errno     *string    `json:"errno"`
	Failed    *int64     `json:"last_failure_mono_ns"`
}

type listenerJSON struct {
	NetNS     uint32         `json:"netns"`
	Local     string         `json:"local"`
	Listening bool           `json:"listening"`
	ByState   map[string]int `json:"by_state"`
	Refuses   bool           `json:"refuses_reuseaddr"`
	Until     *int64         `json:"over_in_ns"`
}

// destinationsInDocument bounds a document; the fullest ones are in it.
const destinationsInDocument = 10_000

// WritePortsJSON writes the report as one document on one line.
func WritePortsJSON(w io.Writer, r *Ports, at time.Time) error {
	doc := portsDocument{
		Time: at.UTC().Format(time.RFC3339Nano), Unreachable: r.Unreachable, Sample: some(int64(r.Took), r.Took > 0),
		Nominal: int64(r.Length), Measured: r.Measured, Hold: int64(r.Mean()), Lost: some(r.Lost, r.Took > 0),
		Spaces: []portSpaceJSON{}, Destinations: []destinationJSON{}, Listeners: []listenerJSON{},
		Advice: adviceJSON(r.Advice),
	}
	doc.Kernel, doc.Arch = Kernel()
	for _, s := range r.Spaces {
		doc.Spaces = append(doc.Spaces, portSpaceInJSON(s))
		for _, d := range s.Destinations {
			if len(doc.Destinations) == destinationsInDocument {
				doc.LeftOut++
				continue
			}
			doc.Destinations = append(doc.Destinations, destinationInJSON(r, s, d))
		}
		for _, l := range s.Listeners {
			doc.Listeners = append(doc.Listeners, listenerJSON{
				s.NetNS, addrText(l.Local), l.Listening, statesJSON(l.ByState), l.Refuses, some(int64(max(0, l.Until-s.At)), l.Until > 0),
			})
		}
	}
	return json.NewEncoder(w).Encode(doc)
}

func portSpaceInJSON(s *ports.Space) portSpaceJSON {
	out := portSpaceJSON{
		NetNS: s.NetNS, Own: s.Path == "", Range: [2]uint16{s.Rules.Low, s.Rules.High}, Ports: s.Rules.Range(), Reserved: s.Rules.ReservedInRange(),
		Reuse: s.Rules.Reuse, ReuseDelay: some(int64(s.Rules.ReuseDelay), s.Rules.ReuseDelay >= 0), Timestamps: s.Rules.Timestamps, Inferred: s.Inferred,
	}
	if c := s.Conntrack; c != nil {
		out.Conntrack = &conntrackJSON{c.Count, int64(c.TimeWait)}
	}
	return out
}

func destinationInJSON(r *Ports, s *ports.Space, d *ports.Destination) destinationJSON {
	f, sampled := d.Forecast(&s.Rules, r.Mean()), r.Took > 0
	out := destinationJSON{
		NetNS: s.NetNS, Source: d.Source.String(), Destination: "*", Bound: d.Bound, Range: [2]uint16{s.Rules.Low, s.Rules.High},
		Capacity: d.Capacity, Blocked: d.Blocked, Used: d.Used, Free: max(0, d.Free()), ByState: statesJSON(d.ByState),
		Rate: some(f.Rate, sampled), Peak: some(f.Peak, sampled), Sustainable: some(f.Sustainable, f.Share > 0),
		Exhausted: some(int64(f.Exhausted), f.Exhausted == 0 || sampled && f.Exhausted > 0),
		Level:     some(f.Level, sampled && f.Exhausted < 0 && f.Rate > 0),
		NextFree:  some(int64(f.NextFree), f.NextFree >= 0), AllFree: some(int64(f.AllFree), f.AllFree >= 0),
		Connects: some(d.Flow.Connects, sampled), Failures: some(d.Flow.Failures, sampled), TimeWaits: some(d.Flow.TimeWaits, sampled),
		Released: some(d.Flow.Released, sampled),
		Reuse:    some(reuseJSON{d.Reusable, d.InEffect, d.TooYoung, d.NoStamp}, !s.Inferred), Owners: []userJSON{},
	}
	if !d.Bound {
		out.Destination = addrText(d.Remote)
	}
	for i := range d.Owners {
		out.Owners = append(out.Owners, userInJSON(r, &d.Owners[i], sampled))
	}
	return out
}

func userInJSON(r *Ports, o *ports.Owner, sampled bool) userJSON {
	out := userJSON{
		Sockets: o.Sockets, Connects: some(o.Connects, sampled), Failures: some(o.Failures, sampled), TimeWaits: some(o.TimeWaits, sampled),
		Errno: some("EADDRNOTAVAIL", o.Failures > 0), Failed: some(int64(o.Failed), o.Failures > 0),
	}
	if o.PID == 0 {
		return out
	}
	out.PID, out.StartNS, out.Comm = &o.PID, some(int64(o.Start), true), some(o.Comm.String(), true)
	if p := r.Processes[o.PID]; p != nil {
		out.Unit, out.Container = some(p.Unit, p.Unit != ""), containerJSON(p.Container)
	}
	return out
}

func statesJSON(by map[tcp.State]int) map[string]int {
	out := make(map[string]int)
	for s, n := range by {
		out[s.String()] = n
	}
	return out
}
