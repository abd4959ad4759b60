// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"afterfin/vmtest/guest"
)

const someMSL = `{"kernel":"6.12.1-hz1000","arch":"x86_64","hz":1000,"nominal_ns":60000000000,"bucket_ns":4096000000,` +
	`"samples":[{"phase_ns":1000000,"measured_ns":64095100000,"predicted_ns":64095000000},{"phase_ns":4000000000,"measured_ns":60096000000,"predicted_ns":60096200000}]}`

// What TestMSL writes on a guest's console is found, and nothing else.
func TestOutcomeMSL(t *testing.T) {
	o := newOutcome(&job{kernel: &kernels[0], lane: &lanes[0]}, func(string) {})
	for _, text := range []string{
		frame + "=== RUN   TestOther", `    x_test.go:1: MSL {"no":1}`,
		frame + "=== RUN   TestMSL", frame + "=== PAUSE TestMSL", frame + "=== NAME  ", frame + "=== CONT  TestMSL", "    msl_test.go:81: MSL " + someMSL, frame + "--- PASS: TestMSL (1.00s)",
	} {
		o.take(guest.Line{Kind: guest.Output, Text: text})
	}
	if got := o.documents["2msl"]; len(got) != 1 || got[0] != someMSL {
		t.Errorf("found %q", got)
	}
}

func measuredMSL(line string) *outcome {
	return &outcome{documents: map[string][]string{"2msl": {line}}}
}

func TestWrite2MSL(t *testing.T) {
	dir := t.TempDir()
	row := tableRow{job: &job{kernel: &built[1]}, outcome: measuredMSL(someMSL)}
	timers := tableRow{job: &job{kernel: &kernels[3]}, outcome: measuredMSL(someMSL)}
	if err := write2MSL(dir, []tableRow{row, timers}, nil); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "2msl.md"))
	if err != nil {
		t.Fatal(err)
	}
	const want = "| 6.12.1-hz1000 x86_64 | 1000 | 60.000 | 60.000 to 64.096 | 60.096 / 62.096 / 64.095 | -0.200 ms | fentry |\n" +
		"| 6.12.1-hz1000 x86_64 | 1000 | 60.000 | 60.000 to 64.096 | 60.096 / 62.096 / 64.095 | -0.200 ms | timers |\n"
	if !strings.Contains(string(text), want) || !strings.Contains(string(text), "on 2 kernels") || !strings.Contains(string(text), ": 2 connections each") {
		t.Errorf("%s", text)
	}
	if picture, err := os.ReadFile(filepath.Join(dir, "2msl.svg")); err != nil || strings.Count(string(picture), "6.12.1-hz1000") != 2 {
		t.Errorf("picture: %v", err)
	}
	for name, bad := range map[string]tableRow{
		"failed":      {job: row.job, outcome: row.outcome, err: errors.New("x")},
		"without any": {job: row.job, outcome: &outcome{}},
		"no samples":  {job: row.job, outcome: measuredMSL(`{"samples":[]}`)},
	} {
		if err := write2MSL(t.TempDir(), []tableRow{bad}, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestBuiltImage(t *testing.T) {
	dir := t.TempDir()
	if _, err := builtImage(dir); err == nil || !strings.Contains(err.Error(), "make kernels") {
		t.Errorf("nothing is there: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "release"), []byte("6.12.1-x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if img, err := builtImage(dir); err != nil || img.release != "6.12.1-x" || img.path != filepath.Join(dir, "bzImage") {
		t.Errorf("%+v, %v", img, err)
	}
	for _, k := range built {
		if _, err := os.Stat(fmt.Sprintf("linux/%s.config", k.name)); err != nil || k.hz == 0 {
			t.Errorf("%s: %v", k.name, err)
		}
	}
}
