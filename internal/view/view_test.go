// SPDX-License-Identifier: Apache-2.0

package view

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"afterfin/internal/conn"
	"afterfin/internal/event"
	"afterfin/internal/tcp"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 123_456_789, time.UTC)

func change(local, remote string, from, to tcp.State) conn.Change {
	ch := conn.Change{InState: conn.Span{D: 1234567, Quality: conn.Exact}}
	ch.Mono, ch.NetNS, ch.Cookie, ch.Inode = 987654321, 4026531840, 77, 4242
	ch.Tuple = tcp.Tuple{Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote)}
	ch.From, ch.To = from, to
	ch.Owner = event.Owner{PID: 4121, Start: 55, How: event.HowConnect}
	copy(ch.Owner.Comm[:], "payment-api")
	ch.Side = event.SideConnect
	return ch
}

func jsonLine(t *testing.T, ch conn.Change) map[string]any {
	t.Helper()
	var out bytes.Buffer
	w := NewJSON(&out)
	w.Change(&ch, noon)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	var row map[string]any
	dec := json.NewDecoder(&out)
	dec.UseNumber()
	if err := dec.Decode(&row); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	return row
}

func TestJSONChange(t *testing.T) {
	var out bytes.Buffer
	w := NewJSON(&out)
	ch := change("10.0.0.5:43210", "[2001:db8::9]:443", tcp.SynSent, tcp.Established)
	ch.SkErr = uint16(unix.ECONNRESET)
	w.Change(&ch, noon)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	const want = `{"time":"2026-11-22T12:00:00.123456789Z","mono_ns":987654321,"event":"transition","netns":4026531840,"cookie":77,"inode":4242,` +
		`"family":"ipv4","local":"10.0.0.5:43210","remote":"[2001:db8::9]:443","from":"SYN_SENT","to":"ESTABLISHED","in_state_ns":1234567,"in_state_min_ns":null,` +
		`"owner":{"pid":4121,"start_ns":55,"comm":"payment-api","how":"connect"},"accepted":null,"side":"connect","sk_err":"ECONNRESET","cause":null,"restarts":null}` + "\n"
	if out.String() != want {
		t.Errorf("got  %s\nwant %s", out.String(), want)
	}
}

func TestJSONUnknownIsNull(t *testing.T) {
	ch := change("[::1]:1", "[::1]:2", tcp.Close, tcp.SynSent)
	ch.InState, ch.Owner, ch.Side, ch.Cookie, ch.Inode = conn.Span{}, event.Owner{}, event.SideUnknown, 0, 0
	row := jsonLine(t, ch)
	for _, key := range []string{"in_state_ns", "in_state_min_ns", "accepted", "side", "cookie", "inode", "sk_err"} {
		if v, ok := row[key]; !ok || v != nil {
			t.Errorf("%s is %v (there: %v), want null", key, v, ok)
		}
	}
	owner := row["owner"].(map[string]any)
	if owner["pid"] != nil || owner["how"] != "unknown" {
		t.Errorf("owner %v", owner)
	}
	if row["family"] != "ipv6" {
		t.Errorf("family %v", row["family"])
	}

	ch.InState = conn.Span{D: 5, Quality: conn.AtLeast}
	row = jsonLine(t, ch)
	if row["in_state_ns"] != nil || row["in_state_min_ns"] != json.Number("5") {
		t.Errorf("a bound came out as %v / %v", row["in_state_ns"], row["in_state_min_ns"])
	}
}

func FuzzJSONComm(f *testing.F) {
	f.Add([]byte("plain"))
	f.Add([]byte("q\"u\\o\x01\x1b[31m"))
	f.Add([]byte{0xff, 0xc3, 0x28, '\n', 0x7f})
	f.Fuzz(func(t *testing.T, comm []byte) {
		ch := change("10.0.0.5:1", "10.0.0.6:2", tcp.SynSent, tcp.Established)
		ch.Owner.Comm = event.Comm{}
		copy(ch.Owner.Comm[:15], comm)
		want := strings.ToValidUTF8(ch.Owner.Comm.String(), "\ufffd")
		got := jsonLine(t, ch)["owner"].(map[string]any)["comm"].(string)
		// ToValidUTF8 folds a run of bad bytes into one mark, JSON writes one each.
		for strings.Contains(got, "\ufffd\ufffd") {
			got = strings.ReplaceAll(got, "\ufffd\ufffd", "\ufffd")
		}
		for strings.Contains(want, "\ufffd\ufffd") {
			want = strings.ReplaceAll(want, "\ufffd\ufffd", "\ufffd")
		}
		if got != want {
			t.Errorf("comm %q came out as %q", want, got)
		}
	})
}

func text(opt TextOptions, changes ...conn.Change) string {
	var out bytes.Buffer
	w := NewText(&out, opt)
	for i := range changes {
		w.Change(&changes[i], noon)
	}
	_ = w.Flush()
	return out.String()
}

func TestTextRows(t *testing.T) {
	own := TextOptions{NetNS: 4026531840}
	plain := change("10.0.0.5:43210", "10.0.4.9:443", tcp.SynSent, tcp.Established)
	long := change("[2001:db8:85a3:8d3:1319:8a2e:370:7348]:43210", "[2001:db8:85a3:8d3:1319:8a2e:370:7344]:65535", tcp.Established, tcp.CloseWait)
	long.InState = conn.Span{D: 59_900 * time.Millisecond, Quality: conn.AtLeast}
	refused := change("127.0.0.1:43210", "127.0.0.1:81", tcp.SynSent, tcp.Close)
	refused.SkErr = uint16(unix.ECONNREFUSED)
	elsewhere := change("127.0.0.1:80", "127.0.0.1:43210", tcp.CloseWait, tcp.Close)
	elsewhere.NetNS, elsewhere.Accepted, elsewhere.Owner = 17, event.AcceptedNo, event.Owner{}
	unbound := change("0.0.0.0:0", "10.0.4.9:443", tcp.Close, tcp.SynSent)
	unbound.InState = conn.Span{}

	const want = `TIME             PID COMM            HOW     LOCAL                 REMOTE                OLDSTATE→NEWSTATE      IN OLD
12:00:00.123    4121 payment-api     connect 10.0.0.5:43210        10.0.4.9:443          SYN_SENT→ESTABLISHED   1.23 ms
12:00:00.123    4121 payment-api     connect [2001:db8:85a3:8d3:1319:8a2e:370:7348]:43210
                                            [2001:db8:85a3:8d3:1319:8a2e:370:7344]:65535 ESTABLISHED→CLOSE_WAIT >59 s
12:00:00.123    4121 payment-api     connect 127.0.0.1:43210       127.0.0.1:81          SYN_SENT→CLOSE         1.23 ms
                                                                                         ECONNREFUSED
12:00:00.123       - -               unknown 127.0.0.1:80          127.0.0.1:43210       CLOSE_WAIT→CLOSE       1.23 ms
                                                                                         never accepted, netns 17
12:00:00.123    4121 payment-api     connect 0.0.0.0:*             10.0.4.9:443          CLOSE→SYN_SENT         -
                                                                                         netns 4026531840
`
	if got := text(own, plain, long, refused, elsewhere, unbound); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// No line is wider than 120 characters, whatever is in it.
func TestTextWidth(t *testing.T) {
	for _, ends := range [][2]string{
		{"255.255.255.255:65535", "255.255.255.255:65535"},
		{"[2001:db8:85a3:8d3:1319:8a2e:1370:7348]:65535", "[2001:db8:85a3:8d3:1319:8a2e:1370:7348]:65535"},
		{"[::1]:65535", "[2001:db8:85a3:8d3:1319::7348]:65535"},
		{"[fe80::1]:1", "[fe80::2]:2"},
	} {
		for _, q := range []conn.Span{{}, {D: 999 * time.Microsecond, Quality: conn.AtLeast}, {D: 99*time.Second + 994*time.Millisecond, Quality: conn.Exact},
			{D: 59*time.Minute + 59*time.Second, Quality: conn.AtLeast}, {D: 400 * 24 * time.Hour, Quality: conn.AtLeast}} {
			ch := change(ends[0], ends[1], tcp.Established, tcp.CloseWait)
			ch.Owner.PID, ch.InState, ch.SkErr, ch.NetNS = 4194304, q, 110, 4026531999
			copy(ch.Owner.Comm[:15], "fifteen-letters")
			for line := range strings.Lines(text(TextOptions{}, ch)) {
				if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 120 {
					t.Errorf("%d characters: %s", n, line)
				}
			}
		}
	}
}

func TestTextHostileComm(t *testing.T) {
	ch := change("10.0.0.5:1", "10.0.0.6:2", tcp.SynSent, tcp.Established)
	copy(ch.Owner.Comm[:], "\x1b[2Jevil\n\xff")
	if got := text(TextOptions{NetNS: ch.NetNS}, ch); strings.Contains(got, "\x1b") || !utf8.ValidString(got) || strings.Count(got, "\n") != 2 {
		t.Errorf("passed on: %q", got)
	}
}

func TestTextColor(t *testing.T) {
	ch := change("10.0.0.5:1", "10.0.0.6:2", tcp.Established, tcp.CloseWait)
	if got := text(TextOptions{Terminal: true}, ch); strings.Contains(got, "\x1b") {
		t.Errorf("colour without being asked: %q", got)
	}
	if got := text(TextOptions{Terminal: true, Color: true}, ch); !strings.Contains(got, "\x1b[33mESTABLISHED→CLOSE_WAIT\x1b[0m") {
		t.Errorf("no colour: %q", got)
	}
}

// On a terminal, rows beyond what a person can read are counted; in a pipe never.
func TestTextHidden(t *testing.T) {
	ch := change("10.0.0.5:1", "10.0.0.6:2", tcp.SynSent, tcp.Established)
	for _, terminal := range []bool{true, false} {
		var out bytes.Buffer
		w := NewText(&out, TextOptions{Terminal: terminal, NetNS: ch.NetNS})
		const rows = 2000
		for range rows {
			w.Change(&ch, noon)
		}
		w.Change(&ch, noon.Add(time.Second))
		w.Summary(Summary{}, 0, noon)
		_ = w.Flush()
		shown := uint64(strings.Count(out.String(), "payment-api"))
		if shown+w.Hidden() != rows+1 {
			t.Errorf("terminal %v: %d shown and %d hidden of %d", terminal, shown, w.Hidden(), rows+1)
		}
		if terminal && (shown != perSecond+1 || !strings.Contains(out.String(), "1,960 hidden")) {
			t.Errorf("%d shown on a terminal:\n%s", shown, out.String())
		}
		if !terminal && w.Hidden() != 0 {
			t.Errorf("%d hidden in a pipe", w.Hidden())
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 ns", 850: "850 ns", 12_300: "12.3 µs", 999_400: "999 µs", 999_500: "1.00 ms", 4_560_000: "4.56 ms",
		59_900 * time.Millisecond: "59.9 s", 125 * time.Second: "2m05s", 2*time.Hour + 8*time.Minute: "2h08m",
		76 * time.Hour: "3d04h", -1: "?",
	} {
		if got := Duration(d); got != want {
			t.Errorf("%d ns: %q, want %q", d, got, want)
		}
	}
}

func TestLostText(t *testing.T) {
	if got := LostText(event.Lost{}); got != "nothing" {
		t.Errorf("%q", got)
	}
	got := LostText(event.Lost{Ring: 183204, Recursion: 1, Accept: 5, Map: 2, Read: 3, Evicted: 4})
	for _, part := range []string{"183,204 rows (ring full)", "1 rows (program skipped", "5 accepts", "2 owners", "3 fields", "4 connections"} {
		if !strings.Contains(got, part) {
			t.Errorf("%q lacks %q", got, part)
		}
	}
}

func TestSummaryAndLost(t *testing.T) {
	var out bytes.Buffer
	w := NewJSON(&out)
	w.Lost(event.Lost{Ring: 5}, 1, noon)
	w.Summary(Summary{Transitions: 9, Lost: event.Lost{Recursion: 2}, CPU: 3, Elapsed: 4}, 2, noon)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	const want = `{"time":"2026-11-22T12:00:00.123456789Z","mono_ns":1,"event":"lost","lost_ring":5,"lost_recursion":0,"lost_accept":0,"lost_map":0,"lost_read":0,"evicted":0}
{"time":"2026-11-22T12:00:00.123456789Z","mono_ns":2,"event":"summary","transitions":9,"lost_ring":0,"lost_recursion":2,"lost_accept":0,"lost_map":0,"lost_read":0,"evicted":0,"cpu_ns":3,"elapsed_ns":4}
`
	if out.String() != want {
		t.Errorf("got  %s\nwant %s", out.String(), want)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, unix.EPIPE }

func TestFlushGivesTheWritersError(t *testing.T) {
	ch := change("10.0.0.5:1", "10.0.0.6:2", tcp.SynSent, tcp.Established)
	j, x := NewJSON(brokenPipe{}), NewText(brokenPipe{}, TextOptions{})
	for range 1000 { // past the buffer, so that a write fails in between
		j.Change(&ch, noon)
		x.Change(&ch, noon)
	}
	if err := j.Flush(); !errors.Is(err, unix.EPIPE) {
		t.Errorf("JSON: %v", err)
	}
	if err := x.Flush(); !errors.Is(err, unix.EPIPE) {
		t.Errorf("text: %v", err)
	}
}
