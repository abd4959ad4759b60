// SPDX-License-Identifier: Apache-2.0

package view

import (
	"encoding/json"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"afterfin/internal/event"
	"afterfin/internal/leak"
)

// The document of assert -o json, described in docs/json.md.
type assertDocument struct {
	Time       string        `json:"time"`
	Leaked     bool          `json:"leaked"`
	Reason     string        `json:"reason"`
	Exit       int           `json:"exit"`
	Command    []string      `json:"command"`
	Status     int           `json:"command_exit"`
	Signal     *string       `json:"command_signal"`
	MaxAge     int64         `json:"max_close_wait_age_ns"`
	Resolution *int64        `json:"resolution_ns"`
	Leaks      []overdueJSON `json:"leaks"`
	TimeWait   *int          `json:"time_wait"`
	MaxTW      *int          `json:"max_time_wait"`
	Unplaced   *int          `json:"time_wait_unplaced"`
	Unreadable int           `json:"unreadable"`
	Lost       *event.Lost   `json:"lost"`
}

type overdueJSON struct {
	PID        *int         `json:"pid"`
	Start      *int64       `json:"start_ns"`
	Comm       *string      `json:"comm"`
	Cmdline    []string     `json:"cmdline"`
	FD         *int         `json:"fd"`
	Holders    []holderJSON `json:"holders"`
	NetNS      uint32       `json:"netns"`
	Cookie     uint64       `json:"cookie"`
	Local      string       `json:"local"`
	Remote     string       `json:"remote"`
	Side       *string      `json:"side"`
	RecvQ      *uint32      `json:"recv_q"`
	AgeMin     *int64       `json:"age_min_ns"`
	AgeMax     *int64       `json:"age_max_ns"`
	Age        *int64       `json:"age_ns"`
	AgeQuality string       `json:"age_quality"`
	Verdict    string       `json:"verdict"`
	Inferred   bool         `json:"inferred"`
	Closed     bool         `json:"closed"`
}

// WriteAssertionJSON writes the whole answer as one document on one line.
func WriteAssertionJSON(w io.Writer, a *Assertion, at time.Time) error {
	doc := assertDocument{
		Time: at.UTC().Format(time.RFC3339Nano), Leaked: a.Leaked(), Reason: a.Reason(), Exit: a.Exit,
		Command: a.Command, Status: a.Status, Signal: some(unix.SignalName(a.Signal), a.Signal != 0),
		MaxAge: int64(a.Limit), Resolution: some(int64(a.Resolution), a.Resolution != 0),
		Leaks: []overdueJSON{}, Unreadable: a.Unreadable, Lost: a.Lost,
	}
	if t := a.TimeWait; t != nil {
		doc.TimeWait, doc.MaxTW, doc.Unplaced = &t.Most, &t.Limit, &t.Unplaced
	}
	for i := range a.Leaks {
		doc.Leaks = append(doc.Leaks, overdue(&a.Leaks[i]))
	}
	return json.NewEncoder(w).Encode(doc)
}

func overdue(o *leak.Overdue) overdueJSON {
	out := overdueJSON{
		FD: some(o.FD, o.FD >= 0), Holders: append(holdersJSON(o.Holders, false), holdersJSON(o.Fixed, true)...),
		NetNS: o.NetNS, Cookie: o.Cookie, Local: o.Tuple.Local.String(), Remote: o.Tuple.Remote.String(),
		Side: some(sideWords[o.Side], sideWords[o.Side] != ""), RecvQ: some(o.RecvQ, o.Looked),
		AgeQuality: o.Age.Quality.String(), Verdict: o.Verdict.String(), Inferred: o.Inferred, Closed: o.Closed,
	}
	out.AgeMin, out.AgeMax, out.Age = ageJSON(o.Age)
	if o.Age.Max == leak.Forever {
		out.AgeMax = nil
	}
	switch p := o.Process; {
	case p != nil:
		out.PID, out.Start, out.Comm, out.Cmdline = &p.PID, some(int64(p.Start), true), &p.Comm, p.Cmdline
	case o.Named.PID != 0:
		out.PID, out.Start, out.Comm = some(int(o.Named.PID), true), some(int64(o.Named.Start), true), some(o.Named.Comm.String(), true)
	}
	return out
}
