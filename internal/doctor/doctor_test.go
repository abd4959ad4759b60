// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"testing"
)

// Every check says what it gives, and what to do if it is not there.
func TestRun(t *testing.T) {
	for _, c := range Run() {
		if c.Name == "" || c.Found == "" || c.Gives == "" {
			t.Errorf("incomplete: %+v", c)
		}
		if !c.OK && c.Remedy == "" {
			t.Errorf("%s is missing and nothing says what to do", c.Name)
		}
		if c.OK && c.Remedy != "" {
			t.Errorf("%s is there and has a remedy", c.Name)
		}
	}
}

func TestFailed(t *testing.T) {
	ok := tried("fine", nil, Feature, "", "")
	optional := tried("optional", errors.New("no"), Optional, "", "")
	feature := tried("feature", errors.New("line\nverifier log"), Feature, "", "")
	if got := Failed([]Check{ok, optional}); got != nil {
		t.Errorf("%s counts as failed", got.Name)
	}
	got := Failed([]Check{ok, optional, feature})
	if got == nil || got.Name != "feature" || got.Found != "line" {
		t.Errorf("failed: %+v", got)
	}
}
