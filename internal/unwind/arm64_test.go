// SPDX-License-Identifier: Apache-2.0

package unwind

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"afterfin/internal/debian"
)

// The rules for code of arm64 must be those that readelf has: in a library with signed
// return addresses, and in the whole libc.
func TestRulesOfARM64(t *testing.T) {
	const cross = "/usr/aarch64-linux-gnu/lib/libc.so.6"
	_, err := exec.LookPath("aarch64-linux-gnu-gcc")
	if _, missing := os.Stat(cross); err != nil || missing != nil {
		if err := debian.Install("gcc-aarch64-linux-gnu", "libc6-arm64-cross"); err != nil {
			t.Fatal(err)
		}
	}
	signed := filepath.Join(t.TempDir(), "signed.so")
	err = debian.Run("aarch64-linux-gnu-gcc", "-O2", "-shared", "-fPIC", "-nostdlib", "-mbranch-protection=standard", "-o", signed, "testdata/library.c")
	if err != nil {
		t.Fatal(err)
	}
	for path, rows := range map[string]int{signed: 10, cross: 10_000} {
		f, err := elf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		out, err := exec.Command("readelf", "--debug-dump=frames-interp", path).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := compare(t, table(t, f), string(out)); got < rows {
			t.Errorf("%s: only %d rows compared", path, got)
		}
	}
}

// compare goes through what readelf has written, and tells how many rows there were.
func compare(t *testing.T, tab *Table, dump string) (rows int) {
	t.Helper()
	var inside bool
	var columns, before []string
	for line := range strings.Lines(dump) {
		fields := strings.Fields(line)
		switch {
		case strings.Contains(line, " FDE "), strings.Contains(line, " CIE "):
			inside, before = strings.Contains(line, " FDE "), nil
		case len(fields) > 1 && fields[0] == "LOC":
			columns = fields[2:]
		case inside && len(fields) == len(columns)+2:
			pc, err := strconv.ParseUint(fields[0], 16, 64)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			match(t, tab, pc, columns, fields[1:])
			if before != nil { // the row before holds up to here
				match(t, tab, pc-1, columns, before)
			}
			before = fields[1:]
			rows++
		}
	}
	return rows
}

// match compares the rules at one address.
func match(t *testing.T, tab *Table, pc uint64, columns, want []string) {
	t.Helper()
	e, ok := tab.find(pc)
	p := program{arch: ARM64, section: &tab.section, entry: e}
	if !ok || !p.run(pc) {
		t.Errorf("%#x: no rules", pc)
		return
	}
	cfa := p.now.cfa
	got := fmt.Sprintf("x%d+%d", cfa.reg, cfa.value)
	if cfa.reg == arm64SP {
		got = fmt.Sprintf("sp+%d", cfa.value)
	}
	if got != want[0] || cfa.kind != inRegister {
		t.Errorf("%#x: CFA is %s, want %s", pc, got, want[0])
	}
	for i, column := range columns {
		number := arm64LR
		if column != "ra" {
			if column[0] == 'v' {
				continue
			}
			number, _ = strconv.Atoi(column[1:])
		}
		r, got := p.now.regs[number], "other"
		switch {
		case r.kind == offset:
			got = fmt.Sprintf("c%+d", r.value)
		case r.kind == undefined, r.kind == keep && want[i+1] == "u": // readelf has this also for what was never saved
			got = "u"
		case r.kind == keep:
			got = "s"
		}
		if got != want[i+1] {
			t.Errorf("%#x: %s is %s, want %s", pc, column, got, want[i+1])
		}
	}
}
