// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestMatrix(t *testing.T) {
	seen := make(map[string]bool)
	for _, k := range kernels {
		if seen[k.name] {
			t.Errorf("%s is there twice", k.name)
		}
		seen[k.name] = true
		if machines[k.arch].program == "" {
			t.Errorf("%s: no machine for %s", k.name, k.arch)
		}
		if len(k.suites) == 0 || !strings.HasSuffix(k.pkg, "-"+k.arch) || k.cpu == "" || k.promise == "" {
			t.Errorf("%s lacks something: %+v", k.name, k)
		}
		if k.hz != 100 && k.hz != 250 && k.hz != 1000 {
			t.Errorf("%s: HZ %d", k.name, k.hz)
		}
		if k.accept != acceptFexit && k.accept != acceptNone {
			t.Errorf("%s: accept by %q", k.name, k.accept)
		}
	}
	for _, l := range lanes {
		if _, err := regexp.Compile(l.skip); err != nil || l.boot == 0 || l.limit <= l.boot || l.cpus == 0 {
			t.Errorf("lane %+v: %v", l, err)
		}
	}
	if _, err := regexp.Compile(aboutUs); err != nil {
		t.Error(err)
	}
	for _, pkg := range packages {
		if found, _ := filepath.Glob("../" + pkg + "/*_test.go"); found == nil {
			t.Errorf("%s has no tests", pkg)
		}
	}
}

func TestChoose(t *testing.T) {
	for names, want := range map[string][]string{
		"":           namesOf(kernels),
		"6.12":       {"6.12"},
		"6.12, 5.10": {"6.12", "5.10"},
		"hz1000":     {"hz1000"},
		"4.15":       nil,
		"6.12,":      nil,
	} {
		chosen, err := choose(names)
		var got []string
		for _, k := range chosen {
			got = append(got, k.name)
		}
		if (err != nil) != (want == nil) || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", names, got, err)
		}
	}
}

func TestSelected(t *testing.T) {
	names := []string{"TestA", "TestAB", "TestC"}
	for _, c := range []struct {
		patterns []string
		skip     string
		want     []string
		run      string
	}{
		{nil, "", names, "^(TestA|TestAB|TestC)$"},
		{[]string{"", "A"}, "", []string{"TestA", "TestAB"}, "^(TestA|TestAB)$"},
		{[]string{"^TestA$/x/y"}, "", []string{"TestA"}, "^(TestA)$/x/y"},
		{[]string{"A"}, "^TestAB", []string{"TestA"}, "^(TestA)$"},
	} {
		got, err := selected(names, c.patterns, c.skip)
		last := ""
		if len(c.patterns) > 0 {
			last = c.patterns[len(c.patterns)-1]
		}
		if err != nil || !slices.Equal(got, c.want) || subtests(got, last) != c.run {
			t.Errorf("%q without %q: %v, %v, -test.run %s", c.patterns, c.skip, got, err, subtests(got, last))
		}
	}
	if _, err := selected(names, []string{"("}, ""); err == nil {
		t.Error("a bad pattern is taken")
	}
}

// The two lanes differ in what matters, and the guest never outlives one QEMU.
func TestCommandLine(t *testing.T) {
	for _, k := range kernels {
		for _, l := range lanes {
			line := strings.Join(commandLine(&job{kernel: &k, lane: &l}, "initrd"), " ")
			if virtual := strings.Contains(line, "-icount shift=0,sleep=off"); virtual != (l.name == "virtual") {
				t.Errorf("%s/%s: %s", k.name, l.name, line)
			}
			if !strings.Contains(line, "-no-reboot") || !strings.Contains(line, "panic=-1") {
				t.Errorf("a panic would not end the guest: %s", line)
			}
		}
	}
}

// The README says what the matrix says.
func TestReadme(t *testing.T) {
	raw, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	want := "| Debian kernel | | HZ | accept() seen by | promised |\n|---|---|---|---|---|\n"
	for _, k := range kernels {
		accept := map[string]string{acceptFexit: "fexit", acceptNone: "`--exact-owner` only"}[k.accept]
		if k.lacks != "" {
			accept = "-"
		}
		version, _, _ := strings.Cut(k.name, "-")
		want += fmt.Sprintf("| %s (%s) | %s | %d | %s | %s |\n", version, k.suites[0], k.arch, k.hz, accept, k.promise)
	}
	if !strings.Contains(string(raw), want) {
		t.Errorf("README.md lacks this table:\n%s", want)
	}
}
