// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"afterfin/internal/folklore"
)

// labLines are what lab might say on a kernel: a size of its own, and a verdict of its own about the first claim.
func labLines(release, arch, first, since string, size int) (lines []string) {
	for i, c := range folklore.All {
		verdict, changed := "holds", "null"
		if i == 0 {
			verdict = first
			if since != "" {
				changed = `"` + since + `"`
			}
		}
		lines = append(lines, fmt.Sprintf(`{"name":%q,"verdict":%q,"since":%s,"kernel":%q,"arch":%q,"control":false,`+
			`"figures":{"max_ns":61892477821,"mini_bytes":%d,"emfile":true,"none_of":[],"some_of":["a","b"],"unknown":null}}`, c.Name, verdict, changed, release, arch, size))
	}
	return lines
}

func TestWriteLab(t *testing.T) {
	guest := func(k *kernel, lines []string) tableRow {
		return tableRow{job: &job{kernel: k}, outcome: &outcome{documents: map[string][]string{"lab": lines}}}
	}
	host := labLines("6.18.44-something-secret", "x86_64", "holds", "", 256)
	rows := []tableRow{
		guest(&kernels[2], labLines("7.3.4", "x86_64", "holds", "", 272)),
		guest(&kernels[4], labLines("6.12.1", "aarch64", "changed", "6.14", 256)),
		guest(&kernels[0], labLines("6.1.0", "x86_64", "changed", "6.14", 256)),
	}
	dir := t.TempDir()
	if err := writeLab(dir, rows, host); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "lab.md"))
	if err != nil {
		t.Fatal(err)
	}
	text, first := string(raw), folklore.All[0]
	for _, part := range []string{
		"on 4 kernels",
		"| claim | 6.1 | host, 6.18 | 7.x | 6.12-arm64 | since |\n",
		"| [" + first.Name + "](#" + first.Name + "): " + first.Text + " | changed | holds | holds | changed | 6.14 |\n",
		"\n## " + first.Name + "\n",
		"Everywhere: emfile yes; max 61.892477821 s; none of none; some of a, b; unknown not known.\n",
		"| mini | 256 bytes | 256 bytes | 272 bytes | 256 bytes | 7.x |\n",
		"guests: 6.1.0 x86_64, 7.3.4 x86_64, 6.12.1 aarch64.\n",
	} {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in\n%s", part, text)
		}
	}
	if strings.Contains(text, "secret") {
		t.Error("the host's release is told")
	}
	for name, bad := range map[string][]string{"nothing": nil, "a claim too few": host[1:], "no JSON": {"x"}, "no verdict": {strings.Replace(host[0], `"holds"`, "null", 1)}} {
		if err := writeLab(t.TempDir(), nil, bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	failed := rows[0]
	failed.err = errors.New("x")
	if err := writeLab(t.TempDir(), []tableRow{failed}, host); err == nil {
		t.Error("of a guest that failed: no error")
	}
}

// A document that is asked for wrongly is an error before anything is started.
func TestPlan(t *testing.T) {
	file := filepath.Join(t.TempDir(), "host")
	if err := os.WriteFile(file, []byte("a\nb\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, file string
		good       bool
	}{
		{"", "", true}, {"2msl", "", true}, {"lab", file, true},
		{"", file, false}, {"2msl", file, false}, {"lab", "", false}, {"lab", file + "x", false}, {"other", "", false},
	} {
		s := &session{}
		if err := s.plan(c.name, c.file); (err == nil) != c.good || c.good && (s.document != nil) != (c.name != "") {
			t.Errorf("%q %q: %v", c.name, c.file, err)
		}
	}
}
