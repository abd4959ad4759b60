// SPDX-License-Identifier: Apache-2.0

package feed

import (
	"testing"
	"time"
)

func TestBudget(t *testing.T) {
	var b budget
	now := time.Unix(1_800_000_000, 0)
	if !b.allows(now) {
		t.Fatal("the first walk is not allowed")
	}
	// Flat out: a walk of 10 ms whenever one is allowed, asked every 50 ms.
	const walk, poll, polls = 10 * time.Millisecond, 50 * time.Millisecond, 6000
	var spent time.Duration
	for range polls {
		now = now.Add(poll)
		if b.allows(now) {
			b.spent(walk)
			spent += walk
		}
	}
	if limit := polls*poll/share + maxCredit + walk; spent > limit || spent < polls*poll/share {
		t.Errorf("walks took %v of %v, want at least a hundredth and at most %v", spent, polls*poll, limit)
	}
}
