// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"afterfin/vmtest/guest"
)

// fakeQEMU puts a script in the place of QEMU. It leaves its pid in the file that
// is given back.
func fakeQEMU(t *testing.T, script string) (pidFile string) {
	t.Helper()
	dir := t.TempDir()
	pidFile = filepath.Join(dir, "pid")
	text := fmt.Sprintf("#!/bin/sh\necho $$ > %s\n%s\n", pidFile, script)
	if err := os.WriteFile(filepath.Join(dir, machines["amd64"].program), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return pidFile
}

func TestBoot(t *testing.T) {
	done := guest.Line{Kind: guest.Done, Text: "0"}.String()
	interrupted, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	for name, c := range map[string]struct {
		ctx    context.Context
		script string
		want   error
		say    string // part of the error
	}{
		"done":            {t.Context(), "printf '%s\\n' '" + done + "'", nil, ""},
		"panic":           {t.Context(), "echo '[ 1.0] Kernel panic - not syncing: no init'", errPanicked, "no init"},
		"panic at once":   {t.Context(), "printf '%s\\n' '" + done + "'; echo '[ 1.0] Kernel panic - not syncing: x'", errPanicked, ""},
		"goes away":       {t.Context(), "echo Booting", errLost, ""},
		"QEMU complains":  {t.Context(), "echo bad option >&2; exit 1", errLost, "bad option"},
		"init complains":  {t.Context(), "printf '%s\\n' '" + guest.Line{Kind: guest.Init, Text: "error: load m"}.String() + "'", errUnfit, "load m"},
		"says nothing":    {t.Context(), "exec sleep 100", errSilent, "250ms"},
		"hangs":           {t.Context(), "printf '%s\\n' '" + guest.Line{Kind: guest.Init}.String() + "'; exec sleep 100", errTimeout, "500ms"},
		"gets its initrd": {t.Context(), "cat /proc/self/fd/3; echo 'Kernel panic - not syncing: end'", errPanicked, "from the initramfs"},
		"is interrupted":  {interrupted, "exec sleep 100", context.Canceled, ""},
		"ignores SIGTERM": {t.Context(), "trap '' TERM; while :; do :; done", errSilent, ""},
	} {
		t.Run(name, func(t *testing.T) {
			pidFile := fakeQEMU(t, c.script)
			if c.ctx == interrupted {
				time.AfterFunc(200*time.Millisecond, interrupt)
			}
			j := &job{kernel: &kernel{arch: "amd64"}, qemu: []string{machines["amd64"].program}, lane: &lane{cpus: 1, boot: 250 * time.Millisecond, limit: 500 * time.Millisecond}, initrd: []byte("Kernel panic - not syncing: from the initramfs\n")}
			log := filepath.Join(t.TempDir(), "log")
			err := boot(c.ctx, j, log, func(guest.Line) {})
			if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.say) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			raw, err := os.ReadFile(pidFile)
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, 0); err != syscall.ESRCH {
				t.Errorf("pid %d is still there: %v", pid, err)
			}
		})
	}
}

// A log that was kept shows its end.
func TestTail(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(log, []byte("a\r\nb\r\n"+guest.Line{Kind: guest.Output, Text: frame + "c"}.String()+"\r\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := tail(log, 2); got != "    b\n    c" {
		t.Errorf("got %q", got)
	}
}
