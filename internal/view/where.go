// SPDX-License-Identifier: Apache-2.0

package view

import (
	"fmt"
	"path"
	"strings"

	"afterfin/internal/event"
	"afterfin/internal/leak"
	"afterfin/internal/site"
	"afterfin/internal/symbol"
)

// How much of the places a text shows; JSON has all.
const (
	samplePlaces  = 3
	sampleCallers = 6
)

// whereText says where the sockets of a group were made.
func whereText(r *leak.Report, g *leak.Group) (lines []string) {
	all := len(g.Leaks) + len(g.Dead)
	left := all
	for i := range g.Places {
		p := &g.Places[i]
		if i == samplePlaces {
			lines = append(lines, "and at "+plural(len(g.Places)-i, "more place"))
		}
		if i < samplePlaces {
			lines = append(lines, placeText(p.Site, fmt.Sprintf("%s of %s, ", Thousands(uint64(p.Count)), Thousands(uint64(all))), r.Seen.Deep)...)
		}
		left -= p.Count
	}
	if left == 0 {
		return lines
	}
	who := ""
	if left < all {
		who = " of " + plural(left, "other")
	}
	switch {
	case !r.Seen.Makes:
		return append(lines, "not known: leaks --follow names the line of code of the next one, and so does afterfin serve if it runs beside")
	case !r.Seen.Accepts && acceptedOnly(g):
		return append(lines, "no stack yet"+who+": accept() is not seen by the hooks that load here, --deep takes it")
	}
	return append(lines, "no stack yet"+who+": older than afterfin; the next one of its kind will be caught")
}

// acceptedOnly: those without a place came in.
func acceptedOnly(g *leak.Group) bool {
	for i := range g.Leaks {
		if l := &g.Leaks[i]; l.Site == nil && l.Side != event.SideAccept {
			return false
		}
	}
	return len(g.Leaks) > 0
}

// placeText names one place: the line to look at, then who called it.
func placeText(s *site.Site, count string, deep bool) []string {
	facts := "(" + count + sideWords[s.Call] + ")"
	if len(s.Frames) == 0 {
		return []string{s.Note + "   " + facts}
	}
	at, own := s.Named()
	f := &s.Frames[at]
	line := frameText(f) + "   " + facts
	switch language, running := s.Interpreted(); {
	case language != "" && running:
		line += "   no line of the " + language + " program called this, only functions of its runtime did"
	case language != "":
		line += "   in the interpreter: the line of the " + language + " program is not to be seen from outside"
	case s.Sure() && !own && strings.HasSuffix(f.File, ".go"):
		line += "   a goroutine of Go's own library does this: who asked it to is not on its stack"
	case s.Sure():
	case own:
		line += "   by frame pointers, callers may be missing" + hint(deep, "is sure")
	case s.How == site.ByUnwinding:
		line += "   " + s.Note
	default:
		line += "   the program keeps no frame pointers" + hint(deep, "finds the callers")
	}
	lines := []string{line}
	var callers []string
	for i := at + 1; i < len(s.Frames) && len(callers) < sampleCallers && !isMain(&s.Frames[i-1]); i++ {
		if s.Frames[i].Quality >= symbol.Symbol && s.Frames[i].Function != "runtime.goexit" {
			callers = append(callers, "← "+frameText(&s.Frames[i]))
		}
	}
	if len(callers) > 0 {
		lines = append(lines, strings.Join(callers, "   "))
	}
	return lines
}

// isMain: who calls main, or a test, is of no interest.
func isMain(f *symbol.Frame) bool {
	return f.Function == "main" || f.Function == "main.main" || f.Function == "testing.tRunner" || strings.HasSuffix(f.Function, "::main")
}

func hint(deep bool, what string) string {
	if deep {
		return ""
	}
	return ": --deep " + what
}

// frameText is function, file and line, or as much of it as is known.
func frameText(f *symbol.Frame) string {
	var parts []string
	if f.Function != "" {
		parts = append(parts, shorten(printable(f.Function), 120))
	}
	switch {
	case f.File != "" && f.Line > 0:
		place := fmt.Sprintf("%s:%d", printable(lastTwo(f.File)), f.Line)
		if f.Quality < symbol.Line {
			place = "begins at " + place
		}
		parts = append(parts, place)
	case f.File != "":
		parts = append(parts, printable(lastTwo(f.File)))
	case f.Module == "":
		if f.Function == "" {
			parts = append(parts, fmt.Sprintf("%#x", f.Offset))
		}
	case f.Function != "":
		parts = append(parts, printable(path.Base(f.Module)))
	default:
		parts = append(parts, fmt.Sprintf("%s+%#x", printable(path.Base(f.Module)), f.Offset))
	}
	return strings.Join(parts, "  ")
}

// lastTwo is the file and its folder: enough to know it by, short enough to read.
func lastTwo(file string) string {
	return path.Join(path.Base(path.Dir(file)), path.Base(file))
}

type siteJSON struct {
	Count  int         `json:"count"`
	Call   string      `json:"call"`
	How    string      `json:"how"`
	Sure   bool        `json:"sure"`
	Named  *int        `json:"named"` // in frames: the one to look at
	Note   *string     `json:"note"`
	Frames []frameJSON `json:"frames"`
}

type frameJSON struct {
	Function *string `json:"function"`
	File     *string `json:"file"`
	Line     *int    `json:"line"`
	Module   *string `json:"module"`
	Offset   uint64  `json:"offset"`
	Inlined  bool    `json:"inlined"`
	Note     *string `json:"note"`
}

// placeJSON is one place and how many sockets come from there.
func placeJSON(s *site.Site, count int) siteJSON {
	out := siteJSON{
		Count: count, Call: sideWords[s.Call], How: s.How.String(), Sure: s.Sure(),
		Note: some(s.Note, s.Note != ""), Frames: []frameJSON{},
	}
	for i := range s.Frames {
		f := &s.Frames[i]
		out.Frames = append(out.Frames, frameJSON{
			Function: some(f.Function, f.Function != ""), File: some(f.File, f.File != ""), Line: some(f.Line, f.Line > 0),
			Module: some(f.Module, f.Module != ""), Offset: f.Offset, Inlined: f.Inlined, Note: some(f.Note, f.Note != ""),
		})
	}
	if len(s.Frames) > 0 {
		at, _ := s.Named()
		out.Named = &at
	}
	return out
}

// placesJSON gives the frames of the most frequent place (null if there is none), and all
// places.
func placesJSON(places []leak.Place) (frames []frameJSON, all []siteJSON) {
	all = []siteJSON{}
	for _, p := range places {
		all = append(all, placeJSON(p.Site, p.Count))
	}
	if len(all) > 0 {
		frames = all[0].Frames
	}
	return frames, all
}

// placeOf is where in places a socket's is; nil if it has none.
func placeOf(s *site.Site, places []leak.Place) *int {
	if s == nil {
		return nil
	}
	for i := range places {
		if places[i].Site.Key() == s.Key() {
			return &i
		}
	}
	return nil
}
