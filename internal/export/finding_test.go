// SPDX-License-Identifier: Apache-2.0

package export

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"afterfin/internal/event"
	"afterfin/internal/leak"
	"afterfin/internal/ports"
	"afterfin/internal/timewait"
)

// told are the findings in short.
func told(found []Finding) []string {
	var all []string
	for _, f := range found {
		switch f.Kind {
		case LeakFound:
			all = append(all, fmt.Sprintf("leak of %d", f.Group.Process.PID))
		case NoDescriptors:
			all = append(all, fmt.Sprintf("no descriptors for %d in %v", f.Group.Process.PID, f.In))
		case NoPorts:
			all = append(all, fmt.Sprintf("no ports from %v to %v in %d in %v", f.Source, f.Destination, f.NetNS, f.In))
		case Overflow:
			all = append(all, fmt.Sprintf("%d overflows in %d", f.Count, f.NetNS))
		}
	}
	return all
}

func look(change func(*Look)) *Look { return looked(change).Look }

func TestFindings(t *testing.T) {
	has := func(groups ...leak.Group) *Look { return look(func(l *Look) { l.Leaks.Groups = groups }) }
	ending := func(pid, left int) leak.Group {
		g := leaks(program(pid, "app"), leak.EOFRead, sec)
		g.Process.FDs, g.Process.FDLimit, g.Growth.PerMinute = 1000-left, 1000, 1
		return g
	}
	app, other := leaks(program(1, "app"), leak.EOFRead, sec), leaks(program(2, "app"), leak.EOFRead, sec)
	again := leaks(program(1, "app"), leak.EOFRead, sec) // the pid is another process's
	again.Process.Start = time.Hour
	filled := func(remote string, used int) *Look {
		return look(func(l *Look) {
			d := destination("10.0.0.1", remote, 1000, used)
			d.Flow = ports.Flow{Calls: event.Calls{Connects: 1000, TimeWaits: 1000}, While: 10 * sec}
			l.Ports = []*ports.Space{{NetNS: 5, Destinations: []*ports.Destination{d}}}
		})
	}
	through := func(bind ...bool) *Look { // one full destination each
		return look(func(l *Look) {
			l.Ports = []*ports.Space{{NetNS: 5}}
			for _, bound := range bind {
				d := destination("10.0.0.1", "10.0.0.2:80", 10, 10)
				d.Bound = bound
				l.Ports[0].Destinations = append(l.Ports[0].Destinations, d)
			}
		})
	}
	overflowed := func(of5, of6 int64) *Look {
		return look(func(l *Look) {
			l.TimeWait.Spaces = []timewait.Space{{NetNS: 5, Overflows: of5}, {NetNS: 6, Overflows: of6}}
		})
	}
	const full = "no ports from 10.0.0.1 to 10.0.0.2:80 in 5 in 1s"
	for name, c := range map[string]struct {
		looks []*Look
		want  [][]string
	}{
		"nothing":              {[]*Look{has(), has()}, [][]string{nil, nil}},
		"once":                 {[]*Look{has(app), has(app), has(app)}, [][]string{{"leak of 1"}, nil, nil}},
		"again after an end":   {[]*Look{has(app), has(), has(app), has(app)}, [][]string{{"leak of 1"}, nil, {"leak of 1"}, nil}},
		"a second one":         {[]*Look{has(app), has(app, other)}, [][]string{{"leak of 1"}, {"leak of 2"}}},
		"the pid's next owner": {[]*Look{has(app), has(again)}, [][]string{{"leak of 1"}, {"leak of 1"}}},
		"a pool":               {[]*Look{has(pool(program(1, "app"), 3))}, [][]string{nil}},
		"a pool becomes a leak": {[]*Look{has(pool(program(1, "app"), 3)), has(app)},
			[][]string{nil, {"leak of 1"}}},
		"nobody's":            {[]*Look{has(leaks(nil, leak.NoFD, sec))}, [][]string{nil}},
		"an end within 1 h":   {[]*Look{has(ending(1, 59)), has(ending(1, 58))}, [][]string{{"leak of 1", "no descriptors for 1 in 59m0s"}, nil}},
		"an end later":        {[]*Look{has(ending(1, 60))}, [][]string{{"leak of 1"}}},
		"an end comes near":   {[]*Look{has(ending(1, 90)), has(ending(1, 10))}, [][]string{{"leak of 1"}, {"no descriptors for 1 in 10m0s"}}},
		"goes away, and back": {[]*Look{has(ending(1, 9)), has(app), has(ending(1, 9))}, [][]string{{"leak of 1", "no descriptors for 1 in 9m0s"}, nil, {"no descriptors for 1 in 9m0s"}}},
		"no ports":            {[]*Look{filled("10.0.0.2:80", 900), filled("10.0.0.2:80", 900)}, [][]string{{full}, nil}},
		"no ports, another":   {[]*Look{filled("10.0.0.2:80", 900), filled("10.0.0.3:80", 900)}, [][]string{{full}, {"no ports from 10.0.0.1 to 10.0.0.3:80 in 5 in 1s"}}},
		"ports that last": {[]*Look{filled("10.0.0.2:80", 1), look(func(l *Look) {
			l.Ports = []*ports.Space{{Destinations: []*ports.Destination{destination("10.0.0.1", "10.0.0.2:80", 100, 99)}}}
		})}, [][]string{{"no ports from 10.0.0.1 to 10.0.0.2:80 in 5 in 9.99s"}, nil}},
		"by bind(), then by connect() too": {[]*Look{through(true), through(true, false)}, [][]string{
			{"no ports from 10.0.0.1 to 10.0.0.2:80 in 5 in 0s"}, {"no ports from 10.0.0.1 to 10.0.0.2:80 in 5 in 0s"}}},
		"overflow before the first look": {[]*Look{overflowed(7, 0)}, [][]string{nil}},
		"overflow": {[]*Look{overflowed(7, 0), overflowed(9, 0), overflowed(9, 4), overflowed(9, 4)},
			[][]string{nil, {"2 overflows in 5"}, {"4 overflows in 6"}, nil}},
		"each time anew":               {[]*Look{overflowed(0, 0), overflowed(1, 0), overflowed(3, 0)}, [][]string{nil, {"1 overflows in 5"}, {"2 overflows in 5"}}},
		"not known, then known":        {[]*Look{overflowed(-1, 0), overflowed(9, 0)}, [][]string{nil, nil}},
		"known, then not":              {[]*Look{overflowed(9, 0), overflowed(-1, 0)}, [][]string{nil, nil}},
		"a netns with the same number": {[]*Look{overflowed(9, 0), overflowed(2, 0)}, [][]string{nil, nil}},
	} {
		var f Findings
		for i, l := range c.looks {
			l.At = time.Unix(int64(i), 0)
			found := f.Take(l)
			if got := told(found); !slices.Equal(got, c.want[i]) {
				t.Errorf("%s: look %d: %q, want %q", name, i, got, c.want[i])
			}
			for _, what := range found {
				if what.At != l.At {
					t.Errorf("%s: look %d: at %v", name, i, what.At)
				}
			}
		}
	}
}

func TestKinds(t *testing.T) {
	for k, want := range map[Kind]string{LeakFound: "afterfin.leak", NoDescriptors: "afterfin.forecast.descriptors",
		NoPorts: "afterfin.forecast.ports", Overflow: "afterfin.overflow"} {
		if k.String() != want {
			t.Errorf("%d is %s, want %s", k, k, want)
		}
	}
}
