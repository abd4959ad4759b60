// SPDX-License-Identifier: Apache-2.0

package export

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"afterfin/internal/leak"
	"afterfin/internal/owner"
)

// MaxWorkloads is how many have a label value of their own; the rest share one.
const MaxWorkloads = 50

// What stands for the workloads beyond that, and for sockets that no known process holds.
const (
	otherWorkloads = "other"
	noWorkload     = "none"
)

// workload names what a process is part of, so that its name outlives it: the container if it
// is in one, else systemd's unit, else what the program calls itself.
func workload(p *owner.Process) string {
	if p == nil {
		return noWorkload
	}
	name := cmp.Or(p.Container.Name, short(p.Container.ID), p.Unit, p.Comm)
	if p.Container.Name != "" && p.Container.Namespace != "" {
		name = p.Container.Namespace + "/" + name
	}
	return strings.ToValidUTF8(name, "�") // as a label has to be
}

// short is the form of a container's id that people know.
func short(id string) string { return id[:min(12, len(id))] }

// workloadLeaks is what the processes of a workload leak.
type workloadLeaks struct {
	name         string
	verdicts     map[leak.Verdict]int
	oldest       time.Duration
	pooled, dead int
	ends         bool // one runs out of descriptors, after emfile
	emfile       time.Duration
}

func (w *workloadLeaks) add(g *leak.Group) {
	w.dead += len(g.Dead)
	if g.Pool {
		w.pooled += len(g.Leaks)
		return
	}
	for i := range g.Leaks {
		w.verdicts[g.Leaks[i].Verdict]++
		w.oldest = max(w.oldest, g.Leaks[i].Age.Min)
	}
	if in, ok := g.EMFILE(); ok && (!w.ends || in < w.emfile) {
		w.ends, w.emfile = true, in
	}
}

func (w *workloadLeaks) merge(o *workloadLeaks) {
	for v, n := range o.verdicts {
		w.verdicts[v] += n
	}
	w.oldest = max(w.oldest, o.oldest)
	w.pooled += o.pooled
	w.dead += o.dead
	if o.ends && (!w.ends || o.emfile < w.emfile) {
		w.ends, w.emfile = true, o.emfile
	}
}

// size is what they are ranked by.
func (w *workloadLeaks) size() int {
	n := w.pooled + w.dead
	for _, leaks := range w.verdicts {
		n += leaks
	}
	return n
}

// capped has the workloads with the most keep their names; the others are one.
func capped(by map[string]*workloadLeaks) []*workloadLeaks {
	all := make([]*workloadLeaks, 0, len(by))
	for _, w := range by {
		all = append(all, w)
	}
	slices.SortFunc(all, func(a, b *workloadLeaks) int {
		return cmp.Or(cmp.Compare(b.size(), a.size()), cmp.Compare(a.name, b.name))
	})
	if len(all) <= MaxWorkloads {
		return all
	}
	rest := &workloadLeaks{name: otherWorkloads, verdicts: make(map[leak.Verdict]int)}
	kept := all[:MaxWorkloads:MaxWorkloads]
	for _, w := range all[MaxWorkloads:] {
		rest.merge(w)
	}
	for i, w := range kept { // a program may be called so
		if w.name == otherWorkloads {
			w.merge(rest)
			kept[i] = w
			return kept
		}
	}
	return append(kept, rest)
}
