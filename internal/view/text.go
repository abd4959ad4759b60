// SPDX-License-Identifier: Apache-2.0

package view

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"

	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

// Columns of the text view: 119 characters together. A pair of addresses that
// does not fit takes two lines.
const (
	colPID    = 7
	colComm   = 15
	colHow    = 7
	colAddr   = 21 // 255.255.255.255:65535
	colChange = 22 // ESTABLISHED→CLOSE_WAIT
	colNotes  = 12 + 1 + colPID + 1 + colComm + 1 + colHow + 1 + colAddr + 1 + colAddr + 1
)

// perSecond is how many rows a person may be able to read.
const perSecond = 40

// TextOptions say for whom the text is.
type TextOptions struct {
	Terminal bool   // then rows beyond perSecond are counted, not shown
	Color    bool   // the caller honours NO_COLOR
	NetNS    uint32 // our own: the first row that is in another one says so
}

// Text writes aligned rows for a person. Errors of the writer come back from
// Flush.
type Text struct {
	output
	opt    TextOptions
	clock  clock
	owners owners
	ends   ends
	second time.Time // the one being counted
	shown  int       // rows in it
	hidden uint64    // rows left out of it
	total  uint64    // rows left out in all
}

// NewText writes to w, in pieces of about 64 KiB and at Flush, a heading first.
func NewText(w io.Writer, opt TextOptions) *Text {
	t := &Text{output: newOutput(w), opt: opt, clock: clock{layout: time.TimeOnly, one: 1e3}, owners: owners{write: appendOwnerColumns}}
	t.buf = fmt.Appendf(t.buf, "%-12s %*s %-*s %-*s %-*s %-*s %-*s %s\n", "TIME", colPID, "PID", colComm, "COMM",
		colHow, "HOW", colAddr, "LOCAL", colAddr, "REMOTE", colChange, "OLDSTATE→NEWSTATE", "IN OLD")
	return t
}

// Hidden is how many rows were counted instead of shown.
func (t *Text) Hidden() uint64 { return t.total }

// Change writes one row, or counts it.
func (t *Text) Change(ch *conn.Change, wall time.Time) {
	if t.opt.Terminal && !t.room(wall) {
		t.hidden++
		t.total++
		return
	}
	b := t.clock.append(t.buf, wall)
	b = t.owners.append(append(b, ' '), &ch.Owner)
	b = t.appendTuple(append(b, ' '), ch.Tuple)
	b = t.appendChange(append(b, ' '), ch)
	b = appendInState(append(b, ' '), ch.InState)
	t.line(t.appendNotes(b, ch))
}

// room: is there still room for a row in this second? At its end the rows left
// out are told.
func (t *Text) room(wall time.Time) bool {
	if second := wall.Truncate(time.Second); !second.Equal(t.second) {
		t.tellHidden()
		t.second, t.shown = second, 0
	}
	t.shown++
	return t.shown <= perSecond
}

func (t *Text) tellHidden() {
	if t.hidden > 0 {
		t.line(fmt.Appendf(t.buf, "%12s %s hidden (narrow with -p -L -D --state, or write to a file)", "", Thousands(t.hidden)))
		t.hidden = 0
	}
}

func appendOwnerColumns(b []byte, o *event.Owner) []byte {
	var room [20]byte
	pid, comm := append(room[:0], '-'), []byte("-")
	if o.PID != 0 {
		pid, comm = appendUint(room[:0], uint64(o.PID)), o.Comm.Bytes()
	}
	b = pad(b, colPID-len(pid))
	b = append(append(b, pid...), ' ')
	begin := len(b)
	b = appendPrintable(b, comm)
	b = pad(b, colComm-utf8.RuneCount(b[begin:]))
	how := o.How.String()
	return pad(append(append(b, ' '), how...), colHow-len(how))
}

// appendPrintable: a process may call itself anything, escape sequences included.
func appendPrintable(b, comm []byte) []byte {
	plain := 0
	for plain < len(comm) && comm[plain] >= ' ' && comm[plain] <= '~' {
		plain++
	}
	b = append(b, comm[:plain]...)
	for _, r := range string(comm[plain:]) {
		if !strconv.IsPrint(r) || r == utf8.RuneError {
			r = '?'
		}
		b = utf8.AppendRune(b, r)
	}
	return b
}

// appendTuple puts the remote on a line of its own, right-aligned, if the pair is too long.
func (t *Text) appendTuple(b []byte, tuple tcp.Tuple) []byte {
	begin := len(b)
	b = t.appendEnd(b, tuple.Local)
	local := len(b) - begin
	var room [64]byte
	remote := t.appendEnd(room[:0], tuple.Remote)
	switch {
	case local <= colAddr && len(remote) <= colAddr:
		b = pad(b, colAddr-local+1)
		return pad(append(b, remote...), colAddr-len(remote))
	case local+1+len(remote) <= 2*colAddr+1:
		b = append(append(b, ' '), remote...)
		return pad(b, 2*colAddr-local-len(remote))
	}
	b = append(b, '\n')
	b = pad(b, colNotes-1-len(remote))
	return append(b, remote...)
}

// appendEnd shows an unknown port as ss does.
func (t *Text) appendEnd(b []byte, end netip.AddrPort) []byte {
	if !end.Addr().IsValid() && end.Port() == 0 {
		return append(b, ":*"...)
	}
	b = t.ends.append(b, end)
	if end.Port() == 0 {
		b[len(b)-1] = '*'
	}
	return b
}

func (t *Text) appendChange(b []byte, ch *conn.Change) []byte {
	color := ""
	if t.opt.Color {
		color = colors[ch.To]
		if ch.SkErr != 0 {
			color = red
		}
	}
	b = append(b, color...)
	from, to := ch.From.String(), ch.To.String()
	b = append(append(append(b, from...), "→"...), to...)
	if color != "" {
		b = append(b, reset...)
	}
	return pad(b, colChange-len(from)-1-len(to))
}

const (
	red   = "\x1b[31m"
	reset = "\x1b[0m"
)

var colors = map[tcp.State]string{
	tcp.Established: "\x1b[32m",
	tcp.CloseWait:   "\x1b[33m",
	tcp.TimeWait:    "\x1b[36m",
}

func appendInState(b []byte, s conn.Span) []byte {
	switch s.Quality {
	case conn.Exact:
		return appendDuration(b, s.D, 3)
	case conn.AtLeast:
		return appendDuration(append(b, '>'), roundDown(s.D), 2)
	}
	return append(b, '-')
}

// appendNotes adds a line with what is out of the ordinary.
func (t *Text) appendNotes(b []byte, ch *conn.Change) []byte {
	begin := len(b)
	next := func(b []byte) []byte {
		if len(b) == begin {
			return pad(append(b, '\n'), colNotes)
		}
		return append(b, ", "...)
	}
	if ch.Cause > event.CauseUnknown && ch.Cause != event.CauseExpired {
		b = append(next(b), ch.Cause.String()...)
	}
	if ch.SkErr != 0 {
		b = append(next(b), errnoName(ch.SkErr)...)
	}
	if ch.From == tcp.TimeWait && ch.Restarts != 0 && ch.Restarts != event.RestartsUnknown {
		b = appendUint(append(next(b), "2MSL restarts: "...), uint64(ch.Restarts))
	}
	if ch.Accepted == event.AcceptedNo && ch.To != tcp.SynRecv && ch.To != tcp.Established {
		b = append(next(b), "never accepted"...)
	}
	if ch.NetNS != t.opt.NetNS {
		t.opt.NetNS = ch.NetNS
		b = appendUint(append(next(b), "netns "...), uint64(ch.NetNS))
	}
	return b
}

// Lost writes a line within the stream: what is missing is missing here.
func (t *Text) Lost(lost event.Lost, _ time.Duration, wall time.Time) {
	b := t.clock.append(t.buf, wall)
	t.line(append(append(b, " LOST so far: "...), LostText(lost)...))
}

// Summary ends the stream; the words go to stderr, see cmd.
func (t *Text) Summary(Summary, time.Duration, time.Time) { t.tellHidden() }

// Flush writes what waits and returns the first error of the writer. It is called
// on a quiet host too, so it also tells what the last busy second left out.
func (t *Text) Flush() error {
	if time.Since(t.second) >= time.Second {
		t.tellHidden()
	}
	return t.output.Flush()
}
