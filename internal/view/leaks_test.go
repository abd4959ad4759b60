// SPDX-License-Identifier: Apache-2.0

package view

import (
	"bytes"
	"encoding/json"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"afterfin/internal/event"
	"afterfin/internal/leak"
	"afterfin/internal/owner"
	"afterfin/internal/tcp"
)

func payment() *owner.Process {
	return &owner.Process{PID: 4121, PPID: 1200, Start: 5 * time.Second, Comm: "payment-api", Cmdline: []string{"/usr/bin/payment-api", "--port", "80"},
		UID: 33, User: "www-data", FDs: 58214, FDLimit: 65536, Unit: "payment.service",
		Container: owner.Container{Runtime: "docker", ID: strings.Repeat("ab12", 16), Name: "web-1"}}
}

func waiting(p *owner.Process, fd int, age leak.Age, v leak.Verdict) leak.Leak {
	s := &leak.Socket{Side: event.SideConnect, Existing: event.Existing{Cookie: uint64(fd), Inode: 100 + uint64(fd), NetNS: 17, State: tcp.CloseWait, RecvQ: 1,
		Tuple: tcp.Tuple{Local: netip.MustParseAddrPort("10.0.0.5:43210"), Remote: netip.MustParseAddrPort("10.0.4.9:443")}}}
	if p != nil {
		s.Holders = []owner.Holder{{Process: p, FD: fd}}
	}
	return leak.Leak{Socket: s, Age: age, Verdict: v}
}

func exactly(d time.Duration) leak.Age { return leak.Age{Min: d, Max: d, Quality: leak.Exact} }

func leakText(t *testing.T, r *leak.Report, foot LeakFoot) string {
	t.Helper()
	r.State, r.OlderThan = tcp.CloseWait, 10*time.Second
	var out bytes.Buffer
	if err := WriteLeaks(&out, r, foot); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// everything has all that a block can say.
func everything() *leak.Report {
	p, child := payment(), &owner.Process{PID: 4200, Start: 9 * time.Second, Comm: "helper"}
	leaks := []leak.Leak{
		waiting(p, 45, exactly(128*time.Minute), leak.EOFUnread),
		waiting(p, 19, leak.Age{Min: 1999 * time.Millisecond, Max: time.Hour, Quality: leak.Bound}, leak.EOFUnread),
		waiting(p, 44, leak.Age{}, leak.DataUnread),
	}
	leaks[1].Holders = append(leaks[1].Holders, owner.Holder{Process: child, FD: 5})
	leaks[0].Inherited, leaks[2].RecvQ = true, 1235
	dead := []leak.Dead{{Stray: owner.Stray{Holder: owner.Holder{Process: p, FD: 46}, Inode: 9, Known: true}}}
	groups := leak.GroupByProcess(leaks, dead, 10*time.Second)
	groups[0].Growth = leak.Growth{PerMinute: 450, Known: leak.Sampled}
	return &leak.Report{Groups: groups, Younger: 2, Ignored: 3, Unclear: 4,
		Parents: map[int]*owner.Process{1200: {PID: 1200, Comm: "master"}}}
}

func TestLeakBlock(t *testing.T) {
	const want = `LEAK payment-api pid 4121 user www-data payment.service web-1   fds 58,214/65,536, EMFILE in ~16m16s at +450/min (sampled)
  cmd    /usr/bin/payment-api --port 80
  3 CLOSE_WAIT, oldest 2h08m (exact)   1 dead fd (invisible to ss)   side connect   1,234 bytes unread
  peers  10.0.4.9:443 3
  why    2: the program never read the end of stream (Recv-Q 1)
         1: data and the end of stream behind it are unread: the program stopped reading
         1: the connection is gone (reset, or timed out), the descriptor stays: never closed
         inherited: 1 of them were made by another process than those that hold them; the parent, master pid 1200, has closed them
  where  not known: leaks --follow names the line of code of the next one, and so does afterfin serve if it runs beside
  fds    19 44 45 46
         1 of them are also held by helper pid 4200
  next   close() on that path; a pool needs an idle timeout below the peer's
         prlimit --pid 4121 --nofile=131072: buys time (EMFILE in ~16m16s)
         ss -K would destroy the socket, but frees no descriptor: the leak stays and is harder to see
1 netns   LAST_ACK 5, orphans 6 of 4,096 (tcp_max_orphans)   2 CLOSE_WAIT younger than 10.0 s   3 ignored   4 TCP descriptors in no dump, dead or never connected (CAP_SYS_PTRACE tells)   descriptors of 7 processes not shown (CAP_SYS_PTRACE)   netns of 8 processes not entered (CAP_SYS_ADMIN, CAP_SYS_PTRACE)   lost 9 rows (ring full)
`
	got := leakText(t, everything(), LeakFoot{NetNS: 1, LastAck: 5, Orphans: 6, MaxOrphans: 4096, Unreadable: 7, Unreachable: 8, Lost: &event.Lost{Ring: 9}})
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestLeakLines(t *testing.T) {
	pool := payment()
	pool.FDs, pool.Unit, pool.User, pool.Container = 20, "", "", owner.Container{}
	bound := leak.Age{Min: 99_990 * time.Millisecond, Max: 185 * time.Second, Quality: leak.Bound}
	group := func(p *owner.Process, age leak.Age, growth float64) *leak.Report {
		groups := leak.GroupByProcess([]leak.Leak{waiting(p, 7, age, leak.EOFUnread)}, nil, 10*time.Second)
		groups[0].Growth.PerMinute = growth
		groups[0].Pool = growth == 0 && p == pool
		return &leak.Report{Groups: groups}
	}
	unlimited, full := payment(), payment()
	unlimited.FDLimit, full.FDs = math.MaxUint64, 200_000
	for name, c := range map[string]struct {
		report *leak.Report
		want   string
	}{
		"pool": {group(pool, bound, 0), "POOL? payment-api pid 4121: 1 CLOSE_WAIT, none seen to come in the last 70.0 s, oldest 99.0 s to 3m05s, " +
			"the program never read the end of stream (Recv-Q 1), 10.0.4.9:443 1\n"},
		"none":             {&leak.Report{Younger: 1234}, "no CLOSE_WAIT older than 10.0 s (1,234 younger)\n1 netns   lost nothing\n"},
		"none at all":      {&leak.Report{}, "no CLOSE_WAIT older than 10.0 s\n1 netns   lost nothing\n"},
		"unlimited":        {group(unlimited, bound, 3), "   fds 58,214, +3/min (by ages)\n"},
		"no growth":        {group(unlimited, bound, 0), "   fds 58,214, no growth (by ages)\n"},
		"at the limit":     {group(full, bound, 3), "   fds 200,000/65,536, EMFILE now, at +3/min (by ages)\n"},
		"enough for it":    {group(full, bound, 3), "prlimit --pid 4121 --nofile=400000: buys time (EMFILE now)\n"},
		"a bound, rounded": {group(unlimited, leak.Age{Min: 2999 * time.Millisecond, Max: time.Hour, Quality: leak.Bound}, 0), "oldest 2.90 s to 1h00m   side"},
		"of unknown age":   {group(unlimited, leak.Age{}, 0), "1 CLOSE_WAIT, oldest of unknown age   side"},
		"held by nobody":   {group(nil, bound, 0), "LEAK held by nobody that is known\n"},
	} {
		if got := leakText(t, c.report, LeakFoot{NetNS: 1, Lost: &event.Lost{}}); !strings.Contains(got, c.want) {
			t.Errorf("%s: got\n%s\nwant in it\n%s", name, got, c.want)
		}
	}
}

// What processes and containers call themselves must not command the terminal.
func TestLeakNamesAreHarmless(t *testing.T) {
	const evil = "a\x1b[2J\x07\r\nb\u009b31m\u202ec\xff"
	p := payment()
	p.Comm, p.Cmdline, p.User, p.Unit = evil, []string{evil, evil}, evil, evil
	p.Container = owner.Container{Runtime: evil, ID: strings.Repeat("0", 64), Name: evil, Pod: evil, Namespace: evil}
	other := &owner.Process{PID: 9, Start: 10 * time.Second, Comm: evil, User: evil, UID: 1}
	l := waiting(p, 7, exactly(time.Hour), leak.EOFRead)
	l.Holders, l.Inherited = append(l.Holders, owner.Holder{Process: other, FD: 8}), true
	r := &leak.Report{Groups: leak.GroupByProcess([]leak.Leak{l}, nil, 0), Parents: map[int]*owner.Process{1200: {PID: 1200, Comm: evil}}}
	got := leakText(t, r, LeakFoot{NetNS: 1})
	if strings.ContainsAny(got, "\x1b\x07\r\u009b\u202e") || !utf8.ValidString(got) || strings.Contains(got, "\nb") {
		t.Errorf("%q", got)
	}
	if n := strings.Count(got, "a?[2J"); n != 11 { // all of the above, but for the runtime; two are the command line
		t.Errorf("%d names in %q", n, got)
	}
}

func leakJSON(t *testing.T, r *leak.Report, foot LeakFoot) (doc map[string]any, raw string) {
	t.Helper()
	r.State, r.OlderThan = tcp.CloseWait, 10*time.Second
	var out bytes.Buffer
	if err := WriteLeaksJSON(&out, r, foot, noon); err != nil {
		t.Fatal(err)
	}
	if strings.Count(out.String(), "\n") != 1 || !strings.HasSuffix(out.String(), "\n") {
		t.Errorf("not one line: %q", out.String())
	}
	if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	return doc, out.String()
}

func TestLeakJSONUnknownIsNull(t *testing.T) {
	_, raw := leakJSON(t, &leak.Report{}, LeakFoot{NetNS: 1})
	const none = `{"time":"2026-11-22T12:00:00.123456789Z","state":"CLOSE_WAIT","older_than_ns":10000000000,"leaks":[],"younger":0,"ignored":0,"unclear_fds":0,` +
		`"netns_seen":1,"unreachable":0,"unreadable":0,"last_ack":0,"orphans":0,"max_orphans":null,"advice":[],"lost":null}` + "\n"
	if raw != none {
		t.Errorf("got  %swant %s", raw, none)
	}
	nobody := waiting(nil, 7, leak.Age{}, leak.Undecided)
	nobody.Side = event.SideUnknown
	doc, raw := leakJSON(t, &leak.Report{Groups: leak.GroupByProcess([]leak.Leak{nobody}, nil, 0)}, LeakFoot{Lost: &event.Lost{}})
	group := doc["leaks"].([]any)[0].(map[string]any)
	for _, key := range []string{"pid", "start_ns", "ppid", "comm", "cmdline", "uid", "user", "unit", "container", "oldest_ns", "oldest_min_ns", "oldest_max_ns", "fd_used", "fd_limit", "emfile_in_ns", "site"} {
		if v, ok := group[key]; !ok || v != nil {
			t.Errorf("%s is %v (there: %v), want null", key, v, ok)
		}
	}
	socket := group["sockets"].([]any)[0].(map[string]any)
	for _, key := range []string{"fd", "side", "age_ns", "age_min_ns", "age_max_ns", "backlog", "carrier_fd", "site_index"} {
		if v, ok := socket[key]; !ok || v != nil {
			t.Errorf("%s is %v (there: %v), want null", key, v, ok)
		}
	}
	for key, row := range map[string]map[string]any{"advice": group, "peers": group, "holders": socket} {
		if _, ok := row[key].([]any); !ok {
			t.Errorf("%s is %v, want a list: %s", key, row[key], raw)
		}
	}
}

func TestLeakJSON(t *testing.T) {
	r := everything()
	r.Groups[0].Process.FDLimit = math.MaxUint64
	doc, _ := leakJSON(t, r, LeakFoot{})
	group := doc["leaks"].([]any)[0].(map[string]any)
	for key, want := range map[string]any{"pid": 4121.0, "comm": "payment-api", "count": 3.0, "dead_fds": 1.0, "growth_per_min": 450.0, "growth_known": "sampled",
		"oldest_ns": 7680e9, "verdict": "eof_unread", "inherited": true, "pool_like": false, "fd_used": 58214.0, "fd_limit": nil, "unread_bytes": 1234.0} {
		if group[key] != want {
			t.Errorf("%s is %v, want %v", key, group[key], want)
		}
	}
	if c := group["container"].(map[string]any); c["name"] != "web-1" || c["pod"] != nil || c["namespace"] != nil {
		t.Errorf("container %v", c)
	}
	sockets := group["sockets"].([]any)
	bound, dead := sockets[1].(map[string]any), sockets[3].(map[string]any)
	if bound["age_ns"] != nil || bound["age_min_ns"] != 1999e6 || bound["age_quality"] != "bound" || len(bound["holders"].([]any)) != 2 {
		t.Errorf("bound %v", bound)
	}
	if dead["verdict"] != "dead_fd" || dead["fd"] != 46.0 || dead["local"] != nil || dead["cookie"] != nil || dead["netns"] != nil || dead["recv_q"] != nil {
		t.Errorf("dead %v", dead)
	}
}
