// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"afterfin/vmtest/guest"
)

// A kernel that dies before our init runs, or of a stale breakpoint, is started again, twice at
// most, and that is said. One that dies otherwise fails.
func TestOnceMore(t *testing.T) {
	const (
		panics = "echo '[ 1.0] Kernel panic - not syncing: x'; exit\n"
		old    = "echo '[    1.000000] int3: 0000 [#1] PREEMPT SMP NOPTI'\n" + panics
		new    = "echo '[    1.000000] Oops: int3: 0000 [#1] SMP NOPTI'\n" + panics
		later  = "echo '[ 1.0] Oops: 0002 [#1] SMP'\necho '[ 1.0] Oops: int3: 0000 [#2] SMP'\n" + panics
	)
	start := "printf '%s\\n' '" + guest.Line{Kind: guest.Init, At: time.Second}.String() + "'\n"
	done := start + "printf '%s\\n' '" + guest.Line{Kind: guest.Done, At: 2 * time.Second, Text: "0"}.String() + "'\n"
	for name, c := range map[string]struct {
		script string // $try counts from 1
		tries  int
		want   error
	}{
		"at once":         {done, 1, nil},
		"once":            {"[ $try = 1 ] && { " + panics + "}\n" + done, 2, nil},
		"always":          {panics, tries, errPanicked},
		"in a test":       {start + panics, 1, errPanicked},
		"in a test later": {"[ $try = 1 ] && { " + panics + "}\n" + start + panics, 2, errPanicked},
		"patched":         {start + "[ $try = 1 ] && { " + new + "}\n" + done, 2, nil},
		"patched, 6.1":    {start + "[ $try = 1 ] && { " + old + "}\n" + done, 2, nil},
		"patched twice":   {start + "[ $try != 3 ] && { " + new + "}\n" + done, 3, nil},
		"patched always":  {start + new, tries, errPanicked},
		"not the first":   {start + later, 1, errPanicked},
		"goes away":       {"exit", 1, errLost},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			s := &session{stdout: &out, stderr: &out, logs: t.TempDir()}
			fakeQEMU(t, "echo >> "+s.logs+"/starts; try=$(wc -l < "+s.logs+"/starts)\n"+c.script)
			s.runOne(context.Background(), &job{kernel: &kernel{name: "k", arch: "amd64"}, lane: &lane{name: "l", cpus: 1, boot: 5 * time.Second, limit: 5 * time.Second}})
			if len(s.rows) != 1 || !errors.Is(s.rows[0].err, c.want) || s.rows[0].tries != c.tries {
				t.Errorf("got %+v, want %v after %d\n%s", s.rows, c.want, c.tries, &out)
			}
			if n := strings.Count(out.String(), "once more"); n != c.tries-1 {
				t.Errorf("said %d times: %s", n, &out)
			}
			for try := 1; try < c.tries; try++ {
				if _, err := os.Stat(filepath.Join(s.logs, fmt.Sprintf("k.l.log.%d", try))); err != nil {
					t.Errorf("a boot log: %v", err)
				}
			}
		})
	}
}
