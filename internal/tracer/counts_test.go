// SPDX-License-Identifier: Apache-2.0

package tracer

import (
	"encoding/binary"
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"

	"afterfin/bpf"
	"afterfin/internal/event"
)

// The values of the maps are read as they are: member by member, in the same place. Go's own
// names are given by the C names without underscores.
func TestCountsLayout(t *testing.T) {
	for name, value := range map[string]any{
		"af_tally": event.Tally{}, "af_histogram": rawHistogram{}, "af_maker": rawMaker{}, "af_peer": rawPeer{}, "af_ranked": rawRanked{},
		"af_caller": rawCaller{}, "af_calls": rawCalls{},
	} {
		size, at := members(t, name)
		if int(size) != binary.Size(value) {
			t.Errorf("%s has %d bytes, Go reads %d", name, size, binary.Size(value))
		}
		typ := reflect.TypeOf(value)
		if typ.NumField() != len(at) {
			t.Errorf("%s has %d members, Go %d", name, len(at), typ.NumField())
		}
		for c, place := range at {
			plain := strings.ReplaceAll(strings.TrimSuffix(c, "_ns"), "_", "")
			f, ok := typ.FieldByNameFunc(func(g string) bool { return strings.EqualFold(g, plain) })
			if !ok || uint32(f.Offset) != place[0] || uint32(f.Type.Size()) != place[1] {
				t.Errorf("%s.%s is at %v, Go has %+v", name, c, place, f)
			}
		}
	}
}

func TestTimerLayout(t *testing.T) {
	size, at := members(t, "af_timer")
	raw := make([]byte, size)
	for name, n := range map[string]uint64{"kind": 5, "substate": 5, "cookie": 7, "expires": 8, "jiffies": 9, "mono_ns": 10} {
		put(raw, at[name], n)
	}
	want := event.MiniTimer{Halfway: true, Cookie: 7, Expires: 8, Jiffies: 9, Mono: 10}
	if got, err := event.DecodeTimer(raw); err != nil || got != want || len(at) != 6 {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	if _, err := event.DecodeTimer(raw[1:]); err == nil {
		t.Error("too short")
	}
}

// How many of each there are, in C and in Go.
func TestCountsSizes(t *testing.T) {
	spec, err := bpf.LoadAfterfin()
	if err != nil {
		t.Fatal(err)
	}
	var e *btf.Enum
	if err := spec.Types.TypeByName("af_measure", &e); err != nil {
		t.Fatal(err)
	}
	want := map[string]event.Measure{
		"AF_EXPIRED_EXACT": event.ExpiredExact, "AF_EXPIRED_BOUND": event.ExpiredBound, "AF_CUT_EXACT": event.CutExact,
		"AF_CUT_BOUND": event.CutBound, "AF_LIVES": event.Lives, "AF_EXCHANGES": event.Exchanges, "AF_MEASURES": event.Measures,
	}
	for _, v := range e.Values {
		if got, ok := want[v.Name]; !ok || uint64(got) != v.Value {
			t.Errorf("%s = %d, Go has %d (known: %v)", v.Name, v.Value, got, ok)
		}
	}
	if len(e.Values) != len(want) {
		t.Errorf("%d measures", len(e.Values))
	}
}
