// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"strings"
	"testing"

	"afterfin/internal/tracer"
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

func TestTimeWait(t *testing.T) {
	for name, h := range map[string]tracer.Hook{
		"fentry": {Program: "fentry/inet_twsk_kill"},
		"timers": {Program: "tp_btf/timer_start", Why: "fentry: operation not permitted"},
		"none":   {Why: "fentry: load: permission denied\nverifier log"},
	} {
		c := timeWait(h)
		if c.OK != (h.Program != "") || c.OK == (c.Remedy != "") || c.Need != Optional {
			t.Errorf("%s: %+v", name, c)
		}
		if !strings.HasPrefix(c.Found, h.Program) || strings.Contains(c.Found, "\n") {
			t.Errorf("%s: found %q", name, c.Found)
		}
	}
}
