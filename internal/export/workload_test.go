// SPDX-License-Identifier: Apache-2.0

package export

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"afterfin/internal/leak"
	"afterfin/internal/owner"
)

// leaks is what a process has left in CLOSE_WAIT, for so long each.
func leaks(p *owner.Process, v leak.Verdict, ages ...time.Duration) leak.Group {
	g := leak.Group{Process: p}
	for _, age := range ages {
		g.Leaks = append(g.Leaks, leak.Leak{Verdict: v, Age: leak.Age{Min: age, Max: age + sec, Quality: leak.Bound}})
	}
	return g
}

func pool(p *owner.Process, n int) leak.Group {
	g := leaks(p, leak.TLSCloseUnread, make([]time.Duration, n)...)
	g.Pool = true
	return g
}

func program(pid int, comm string) *owner.Process { return &owner.Process{PID: pid, Comm: comm} }

func of(groups ...leak.Group) *Snapshot {
	return looked(func(l *Look) { l.Leaks.Groups = groups })
}

func TestWorkload(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for want, p := range map[string]*owner.Process{
		"none":          nil,
		"web":           {Comm: "web"},
		"web.service":   {Comm: "web", Unit: "web.service"},
		"0123456789ab":  {Comm: "web", Unit: "web.scope", Container: owner.Container{ID: id}},
		"short":         {Comm: "web", Container: owner.Container{ID: "short"}},
		"front":         {Comm: "web", Container: owner.Container{ID: id, Name: "front"}},
		"shop/front":    {Comm: "web", Unit: "web.scope", Container: owner.Container{ID: id, Name: "front", Pod: "front-6c", Namespace: "shop"}},
		"a\uFFFDb":      {Comm: "a\xff\xfeb"},
		"shop/\uFFFDok": {Container: owner.Container{Name: "\xc3ok", Namespace: "shop"}},
	} {
		if got := workload(p); got != want {
			t.Errorf("%+v is %q, want %q", p, got, want)
		}
	}
}

// However many leak, the series have an end, and no leak is left out of the sum.
func TestThousandWorkloads(t *testing.T) {
	var groups []leak.Group
	sum := 0.0
	for i := range 1000 {
		ages := make([]time.Duration, i%60+1)
		for j := range ages {
			ages[j] = time.Duration(i+1) * time.Minute
		}
		g := leaks(program(i+1, fmt.Sprintf("app%d", i)), leak.EOFRead, ages...)
		g.Dead = make([]leak.Dead, i%3)
		sum += float64(len(ages))
		groups = append(groups, g, pool(program(i+2000, fmt.Sprintf("app%d", i)), 2))
	}
	groups = append(groups, leaks(program(5000, "app999"), leak.EOFUnread, 5*sec))
	got := gathered(t, of(groups...), Options{})
	names := make(map[string]bool)
	for _, name := range []string{"leaked_sockets", "pool_like_sockets", "dead_fds", "leaked_socket_age_seconds"} {
		for _, m := range got[name].Metric {
			for _, l := range m.Label {
				if l.GetName() == "workload" {
					names[l.GetValue()] = true
				}
			}
		}
	}
	if len(names) != MaxWorkloads+1 || !names["other"] {
		t.Errorf("%d workloads: %v", len(names), names)
	}
	for name, want := range map[string]float64{"leaked_sockets": sum + 1, "pool_like_sockets": 2000, "dead_fds": 999} {
		all := 0.0
		for _, v := range values(got[name]) {
			all += v
		}
		if all != want {
			t.Errorf("%s: %v in all, want %v", name, all, want)
		}
	}
	// Those with the most keep their names: with 60 sockets, 2 of a pool and 2 dead ones first.
	leaked := values(got["leaked_sockets"])
	if leaked["eof_read,app59"] != 60 || leaked["eof_read,app0"] != 0 {
		t.Errorf("%v", leaked)
	}
	if age := values(got["leaked_socket_age_seconds"]); age["other"] != 1000*60 || age["app59"] != 60*60 {
		t.Errorf("ages %v", age)
	}
	if leaked["eof_unread,other"] != 1 {
		t.Errorf("the rest is %v", leaked)
	}
}

// At the limit each keeps its name.
func TestAsManyAsMay(t *testing.T) {
	var groups []leak.Group
	for i := range MaxWorkloads {
		groups = append(groups, leaks(program(i+1, fmt.Sprintf("app%d", i)), leak.EOFRead, sec))
	}
	got := values(gathered(t, of(groups...), Options{})["leaked_sockets"])
	if _, there := got["eof_read,other"]; there || len(got) != MaxWorkloads {
		t.Errorf("%v", got)
	}
}

// A program may be called like what stands for the rest: two series of one name would break the
// scrape.
func TestProgramCalledOther(t *testing.T) {
	for name, own := range map[string]int{"among the first": 9, "among the rest": 1} {
		groups := []leak.Group{leaks(program(1, "other"), leak.EOFRead, make([]time.Duration, own)...), leaks(program(2, "none"), leak.EOFRead, sec), leaks(nil, leak.EOFRead, sec)}
		for i := range MaxWorkloads + 10 {
			groups = append(groups, leaks(program(10+i, fmt.Sprintf("app%02d", i)), leak.EOFRead, sec, sec))
		}
		got := values(gathered(t, of(groups...), Options{})["leaked_sockets"])
		sum := 0.0
		for _, v := range got {
			sum += v
		}
		if want := float64(own + 2 + 2*(MaxWorkloads+10)); sum != want || len(got) > MaxWorkloads+1 || got["eof_read,other"] <= float64(own) {
			t.Errorf("%s: %v of %v, %v of them other", name, sum, want, got["eof_read,other"])
		}
	}
}

// Two names that differ only in what no label may have are one.
func TestNamesThatAreNoText(t *testing.T) {
	got := values(gathered(t, of(leaks(program(1, "a\xff"), leak.EOFRead, sec), leaks(program(2, "a\xfe"), leak.EOFRead, sec)), Options{})["leaked_sockets"])
	if len(got) != 1 || got["eof_read,a\uFFFD"] != 2 {
		t.Errorf("%v", got)
	}
	for name := range got {
		if !utf8.ValidString(name) {
			t.Errorf("%q", name)
		}
	}
}

func TestWhatIsTold(t *testing.T) {
	grows := func(g leak.Group, perMinute float64, fds int) leak.Group {
		p := *g.Process
		p.FDs, p.FDLimit = fds, 1024
		g.Process, g.Growth.PerMinute = &p, perMinute
		return g
	}
	dead := leak.Group{Process: program(1, "app"), Dead: make([]leak.Dead, 3)}
	app, two := leaks(program(1, "app"), leak.EOFRead, 60*sec), leaks(program(2, "app"), leak.DataUnread, 90*sec, 30*sec)
	unknown := leak.Group{Process: program(1, "app"), Leaks: []leak.Leak{{Verdict: leak.EOFRead}}}
	for name, c := range map[string]struct {
		groups                            []leak.Group
		leaked, oldest, pool, dead, ended map[string]float64
	}{
		"nothing": {},
		"a pool":  {groups: []leak.Group{pool(program(1, "app"), 4)}, pool: map[string]float64{"app": 4}},
		"two processes": {[]leak.Group{app, two}, map[string]float64{"eof_read,app": 1, "data_unread,app": 2},
			map[string]float64{"app": 90}, nil, nil, nil},
		"a pool and a leak": {[]leak.Group{app, pool(program(2, "app"), 4)}, map[string]float64{"eof_read,app": 1},
			map[string]float64{"app": 60}, map[string]float64{"app": 4}, nil, nil},
		"dead descriptors alone": {groups: []leak.Group{dead}, dead: map[string]float64{"app": 3}},
		"nobody's": {groups: []leak.Group{leaks(nil, leak.NoFD, 7*sec)}, leaked: map[string]float64{"no_fd,none": 1},
			oldest: map[string]float64{"none": 7}},
		"age not known": {groups: []leak.Group{unknown}, leaked: map[string]float64{"eof_read,app": 1}, oldest: map[string]float64{"app": 0}},
		"the first one counts": {[]leak.Group{grows(app, 1, 924), grows(two, 10, 924)}, map[string]float64{"eof_read,app": 1, "data_unread,app": 2},
			map[string]float64{"app": 90}, nil, nil, map[string]float64{"app": 600}},
		"the first one counts, the other way": {[]leak.Group{grows(two, 10, 924), grows(app, 1, 924)}, map[string]float64{"eof_read,app": 1, "data_unread,app": 2},
			map[string]float64{"app": 90}, nil, nil, map[string]float64{"app": 600}},
		"shrinks": {[]leak.Group{grows(app, -3, 924)}, map[string]float64{"eof_read,app": 1}, map[string]float64{"app": 60}, nil, nil, nil},
		"at its end": {[]leak.Group{grows(app, 1, 1024)}, map[string]float64{"eof_read,app": 1}, map[string]float64{"app": 60}, nil, nil,
			map[string]float64{"app": 0}},
	} {
		got := gathered(t, of(c.groups...), Options{})
		for metric, want := range map[string]map[string]float64{"leaked_sockets": c.leaked, "leaked_socket_age_seconds": c.oldest,
			"pool_like_sockets": c.pool, "dead_fds": c.dead, "emfile_seconds": c.ended} {
			if v := values(got[metric]); !equal(v, want) {
				t.Errorf("%s: %s is %v, want %v", name, metric, v, want)
			}
		}
	}
}

// The end that comes first is told of the rest too.
func TestEndOfTheRest(t *testing.T) {
	var groups []leak.Group
	for i := range MaxWorkloads + 3 {
		g := leaks(program(i+1, fmt.Sprintf("app%02d", i)), leak.EOFRead, sec)
		if left := map[int]int{MaxWorkloads: 0, MaxWorkloads + 1: 20, MaxWorkloads + 2: 50}[i]; left > 0 {
			g.Process.FDs, g.Process.FDLimit, g.Growth.PerMinute = 100-left, 100, 1
		}
		groups = append(groups, g)
	}
	if got := values(gathered(t, of(groups...), Options{})["emfile_seconds"]); !equal(got, map[string]float64{"other": 20 * 60}) {
		t.Errorf("%v", got)
	}
}
