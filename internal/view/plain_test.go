// SPDX-License-Identifier: Apache-2.0

package view

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // zones with daylight saving, on any host
	"unicode/utf8"

	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

// The rows once more, slowly, by fmt, time and encoding/json alone: what the writers
// must come to.

func plainText(ch *conn.Change, wall time.Time, opt *TextOptions) string {
	pid, comm := "-", "-"
	if ch.Owner.PID != 0 {
		pid, comm = fmt.Sprint(ch.Owner.PID), strings.Map(plainRune, ch.Owner.Comm.String())
	}
	local, remote := plainEnd(ch.Tuple.Local), plainEnd(ch.Tuple.Remote)
	pair := fmt.Sprintf("%-21s %-21s", local, remote)
	if len(local) > 21 || len(remote) > 21 {
		pair = fmt.Sprintf("%-43s", local+" "+remote)
	}
	if len(pair) > 43 {
		pair = local + "\n" + fmt.Sprintf("%88s", remote)
	}
	from, to := ch.From.String(), ch.To.String()
	states := fmt.Sprintf("%-22s", from+"→"+to)
	if color := plainColor(ch); opt.Color && color != "" {
		states = strings.Replace(states, from+"→"+to, color+from+"→"+to+reset, 1)
	}
	in := "-"
	switch ch.InState.Quality {
	case conn.Exact:
		in = plainDuration(ch.InState.D, 3)
	case conn.AtLeast:
		in = ">" + plainDuration(plainRoundDown(ch.InState.D), 2)
	}
	row := fmt.Sprintf("%s %7s %-15s %-7s %s %s %s", wall.Format("15:04:05.000"), pid, comm, ch.Owner.How, pair, states, in)
	if notes := plainNotes(ch, opt); len(notes) > 0 {
		row += fmt.Sprintf("\n%89s", "") + strings.Join(notes, ", ")
	}
	return row + "\n"
}

func plainNotes(ch *conn.Change, opt *TextOptions) (notes []string) {
	if ch.Cause > event.CauseUnknown && ch.Cause != event.CauseExpired {
		notes = append(notes, ch.Cause.String())
	}
	if ch.SkErr != 0 {
		notes = append(notes, errnoName(ch.SkErr))
	}
	if ch.From == tcp.TimeWait && ch.Restarts != 0 && ch.Restarts != event.RestartsUnknown {
		notes = append(notes, fmt.Sprintf("2MSL restarts: %d", ch.Restarts))
	}
	if ch.Accepted == event.AcceptedNo && ch.To != tcp.SynRecv && ch.To != tcp.Established {
		notes = append(notes, "never accepted")
	}
	if ch.NetNS != opt.NetNS {
		opt.NetNS = ch.NetNS
		notes = append(notes, fmt.Sprintf("netns %d", ch.NetNS))
	}
	return notes
}

func plainRune(r rune) rune {
	if !strconv.IsPrint(r) || r == utf8.RuneError {
		return '?'
	}
	return r
}

func plainEnd(a netip.AddrPort) string {
	if a.Port() != 0 {
		return a.String()
	}
	return strings.TrimSuffix(a.String(), "0") + "*"
}

func plainColor(ch *conn.Change) string {
	if ch.SkErr != 0 {
		return red
	}
	return colors[ch.To]
}

func plainDuration(d time.Duration, digits int) string {
	switch {
	case d < 0:
		return "?"
	case d < time.Microsecond:
		return fmt.Sprintf("%d ns", d)
	case d < 999500*time.Nanosecond:
		return plainFloat(float64(d)/1e3, digits) + " µs"
	case d < 999500*time.Microsecond:
		return plainFloat(float64(d)/1e6, digits) + " ms"
	case d < 100*time.Second:
		return plainFloat(float64(d)/1e9, digits) + " s"
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

func plainFloat(v float64, digits int) string {
	decimals := digits - 1
	for limit := 9.995; v >= limit && decimals > 0; limit *= 10 {
		decimals--
	}
	return strconv.FormatFloat(v, 'f', decimals, 64)
}

func plainRoundDown(d time.Duration) time.Duration {
	step := time.Duration(1)
	for d/step >= 100 && d < 100*time.Second {
		step *= 10
	}
	return d / step * step
}

// plainComm: encoding/json, but for what this package escapes otherwise.
type plainComm string

func (c plainComm) MarshalJSON() ([]byte, error) {
	b := []byte{'"'}
	for _, r := range strings.ToValidUTF8(string(c), "\x00") {
		switch {
		case r == 0: // a Comm has none
			b = append(b, `\ufffd`...)
		case r < 0x20 || r == 0x7f:
			b = fmt.Appendf(b, `\u%04x`, r)
		case strings.ContainsRune("<>&\u2028\u2029", r):
			b = utf8.AppendRune(b, r)
		default:
			quoted, err := json.Marshal(string(r))
			if err != nil {
				return nil, err
			}
			b = append(b, quoted[1:len(quoted)-1]...)
		}
	}
	return append(b, '"'), nil
}

type plainOwner struct {
	PID   *uint32    `json:"pid"`
	Start *int64     `json:"start_ns,omitempty"`
	Comm  *plainComm `json:"comm"`
	How   string     `json:"how"`
}

func plainJSON(ch *conn.Change, wall time.Time) string {
	owner := plainOwner{How: "unknown"}
	if o := &ch.Owner; o.PID != 0 {
		// Each bad byte becomes a mark of its own; ToValidUTF8 would fold a run of them.
		comm := plainComm("")
		for s := o.Comm.String(); s != ""; {
			_, size := utf8.DecodeRuneInString(s)
			comm += plainComm(strings.ToValidUTF8(s[:size], "\x00"))
			s = s[size:]
		}
		owner = plainOwner{PID: &o.PID, Start: some(int64(o.Start), true), Comm: &comm, How: o.How.String()}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(struct {
		Time     string     `json:"time"`
		Mono     int64      `json:"mono_ns"`
		Event    string     `json:"event"`
		NetNS    uint32     `json:"netns"`
		Cookie   *uint64    `json:"cookie"`
		Inode    *uint64    `json:"inode"`
		Family   string     `json:"family"`
		Local    string     `json:"local"`
		Remote   string     `json:"remote"`
		From     string     `json:"from"`
		To       string     `json:"to"`
		InState  *int64     `json:"in_state_ns"`
		InAtMost *int64     `json:"in_state_min_ns"`
		Owner    plainOwner `json:"owner"`
		Accepted *bool      `json:"accepted"`
		Side     *string    `json:"side"`
		SkErr    *string    `json:"sk_err"`
		Cause    *string    `json:"cause"`
		Restarts *uint16    `json:"restarts"`
	}{
		wall.UTC().Format("2006-01-02T15:04:05.000000000Z07:00"), int64(ch.Mono), "transition", ch.NetNS,
		some(ch.Cookie, ch.Cookie != 0), some(ch.Inode, ch.Inode != 0), family(ch),
		ch.Tuple.Local.String(), ch.Tuple.Remote.String(), ch.From.String(), ch.To.String(),
		some(int64(ch.InState.D), ch.InState.Quality == conn.Exact), some(int64(ch.InState.D), ch.InState.Quality == conn.AtLeast),
		owner, some(ch.Accepted == event.AcceptedYes, ch.Accepted != event.AcceptedUnknown),
		some(map[event.Side]string{event.SideConnect: "connect", event.SideAccept: "accept"}[ch.Side], ch.Side != event.SideUnknown),
		some(errnoName(ch.SkErr), ch.SkErr != 0), some(ch.Cause.String(), ch.Cause != event.CauseNone),
		some(ch.Restarts, ch.From == tcp.TimeWait && ch.Restarts != event.RestartsUnknown),
	})
	if err != nil {
		panic(err)
	}
	return b.String()
}

// Every row is, byte for byte, what the standard library makes of it.
func TestRowsAreThePlainOnes(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	zones := []*time.Location{time.UTC, time.Local, berlin, time.FixedZone("LMT", 3208), time.FixedZone("LMT", -1)}
	rng := rand.New(rand.NewPCG(1, 2))
	opt := TextOptions{Color: true, NetNS: 4026531840}
	var text, lines bytes.Buffer
	x, j := NewText(&text, opt), NewJSON(&lines)
	_ = x.Flush()                  // the heading
	wall, usual := noon, traffic() // what was kept comes again only among these
	for i := range 50_000 {
		ch := randomChange(rng)
		if i%2 == 0 {
			ch = usual[rng.IntN(len(usual))]
		}
		wall = randomWall(rng, wall, zones)
		text.Reset()
		lines.Reset()
		x.Change(&ch, wall)
		j.Change(&ch, wall)
		_, _ = x.Flush(), j.Flush()
		if want := plainText(&ch, wall, &opt); text.String() != want {
			t.Fatalf("row %d\ngot  %q\nwant %q", i, text.String(), want)
		}
		if want := plainJSON(&ch, wall); lines.String() != want {
			t.Fatalf("row %d\ngot  %q\nwant %q", i, lines.String(), want)
		}
	}
}

// randomWall mostly stays in its second, or near it.
func randomWall(rng *rand.Rand, last time.Time, zones []*time.Location) time.Time {
	switch rng.IntN(8) {
	case 0: // the clocks of Berlin go forward, or back
		change := [...]int64{1774746000, 1792890000}[rng.IntN(2)]
		return time.Unix(change, rng.Int64N(4e9)-2e9).In(zones[2])
	case 1:
		return time.Unix(rng.Int64N(1<<36)-1<<35, rng.Int64N(1e9)).In(zones[rng.IntN(len(zones))])
	case 2:
		return last.In(zones[rng.IntN(len(zones))])
	case 3:
		return last.Truncate(time.Second).Add([...]time.Duration{0, 1, 500_000, 999_499_999, 999_500_000, 999_999_999}[rng.IntN(6)])
	}
	return last.Add(time.Duration(rng.Int64N(2e9) - 1e9))
}

func randomChange(rng *rand.Rand) conn.Change {
	var ch conn.Change
	ch.Mono, ch.NetNS = randomDuration(rng), 4026531840+uint32(rng.IntN(8)/7)
	ch.Cookie, ch.Inode = rng.Uint64()>>rng.IntN(65), rng.Uint64()>>rng.IntN(65)
	ch.Tuple = tcp.Tuple{Local: randomEnd(rng), Remote: randomEnd(rng)}
	ch.From, ch.To = tcp.State(rng.IntN(14)), tcp.State(rng.IntN(14))
	ch.InState = conn.Span{D: randomDuration(rng), Quality: conn.Quality(rng.IntN(3))}
	ch.SkErr = []uint16{0, 0, 0, 104, 110, 111, 9999}[rng.IntN(7)]
	ch.Side, ch.Accepted = event.Side(rng.IntN(3)), event.Accepted(rng.IntN(3))
	ch.Cause = event.Cause(rng.IntN(19))
	ch.Restarts = []uint16{0, 1, 300, event.RestartsUnknown}[rng.IntN(4)]
	ch.Owner = event.Owner{PID: rng.Uint32() >> rng.IntN(33), Start: randomDuration(rng), How: event.How(rng.IntN(7))}
	if rng.IntN(2) == 0 {
		copy(ch.Owner.Comm[:], []string{"nginx", "fifteen-letters", "sixteen-letters!", "größe", "日本語のサーバ", "<a&b>", `q"u\o`, "a b~"}[rng.IntN(8)])
		return ch
	}
	for i := range rng.IntN(16) {
		ch.Owner.Comm[i] = byte(rng.UintN(256))
	}
	return ch
}

// randomDuration is of any length, and often on the edge between two roundings or units.
func randomDuration(rng *rand.Rand) time.Duration {
	d := time.Duration(rng.Int64() >> rng.IntN(64))
	switch rng.IntN(4) {
	case 0:
		return -d
	case 1:
		return d
	}
	step := time.Duration(1)
	for range rng.IntN(10) {
		step *= 10
	}
	d = step*time.Duration(rng.IntN(2000)) + step/2
	return max(0, d+time.Duration(rng.IntN(3)-1))
}

func randomEnd(rng *rand.Rand) netip.AddrPort {
	var a [16]byte
	for i := range a {
		a[i] = byte(rng.UintN(256) >> rng.IntN(9))
	}
	addr := netip.AddrFrom16(a)
	switch rng.IntN(6) {
	case 0, 1, 2:
		addr = netip.AddrFrom4([4]byte(a[:4]))
	case 3:
		addr = netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff, 12: a[0], 13: a[1], 14: a[2], 15: a[3]})
	case 4:
		addr = netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: a[0]})
	}
	return netip.AddrPortFrom(addr, uint16(rng.UintN(1<<16)>>rng.IntN(17)))
}
