// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"bufio"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"kernel.org/pub/linux/libs/security/libcap/cap"
)

const unit = "../../deploy/systemd/afterfin.service"

// TestUnit: systemd takes the unit, and finds little that it may do.
func TestUnit(t *testing.T) {
	text := readText(t, unit)
	const program = "/usr/local/bin/afterfin" // nobody may have put one there
	if !strings.Contains(text, "ExecStart="+program+" serve\n") {
		t.Errorf("ExecStart is not %s serve", program)
	}
	path := filepath.Join(t.TempDir(), filepath.Base(unit))
	writeText(t, path, strings.ReplaceAll(text, program, filepath.Join(built, "afterfin")))
	analyze := func(args ...string) string {
		out, err := exec.Command(installed["systemd-analyze"], append(args, path)...).CombinedOutput()
		if err != nil {
			t.Errorf("systemd-analyze %v: %v: %s", args, err, out)
		}
		return string(out)
	}
	if out := analyze("verify", "--man=no"); out != "" {
		t.Errorf("systemd-analyze verify: %s", out)
	}
	out := analyze("security", "--offline=true", "--threshold=40", "--no-pager")
	m := regexp.MustCompile(`Overall exposure level for afterfin\.service: ([0-9.]+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("no exposure level: %s", out)
	}
	if level, err := strconv.ParseFloat(m[1], 64); err != nil || level > 4 {
		t.Errorf("exposure level %s (%v): %s", m[1], err, out)
	}
	t.Logf("exposure level %s", m[1])
}

// TestUnitRuns: within all that the unit forbids, serve starts, sees as much as without, tells
// of another user's leak in another netns, and ends well.
func TestUnitRuns(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/systemd")); err != nil {
		t.Fatal(err)
	}
	writeText(t, filepath.Join(dir, "units", filepath.Base(unit)), readText(t, unit))
	if err := os.Link(filepath.Join(built, "afterfin"), filepath.Join(dir, "afterfin")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	console, err := exec.CommandContext(ctx, filepath.Join(dir, "boot"), dir, ownCgroup(t)).CombinedOutput()
	found := func(name string) string {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return string(raw)
	}
	defer func() {
		if t.Failed() {
			t.Logf("systemd: %v: %s\nthe unit: %s", err, console, found("log"))
		}
	}()
	for name, want := range map[string]string{
		"active": `^Result=success\nActiveState=active\n$`,
		"ended":  `^Result=success\nExecMainStatus=0\nActiveState=inactive\n$`,
		"ready":  `^ok\n$`,
		"modes":  `^drwx------\nsrw-------\n$`,
		"leaks":  `^LEAK python3 pid \d+ .*\n(.*\n)*  20 CLOSE_WAIT, oldest \S+ s \(exact\)`,
		"again":  `(?m)^afterfin_dead_fds\{workload="probe.service"\} 3$`,
		"status": `(?m)^CapBnd:\t` + bounding(t) + `$(.*\n)*^NoNewPrivs:\t1$(.*\n)*^Seccomp:\t2$`,
	} {
		if got := found(name); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	metrics := found("metrics")
	for _, want := range []string{`afterfin_leaked_sockets{verdict="eof_unread",workload="probe.service"} 20`, `afterfin_dead_fds{workload="probe.service"} 3`, "afterfin_unreadable_processes 0", "afterfin_unreachable_netns 0"} {
		if !slices.Contains(strings.Split(metrics, "\n"), want) {
			t.Errorf("metrics lack %s: %s", want, metrics)
		}
	}
	if got, want := hooksIn(metrics), hooksIn(served(t)); !slices.Equal(got, want) || len(want) == 0 {
		t.Errorf("hooks %v, without the unit %v", got, want)
	}
}

// bounding are the capabilities of the unit, as /proc has them.
func bounding(t *testing.T) string {
	t.Helper()
	set := uint64(0)
	for _, name := range capabilities(t) {
		v, err := cap.FromName(strings.ToLower(name))
		if err != nil {
			t.Fatal(err)
		}
		set |= 1 << v
	}
	return fmt.Sprintf("%016x", set)
}

// capabilities are those that the unit names.
func capabilities(t *testing.T) []string {
	t.Helper()
	m := regexp.MustCompile(`(?m)^CapabilityBoundingSet=(.+)$`).FindAllStringSubmatch(readText(t, unit), -1)
	if len(m) != 1 {
		t.Fatalf("the unit has %d lines of capabilities", len(m))
	}
	return strings.Fields(m[0][1])
}

// served gives the metrics of a serve that nothing restricts.
func served(t *testing.T) string {
	t.Helper()
	lines := running(t, filepath.Join(built, "afterfin"), "serve", "--netns", newNetNS(t).Path(), "--web.listen-address", "127.0.0.1:0", "--recorder", "")
	return scrape(t, said(t, lines, regexp.MustCompile(`^metrics at (\S+)$`)))
}

// hooksIn are the lines of metrics that tell what is attached.
func hooksIn(metrics string) (hooks []string) {
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, "afterfin_hook_info{") {
			hooks = append(hooks, line)
		}
	}
	slices.Sort(hooks)
	return hooks
}

// ownCgroup makes one below that of this process, and removes it, and what is in it, at the end.
func ownCgroup(t *testing.T) string {
	t.Helper()
	own := regexp.MustCompile(`(?m)^0::(.*)$`).FindStringSubmatch(readText(t, "/proc/self/cgroup"))
	if own == nil {
		t.Fatal("this kernel has no cgroup2")
	}
	mounts := bufio.NewScanner(strings.NewReader(readText(t, "/proc/self/mounts")))
	for mounts.Scan() {
		fields := strings.Fields(mounts.Text())
		if fields[2] != "cgroup2" {
			continue
		}
		dir, err := os.MkdirTemp(filepath.Join(fields[1], own[1]), "afterfin-test-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { removeCgroup(t, dir) })
		return dir
	}
	t.Fatal("cgroup2 is not mounted")
	return ""
}

func removeCgroup(t *testing.T, dir string) {
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	slices.Reverse(all) // what is in one before it
	for _, path := range all {
		for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) { // a process that was killed may still be ending
			err := os.Remove(path)
			if err == nil {
				break
			}
			if time.Since(begin) > 10*time.Second {
				t.Error(err)
				return
			}
		}
	}
}

func readText(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func writeText(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
