// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"afterfin/vmtest/guest"
)

// A kernel that dies before our init runs is started once more, and that is said. One that
// dies later, or again, fails.
func TestOnceMore(t *testing.T) {
	const panics = "echo '[ 1.0] Kernel panic - not syncing: x'; exit"
	start := "printf '%s\\n' '" + guest.Line{Kind: guest.Init, At: time.Second}.String() + "'\n"
	done := start + "printf '%s\\n' '" + guest.Line{Kind: guest.Done, At: 2 * time.Second, Text: "0"}.String() + "'\n"
	for name, c := range map[string]struct {
		script string // $again is set the second time
		again  bool
		want   error
	}{
		"once":            {"[ $again ] || { " + panics + "; }\n" + done, true, nil},
		"twice":           {panics, true, errPanicked},
		"in a test":       {start + panics, false, errPanicked},
		"in a test later": {"[ $again ] || { " + panics + "; }\n" + start + panics, true, errPanicked},
		"goes away":       {"exit", false, errLost},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			s := &session{stdout: &out, stderr: &out, logs: t.TempDir()}
			fakeQEMU(t, "again=; [ -e "+s.logs+"/once ] && again=1; touch "+s.logs+"/once\n"+c.script)
			s.runOne(context.Background(), &job{kernel: &kernel{name: "k", arch: "amd64"}, lane: &lane{name: "l", cpus: 1, boot: 5 * time.Second, limit: 5 * time.Second}})
			if len(s.rows) != 1 || !errors.Is(s.rows[0].err, c.want) {
				t.Errorf("got %+v, want %v\n%s", s.rows, c.want, &out)
			}
			if said := strings.Contains(out.String(), "once more"); said != c.again {
				t.Errorf("said %v: %s", said, &out)
			}
			if _, err := os.Stat(filepath.Join(s.logs, "k.l.log.first")); (err == nil) != c.again {
				t.Errorf("the first boot log: %v", err)
			}
		})
	}
}
