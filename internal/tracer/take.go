// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"afterfin/internal/event"
)

// TakeRanked gives who was counted since the last call, and empties the maps, so that one who
// goes on for long has room for those who come later. What another CPU counts in the
// moment between its reading and its deletion is lost. Only with Config.Ports.
func (t *Tracer) TakeRanked() (r event.Ranked, err error) {
	err = errors.Join(
		take(t.coll.Maps["makers"], func(k *rawMaker, v *rawRanked) { r.Makers = append(r.Makers, maker(k, v)) }),
		take(t.coll.Maps["peers"], func(k *rawPeer, v *rawRanked) { r.Peers = append(r.Peers, peer(k, v)) }),
		take(t.coll.Maps["callers"], func(k *rawCaller, v *rawCalls) { r.Callers = append(r.Callers, caller(k, v)) }),
	)
	return r, err
}

// takeBatch must be more than any bucket of the kernel's hash tables has.
const takeBatch = 4096

func take[K, V any](m *ebpf.Map, fn func(*K, *V)) error {
	keys, values := make([]K, takeBatch), make([]V, takeBatch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookupAndDelete(&cursor, keys, values, nil)
		if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("take what was counted: %w", err)
		}
		for i := range n {
			fn(&keys[i], &values[i])
		}
		if err != nil { // that was all
			return nil
		}
	}
}

// TakeTally gives what was counted in a netns, and deletes it: for one that is gone, whose
// inode number the kernel may give to another.
func (t *Tracer) TakeTally(netns uint32) (event.Tally, error) {
	var perCPU []event.Tally
	var sum event.Tally
	tallies := t.coll.Maps["tallies"]
	if err := tallies.Lookup(netns, &perCPU); err != nil {
		return sum, fmt.Errorf("take the tally of a netns: %w", err)
	}
	if err := tallies.Delete(netns); err != nil {
		return sum, fmt.Errorf("take the tally of a netns: %w", err)
	}
	for i := range perCPU {
		sum.Add(&perCPU[i])
	}
	return sum, nil
}

// Limit is how many entries a map has room for; 0: there is no such map.
func (t *Tracer) Limit(name string) int {
	m := t.coll.Maps[name]
	if m == nil {
		return 0
	}
	return int(m.MaxEntries())
}
