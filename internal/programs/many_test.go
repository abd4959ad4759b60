// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"afterfin/internal/lab"
)

// place is one descriptor of a socket in CLOSE_WAIT.
type place struct {
	pid, fd       int
	local, remote string
}

// 20,000 in 50 processes: afterfin and ss name the same descriptors of the same
// processes for the same connections, none more and none less, and they are those
// that the programs say.
func TestMany(t *testing.T) {
	const processes, each = 50, 400
	ns := newNetNS(t)
	port := closer(t, ns)
	var hoards []*program
	for range processes {
		hoards = append(hoards, start(t, ns, filepath.Join(built, "leaky-c"), port, strconv.Itoa(each)))
	}
	want := make(map[place]bool, processes*each)
	for i, h := range hoards {
		all := h.holds(1)
		if len(all) != each {
			t.Fatalf("process %d of %d holds %d, want %d", i, processes, len(all), each)
		}
		for n, s := range all {
			// The addresses go round in the order in which the program connects.
			want[place{s.pid, s.fd, s.local, "127.0.1." + strconv.Itoa(n%200+1) + ":" + port}] = true
		}
	}
	d, cpu := read(t, ns)
	got := make(map[place]bool, len(want))
	for _, l := range d.Leaks {
		if l.Count != each || l.Verdict != "eof_unread" {
			t.Errorf("pid %d: %d, %s", l.PID, l.Count, l.Verdict)
		}
		for _, s := range l.Sockets {
			if s.Verdict != "eof_unread" || s.RecvQ != 1 || len(s.Holders) != 1 || s.Holders[0].PID != l.PID || s.Holders[0].FD != s.FD {
				t.Errorf("pid %d: %+v", l.PID, s)
			}
			got[place{l.PID, s.FD, s.Local, s.Remote}] = true
		}
	}
	if len(d.Leaks) != processes {
		t.Errorf("%d processes, want %d", len(d.Leaks), processes)
	}
	same(t, "afterfin", got, want)
	ss, ssCPU := askSS(t, ns)
	same(t, "ss", ss, want)
	t.Logf("CPU for %d sockets: afterfin leaks %v, ss -tanp %v", len(want), cpu, ssCPU)
}

func same(t *testing.T, who string, got, want map[place]bool) {
	t.Helper()
	missing, surplus := 0, 0
	for p := range want {
		if !got[p] {
			if missing++; missing <= 3 {
				t.Errorf("%s lacks %+v", who, p)
			}
		}
	}
	for p := range got {
		if !want[p] {
			if surplus++; surplus <= 3 {
				t.Errorf("%s has %+v", who, p)
			}
		}
	}
	if missing+surplus > 0 {
		t.Errorf("%s: %d of %d missing, %d that are not there", who, missing, len(want), surplus)
	}
}

var ssUser = regexp.MustCompile(`pid=(\d+),fd=(\d+)`)

func askSS(t *testing.T, ns *lab.NetNS) (found map[place]bool, cpu time.Duration) {
	t.Helper()
	cmd := exec.Command(installed["ss"], "-tanpH", "state", "close-wait")
	var out []byte
	err := ns.Do(func() (err error) { out, err = cmd.Output(); return err })
	if err != nil {
		t.Fatalf("%v: %v", cmd, err)
	}
	found = make(map[place]bool)
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line) // Recv-Q, Send-Q, local, remote, users
		if len(fields) != 5 {
			t.Fatalf("ss says %q", line)
		}
		for _, user := range ssUser.FindAllStringSubmatch(fields[4], -1) {
			pid, _ := strconv.Atoi(user[1])
			fd, _ := strconv.Atoi(user[2])
			found[place{pid, fd, fields[2], fields[3]}] = true
		}
	}
	return found, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}
