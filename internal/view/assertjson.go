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
	PID     *int     `json:"pid"`
	Start   *int64   `json:"start_ns"`
	Comm    *string  `json:"comm"`
	Cmdline []string `json:"cmdline"`
	leakSocket
	Closed bool        `json:"closed"`
	Site   []frameJSON `json:"site"`
	Sites  []siteJSON  `json:"sites"` // none or one
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
	out := overdueJSON{leakSocket: socketJSON(&o.Leak, o.Process), Closed: o.Closed}
	out.FD = some(o.FD, o.FD >= 0)
	var places []leak.Place
	if o.Site != nil {
		places = []leak.Place{{Site: o.Site, Count: 1}}
	}
	out.SiteIndex = placeOf(o.Site, places)
	out.Site, out.Sites = placesJSON(places)
	if o.Age.Max == leak.Forever {
		out.AgeMax = nil
	}
	if !o.Looked { // only transitions told of it
		out.RecvQ, out.SendQ = nil, nil
	}
	switch p := o.Process; {
	case p != nil:
		out.PID, out.Start, out.Comm, out.Cmdline = &p.PID, some(int64(p.Start), true), &p.Comm, p.Cmdline
	case o.Named.PID != 0:
		out.PID, out.Start, out.Comm = some(int(o.Named.PID), true), some(int64(o.Named.Start), true), some(o.Named.Comm.String(), true)
	}
	return out
}
