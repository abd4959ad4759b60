// SPDX-License-Identifier: Apache-2.0

// Package view turns changes into what a person or a script reads.
package view

import (
	"encoding/json"
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

// Summary closes every stream.
type Summary struct {
	Transitions uint64        // rows that matched
	Hidden      uint64        // of these, not shown on a terminal
	Lost        event.Lost    //
	CPU         time.Duration // user and system time of this process
	Elapsed     time.Duration
}

// JSON writes JSON Lines by the contract in docs/json.md. Errors of the writer
// come back from Flush.
type JSON struct {
	output
	clock  clock
	owners owners
	ends   ends
}

// NewJSON writes to w, in pieces of about 64 KiB and at Flush.
func NewJSON(w io.Writer) *JSON {
	return &JSON{output: newOutput(w), clock: clock{layout: "2006-01-02T15:04:05", one: 1e9}, owners: owners{write: appendOwner}}
}

// Change writes one row. It allocates nothing.
func (j *JSON) Change(ch *conn.Change, wall time.Time) {
	b := append(j.buf, `{"time":"`...)
	b = j.clock.append(b, wall.UTC())
	b = appendInt(append(b, `Z","mono_ns":`...), int64(ch.Mono))
	b = append(b, `,"event":"transition","netns":`...)
	b = appendUint(b, uint64(ch.NetNS))
	b = appendOrNull(append(b, `,"cookie":`...), ch.Cookie)
	b = appendOrNull(append(b, `,"inode":`...), ch.Inode)
	b = append(b, `,"family":"`...)
	b = append(b, family(ch)...)
	b = append(b, `","local":"`...)
	b = j.ends.append(b, ch.Tuple.Local)
	b = append(b, `","remote":"`...)
	b = j.ends.append(b, ch.Tuple.Remote)
	b = append(b, `","from":"`...)
	b = append(b, ch.From.String()...)
	b = append(b, `","to":"`...)
	b = append(b, ch.To.String()...)
	b = append(b, `","in_state_ns":`...)
	b = appendSpan(b, ch.InState, conn.Exact)
	b = append(b, `,"in_state_min_ns":`...)
	b = appendSpan(b, ch.InState, conn.AtLeast)
	b = j.owners.append(append(b, `,"owner":`...), &ch.Owner)
	b = append(b, `,"accepted":`...)
	b = append(b, [...]string{"null", "false", "true"}[ch.Accepted]...)
	b = append(b, `,"side":`...)
	b = append(b, [...]string{"null", `"connect"`, `"accept"`}[ch.Side]...)
	b = append(b, `,"sk_err":`...)
	b = appendErrno(b, ch.SkErr)
	b = appendCause(append(b, `,"cause":`...), ch.Cause)
	b = append(b, `,"restarts":`...)
	if ch.From == tcp.TimeWait && ch.Restarts != event.RestartsUnknown {
		b = appendUint(b, uint64(ch.Restarts))
	} else {
		b = append(b, "null"...)
	}
	j.line(append(b, '}'))
}

// Lost writes the losses since the start, when they have grown.
func (j *JSON) Lost(lost event.Lost, mono time.Duration, wall time.Time) {
	j.record(struct {
		Time  time.Time `json:"time"`
		Mono  int64     `json:"mono_ns"`
		Event string    `json:"event"`
		event.Lost
	}{wall.UTC(), int64(mono), "lost", lost})
}

// Summary writes the last line.
func (j *JSON) Summary(s Summary, mono time.Duration, wall time.Time) {
	j.record(struct {
		Time        time.Time `json:"time"`
		Mono        int64     `json:"mono_ns"`
		Event       string    `json:"event"`
		Transitions uint64    `json:"transitions"`
		event.Lost
		CPU     int64 `json:"cpu_ns"`
		Elapsed int64 `json:"elapsed_ns"`
	}{wall.UTC(), int64(mono), "summary", s.Transitions, s.Lost, int64(s.CPU), int64(s.Elapsed)})
}

func (j *JSON) record(v any) {
	b, err := json.Marshal(v)
	if err != nil { // numbers, times and constant strings only
		panic(err)
	}
	j.line(append(j.buf, b...))
}

func family(ch *conn.Change) string {
	if ch.Tuple.Is4() {
		return "ipv4"
	}
	return "ipv6"
}

func appendInt(b []byte, n int64) []byte   { return strconv.AppendInt(b, n, 10) }
func appendUint(b []byte, n uint64) []byte { return strconv.AppendUint(b, n, 10) }

func appendOrNull(b []byte, n uint64) []byte {
	if n == 0 {
		return append(b, "null"...)
	}
	return appendUint(b, n)
}

func appendSpan(b []byte, s conn.Span, want conn.Quality) []byte {
	if s.Quality != want {
		return append(b, "null"...)
	}
	return appendInt(b, int64(s.D))
}

func appendOwner(b []byte, o *event.Owner) []byte {
	if o.PID == 0 {
		return append(b, `{"pid":null,"comm":null,"how":"unknown"}`...)
	}
	b = appendUint(append(b, `{"pid":`...), uint64(o.PID))
	b = appendInt(append(b, `,"start_ns":`...), int64(o.Start))
	b = appendString(append(b, `,"comm":`...), o.Comm.Bytes())
	b = append(append(b, `,"how":"`...), o.How.String()...)
	return append(b, `"}`...)
}

func appendCause(b []byte, c event.Cause) []byte {
	if c == event.CauseNone {
		return append(b, "null"...)
	}
	return append(append(append(b, '"'), c.String()...), '"')
}

func appendErrno(b []byte, errno uint16) []byte {
	if errno == 0 {
		return append(b, "null"...)
	}
	return append(append(append(b, '"'), errnoName(errno)...), '"')
}

func errnoName(errno uint16) string {
	if name := unix.ErrnoName(unix.Errno(errno)); name != "" {
		return name
	}
	return "errno " + strconv.Itoa(int(errno))
}

// appendString quotes a process name, which may hold any bytes: prctl takes them all.
func appendString(b, s []byte) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for len(s) > 0 {
		plain := 0
		for plain < len(s) && s[plain] >= ' ' && s[plain] <= '~' && s[plain] != '"' && s[plain] != '\\' {
			plain++
		}
		b, s = append(b, s[:plain]...), s[plain:]
		if len(s) == 0 {
			break
		}
		r, size := utf8.DecodeRune(s)
		switch {
		case r == utf8.RuneError && size == 1:
			b = append(b, `\ufffd`...)
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < 0x20 || r == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			b = append(b, s[:size]...)
		}
		s = s[size:]
	}
	return append(b, '"')
}
