// SPDX-License-Identifier: Apache-2.0

package event

import "testing"

func TestSlotFloor(t *testing.T) {
	for slot, want := range map[int]uint64{
		0: 0, 1: 1, 127: 127, 128: 128, 255: 255, 256: 256, 257: 258, 383: 510, 384: 512, 385: 516, Slots - 1: 1<<36 - 1<<28,
	} {
		if got := SlotFloor(slot); got != want {
			t.Errorf("slot %d begins at %d, want %d", slot, got, want)
		}
	}
	for slot := range Slots - 1 {
		low, high := SlotFloor(slot), SlotFloor(slot+1)
		if high <= low || low >= 256 && float64(high-low)/float64(low) > 0.0079 {
			t.Fatalf("slot %d is from %d to %d", slot, low, high)
		}
	}
}

func TestTallyAdd(t *testing.T) {
	a := Tally{Restarted: 1, Restarts: 2, RestartsUnknown: 3, MakersLeftOut: 4, PeersLeftOut: 5}
	a.Entered[SideAccept], a.Ended[CauseReset], a.HalfwayEnded[CauseExpired] = 6, 7, 8
	sum := a
	sum.Add(&a)
	if sum.Restarted != 2 || sum.Restarts != 4 || sum.RestartsUnknown != 6 || sum.MakersLeftOut != 8 || sum.PeersLeftOut != 10 ||
		sum.Entered[SideAccept] != 12 || sum.Ended[CauseReset] != 14 || sum.HalfwayEnded[CauseExpired] != 16 {
		t.Errorf("%+v", sum)
	}
}

// Since takes away what Add added, and what has less of anything is no later one.
func TestTallySinceAndFollows(t *testing.T) {
	count := func(n uint64) map[string]Tally {
		all := make(map[string]Tally)
		for name, set := range map[string]func(*Tally){
			"entered": func(t *Tally) { t.Entered[SideAccept] = n }, "ended": func(t *Tally) { t.Ended[CauseNoPort] = n },
			"halfway ended": func(t *Tally) { t.HalfwayEnded[CauseExpired] = n }, "restarted": func(t *Tally) { t.Restarted = n },
			"restarts": func(t *Tally) { t.Restarts = n }, "restarts unknown": func(t *Tally) { t.RestartsUnknown = n },
			"makers": func(t *Tally) { t.MakersLeftOut = n }, "peers": func(t *Tally) { t.PeersLeftOut = n },
		} {
			one := Tally{}
			set(&one)
			all[name] = one
		}
		return all
	}
	before, after, more := count(3), count(5), count(2)
	for name, a := range before {
		b := after[name]
		if d := b.Since(&a); d != more[name] {
			t.Errorf("%s: %+v", name, d)
		}
		if !b.Follows(&a) || !a.Follows(&a) || a.Follows(&b) {
			t.Errorf("%s: 5 follows 3: %v, 3 follows 3: %v, 3 follows 5: %v", name, b.Follows(&a), a.Follows(&a), a.Follows(&b))
		}
	}
}
