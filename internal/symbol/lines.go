// SPDX-License-Identifier: Apache-2.0

package symbol

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"afterfin/internal/image"
)

const (
	maxLineRuns = 1 << 21 // sequences in all programs of a file
	maxBackRuns = 64      // that overlap, of which the right one is looked for
)

// lineTable is .debug_line: programs that give the position of each address. They
// are run once to learn which part is for which addresses, and again, one part
// only, to look an address up.
//
// debug/dwarf is not used: it needs .debug_info as well, and with that, and the
// lists of ranges, a hostile file can keep it busy for hours.
type lineTable struct {
	data, texts, lineTexts []byte // .debug_line, .debug_str, .debug_line_str
	runs                   []lineRun
}

// lineRun is a sequence: addresses that rise, from one instruction of the program
// to an end_sequence.
type lineRun struct {
	begin, end uint64 // ELF virtual addresses
	unit, code uint32 // where its header and its first instruction are
}

// readLines reads the lines of a file; nil if it has none.
func readLines(ctx context.Context, m *image.Module) (*lineTable, error) {
	section, ok := m.Section(".debug_line")
	if !ok {
		return nil, nil
	}
	t := &lineTable{}
	var err error
	if t.data, err = m.Data(ctx, section); err != nil {
		return nil, err
	}
	for name, into := range map[string]*[]byte{".debug_str": &t.texts, ".debug_line_str": &t.lineTexts} {
		if s, ok := m.Section(name); ok {
			if *into, err = m.Data(ctx, s); err != nil {
				return nil, err
			}
		}
	}
	if err := t.index(ctx); err != nil {
		return nil, fmt.Errorf("section %s: %w", section.Name, err)
	}
	return t, nil
}

// index runs all programs. A unit that cannot be read is left out, and those after it
// too if even its length is wrong.
func (t *lineTable) index(ctx context.Context) error {
	for at := 0; at < len(t.data); {
		if err := ctx.Err(); err != nil {
			return err
		}
		unit, next, ok := t.header(at)
		if next <= at {
			break
		}
		if ok {
			run := lineRun{unit: uint32(at), code: uint32(unit.code)}
			begun := false
			err := unit.run(ctx, t.data, unit.code, func(row lineRow, after int) bool {
				if !begun {
					run.begin, begun = row.address, true
				}
				if row.end {
					// What the linker has dropped begins at 0.
					if run.end = row.address; run.begin > 0 && run.end > run.begin {
						t.runs = append(t.runs, run)
					}
					run.code, begun = uint32(after), false
				}
				return len(t.runs) < maxLineRuns
			})
			if err != nil {
				return err
			}
		}
		at = next
	}
	if len(t.runs) == maxLineRuns {
		return fmt.Errorf("more than %d sequences: %w", maxLineRuns, image.ErrTooLarge)
	}
	slices.SortFunc(t.runs, func(a, b lineRun) int { return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.code, b.code)) })
	return ctx.Err()
}

// find gives the position of an address.
func (t *lineTable) find(ctx context.Context, address uint64) (file string, line int, ok bool) {
	i, exact := slices.BinarySearchFunc(t.runs, address, func(r lineRun, a uint64) int { return cmp.Compare(r.begin, a) })
	if !exact {
		i--
	}
	for back := 0; i >= 0 && back < maxBackRuns; i, back = i-1, back+1 {
		run := t.runs[i]
		if address >= run.end {
			continue
		}
		unit, _, valid := t.header(int(run.unit))
		if !valid {
			return "", 0, false
		}
		// A row is for the addresses from its own to the next one's.
		var last lineRow
		found, begun := false, false
		err := unit.run(ctx, t.data, int(run.code), func(row lineRow, _ int) bool {
			if begun && last.address <= address && address < row.address {
				found = true
				return false
			}
			last, begun = row, true
			return !row.end
		})
		if err != nil {
			return "", 0, false
		}
		if found && last.line > 0 {
			return t.file(unit, last.file), int(last.line), true
		}
	}
	return "", 0, false
}
