// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"afterfin/internal/lab"
)

// document is what leaks -o json writes, read as a script would.
type document struct {
	Leaks []struct {
		PID       int
		Start     int64 `json:"start_ns"`
		PPID      int
		Comm      string
		Count     int
		DeadFDs   int `json:"dead_fds"`
		Verdict   string
		Inherited bool
		Sockets   []socket
	}
	Younger, Ignored, Unreachable int
	UnclearFDs                    int `json:"unclear_fds"`
	NetNS                         int `json:"netns_seen"`
}

// socket is one of its sockets. All that is compared is exact.
type socket struct {
	FD        int
	Holders   []holder
	NetNS     uint32
	Local     string
	Remote    string
	Side      *string
	RecvQ     uint32 `json:"recv_q"`
	AgeMin    int64  `json:"age_min_ns"`
	AgeMax    int64  `json:"age_max_ns"`
	Verdict   string
	Inferred  bool
	Inherited bool
}

type holder struct {
	PID  int
	Comm string
	FD   int
	Ring bool `json:"io_uring"`
}

// leaks runs afterfin leaks on one netns, for sockets of any age.
func leaks(t *testing.T, ns *lab.NetNS, args ...string) (stdout []byte, cpu time.Duration) {
	t.Helper()
	cmd := exec.Command(filepath.Join(built, "afterfin"), append([]string{"leaks", "--netns", ns.Path(), "--older-than", "0s"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%v: %v: %s", cmd, err, &stderr)
	}
	return stdout, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}

// read gives the document, which must have seen all of the netns.
func read(t *testing.T, ns *lab.NetNS) (d document, cpu time.Duration) {
	t.Helper()
	raw, cpu := leaks(t, ns, "-o", "json")
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	if d.NetNS != 1 || d.Younger+d.Ignored+d.Unreachable+d.UnclearFDs != 0 {
		t.Errorf("not all was seen: %s", raw)
	}
	return d, cpu
}

// expect wants exactly what programs say that they hold, put down to the oldest of the
// processes that hold it. remote and side are the same for all.
type expect struct {
	remote    string
	side      string // "": null, since nothing in one look tells who connected
	inherited bool
	recvQ     map[string]uint32 // by verdict; others are not compared
}

// unread is what the verdicts rest on: the FIN counts as one.
var unread = map[string]uint32{"eof_unread": 1, "eof_read": 0, "data_unread": 101}

func (e expect) check(t *testing.T, ns *lab.NetNS, all []held) {
	t.Helper()
	d, _ := read(t, ns)
	text, _ := leaks(t, ns)
	want := e.sockets(t, ns, all)
	for _, l := range d.Leaks {
		p := processOf(t, l.PID)
		if l.Start != p.startNS || l.Comm != p.comm || l.PPID != p.ppid {
			t.Errorf("%s[%d] of %d, started %d; want %+v", l.Comm, l.PID, l.PPID, l.Start, p)
		}
		if named := fmt.Sprintf("LEAK %s pid %d ", p.comm, l.PID); !strings.Contains(string(text), named) {
			t.Errorf("no %q in\n%s", named, text)
		}
		mine := want[l.PID]
		delete(want, l.PID)
		if l.Count != len(mine) || l.Count != len(l.Sockets) || l.DeadFDs != 0 || l.Inherited != e.inherited {
			t.Errorf("pid %d: %+v; want %d sockets", l.PID, l, len(mine))
		}
		for i := range l.Sockets {
			s := &l.Sockets[i]
			wanted, ok := mine[s.Local]
			if !ok {
				t.Errorf("pid %d: not one of its sockets: %+v", l.PID, s)
				continue
			}
			if q, ok := e.recvQ[s.Verdict]; ok && s.RecvQ != q {
				t.Errorf("pid %d: %d bytes are unread, want %d: %+v", l.PID, s.RecvQ, q, s)
			}
			s.RecvQ, s.AgeMin, s.AgeMax = 0, 0, 0
			if !reflect.DeepEqual(*s, wanted) {
				t.Errorf("pid %d:\n got %s\nwant %s", l.PID, asJSON(*s), asJSON(wanted))
			}
			delete(mine, s.Local)
		}
		for _, missing := range mine {
			t.Errorf("pid %d: missing: %s", l.PID, asJSON(missing))
		}
	}
	if len(want) > 0 {
		t.Errorf("not named: %v", slices.Collect(maps.Keys(want)))
	}
	if t.Failed() {
		t.Logf("%s", text)
	}
}

func asJSON(v any) string {
	raw, _ := json.Marshal(v)
	return string(raw)
}

// sockets are those that must be there, by the process that they are put down to and
// their own address.
func (e expect) sockets(t *testing.T, ns *lab.NetNS, all []held) map[int]map[string]socket {
	t.Helper()
	known := make(map[int]process)
	byAddress := make(map[string]*socket)
	for _, h := range all {
		if _, ok := known[h.pid]; !ok {
			known[h.pid] = processOf(t, h.pid)
		}
		s := byAddress[h.local]
		if s == nil {
			s = &socket{NetNS: ns.Inode(), Local: h.local, Remote: e.remote, Verdict: h.verdict,
				Inferred: h.verdict == "tls_close_unread", Inherited: e.inherited}
			if e.side != "" {
				s.Side = &e.side
			}
			byAddress[h.local] = s
		}
		s.Holders = append(s.Holders, holder{PID: h.pid, Comm: known[h.pid].comm, FD: h.fd})
	}
	byProcess := make(map[int]map[string]socket)
	for _, s := range byAddress {
		// A parent is older than its child; within one tick of time its number is smaller.
		slices.SortFunc(s.Holders, func(a, b holder) int {
			if a.PID != b.PID {
				return a.PID - b.PID
			}
			return a.FD - b.FD
		})
		first := s.Holders[0]
		s.FD = first.FD
		if byProcess[first.PID] == nil {
			byProcess[first.PID] = make(map[string]socket)
		}
		byProcess[first.PID][s.Local] = *s
	}
	return byProcess
}
