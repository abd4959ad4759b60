// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"afterfin/internal/folklore"
	"afterfin/internal/view"
)

// labColumn is one kernel in docs/lab.md.
type labColumn struct {
	title   string
	release string
	arch    string
	host    bool
	lines   map[string]labLine // by claim
}

// labLine is a line of lab -o json, read as a script would.
type labLine struct {
	Name, Verdict, Since string
	Kernel, Arch         string
	Control              bool
	Figures              map[string]any
}

// parseLab reads what lab said about every claim on one kernel.
func parseLab(lines []string) (*labColumn, error) {
	c := &labColumn{lines: make(map[string]labLine)}
	for _, raw := range lines {
		var l labLine
		d := json.NewDecoder(strings.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(&l); err != nil {
			return nil, err
		}
		if l.Verdict == "" || l.Control {
			return nil, fmt.Errorf("%s has no verdict, or that of a control", l.Name)
		}
		c.lines[l.Name], c.release, c.arch = l, l.Kernel, l.Arch
	}
	for _, claim := range folklore.All {
		if _, ok := c.lines[claim.Name]; !ok {
			return nil, fmt.Errorf("nothing about %s", claim.Name)
		}
	}
	return c, nil
}

// version gives the first two numbers of a release.
func (c *labColumn) version() (v [2]int) {
	fmt.Sscanf(c.release, "%d.%d", &v[0], &v[1])
	return v
}

// writeLab writes docs/lab.md: claims by kernels.
func writeLab(dir string, rows []tableRow, host []string) error {
	here, err := parseLab(host)
	if err != nil {
		return fmt.Errorf("what lab said on this machine: %w", err)
	}
	here.host = true
	// Its release may name more than the kernel.
	here.title = fmt.Sprintf("%d.%d", here.version()[0], here.version()[1])
	columns := []*labColumn{here}
	for _, r := range rows {
		c, err := parseLab(r.outcome.documents["lab"])
		if err := errors.Join(r.err, err); err != nil {
			return fmt.Errorf("%s: %w: nothing is written", r.job.kernel.name, err)
		}
		c.title = r.job.kernel.name
		columns = append(columns, c)
	}
	slices.SortFunc(columns, func(a, b *labColumn) int {
		return cmp.Or(cmp.Compare(b.arch, a.arch), slices.Compare(arr(a.version()), arr(b.version()))) // x86_64 first
	})
	var b strings.Builder
	fmt.Fprintf(&b, labText, len(folklore.All), len(columns))
	heads(&b, "claim", columns, "since")
	for _, claim := range folklore.All {
		fmt.Fprintf(&b, "| [%s](#%s): %s |", claim.Name, claim.Name, claim.Text)
		since := ""
		for _, c := range columns {
			l := c.lines[claim.Name]
			fmt.Fprintf(&b, " %s |", l.Verdict)
			since = cmp.Or(since, l.Since)
		}
		fmt.Fprintf(&b, " %s |\n", since)
	}
	b.WriteString("\nThe kernels of the guests:")
	for i, c := range columns {
		if !c.host {
			fmt.Fprintf(&b, "%s %s %s", map[bool]string{true: ",", false: ""}[i > 0 && !columns[0].host || i > 1], c.release, c.arch)
		}
	}
	b.WriteString(".\n")
	for _, claim := range folklore.All {
		claimSection(&b, claim, columns)
	}
	return os.WriteFile(filepath.Join(dir, "lab.md"), []byte(b.String()), 0o644)
}

func arr(v [2]int) []int { return v[:] }

func heads(b *strings.Builder, first string, columns []*labColumn, last string) {
	fmt.Fprintf(b, "| %s |", first)
	for _, c := range columns {
		title := c.title
		if c.host {
			title = "host, " + title
		}
		fmt.Fprintf(b, " %s |", title)
	}
	fmt.Fprintf(b, " %s |\n|%s\n", last, strings.Repeat("---|", len(columns)+2))
}

// claimSection has what is the same everywhere in a list, and the rest in a table.
func claimSection(b *strings.Builder, claim *folklore.Claim, columns []*labColumn) {
	fmt.Fprintf(b, "\n## %s\n\n**%s.**\nGiven: %s.\n\n%s\n\n", claim.Name, claim.Text, claim.Given, claim.Why)
	var same, differ []string
	for _, name := range figureNames(claim, columns) {
		all, alike := make([]string, len(columns)), true
		for i, c := range columns {
			value := c.lines[claim.Name].Figures[name]
			alike = alike && fmt.Sprint(value) == fmt.Sprint(columns[0].lines[claim.Name].Figures[name])
			all[i] = labFigure(name, value, c.host)
		}
		if alike {
			same = append(same, spaced(name)+" "+labFigure(name, columns[0].lines[claim.Name].Figures[name], false))
			continue
		}
		differ = append(differ, fmt.Sprintf("| %s | %s | %s |", spaced(name), strings.Join(all, " | "), changedIn(name, all, columns)))
	}
	if same != nil {
		fmt.Fprintf(b, "Everywhere: %s.\n", strings.Join(same, "; "))
	}
	if differ != nil {
		b.WriteByte('\n')
		heads(b, "figure", columns, "another from")
		b.WriteString(strings.Join(differ, "\n") + "\n")
	}
}

func figureNames(claim *folklore.Claim, columns []*labColumn) (names []string) {
	for _, c := range columns {
		for name := range c.lines[claim.Name].Figures {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

func spaced(name string) string {
	return strings.ReplaceAll(strings.TrimSuffix(strings.TrimSuffix(name, "_ns"), "_bytes"), "_", " ")
}

// labFigure: a time is exact in virtual time, and rounded on the host.
func labFigure(name string, value any, host bool) string {
	switch v := value.(type) {
	case nil:
		return "not known"
	case bool:
		return map[bool]string{true: "yes", false: "no"}[v]
	case []any:
		var parts []string
		for _, x := range v {
			parts = append(parts, fmt.Sprint(x))
		}
		if parts == nil {
			return "none"
		}
		return strings.Join(parts, ", ")
	case json.Number:
		n, err := v.Int64()
		switch {
		case err != nil:
			return v.String()
		case strings.HasSuffix(name, "_ns") && host:
			return view.Duration(time.Duration(n))
		case strings.HasSuffix(name, "_ns"):
			return strconv.FormatFloat(time.Duration(n).Seconds(), 'f', -1, 64) + " s"
		case strings.HasSuffix(name, "_bytes"):
			return v.String() + " bytes"
		}
	}
	return fmt.Sprint(value)
}

// changedIn names the kernels of an architecture whose figure is another one than that of the kernel before. Of a
// time that is measured it says nothing.
func changedIn(name string, all []string, columns []*labColumn) string {
	if strings.HasSuffix(name, "_ns") {
		return ""
	}
	var from []string
	for i := 1; i < len(columns); i++ {
		if columns[i].arch == columns[i-1].arch && all[i] != all[i-1] {
			from = append(from, columns[i].title)
		}
	}
	return strings.Join(from, ", ")
}

const labText = `# TCP folklore, tried

` + "`afterfin lab all`" + ` tries %d things that are commonly said about TIME_WAIT and CLOSE_WAIT, here on %d kernels: on a
host, whose figures are rounded, and in QEMU guests in virtual time, whose figures are exact. Each experiment has a control
that turns its condition the other way, and then comes to another verdict (` + "`--control`" + `; a test, TestLabControl). On 5.10
it goes without the tracer (` + "`--no-bpf`" + `): lengths are seen there by a look every 100 ms. This file is written by
` + "`make lab`" + `.

**holds**: all of the claim was seen. **fails**: a part of it is otherwise. **depends**: both was seen, by a condition that the
claim does not name. **changed**: it is otherwise here, and as the claim says on the other side of the kernel under "since".

`
