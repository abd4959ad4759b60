// SPDX-License-Identifier: Apache-2.0

package view

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"afterfin/internal/event"
	"afterfin/internal/folklore"
)

// WriteClaims lists what may be tried.
func WriteClaims(w io.Writer, claims []*folklore.Claim) error {
	var b strings.Builder
	for _, c := range claims {
		fmt.Fprintf(&b, "%-14s %2d s  ", c.Name, int(c.Takes.Seconds()))
		wrap(&b, c.Text, 21)
		b.WriteString(strings.Repeat(" ", 21) + "given: ")
		wrap(&b, c.Given, 28)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// width is that of running text.
const width = 110

// wrap writes a text whose first line begins at a column, and the others too.
func wrap(b *strings.Builder, text string, column int) {
	at := column
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case at+1+utf8.RuneCountInString(word) > width:
			b.WriteString("\n" + strings.Repeat(" ", column))
			at = column
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += utf8.RuneCountInString(word)
	}
	b.WriteByte('\n')
}

// verdictWords are for a person.
func verdictWords(f *folklore.Finding) string {
	switch {
	case f.Err != nil:
		return "NO VERDICT"
	case f.Verdict == folklore.Changed:
		return "CHANGED in " + f.Since
	}
	return strings.ToUpper(string(f.Verdict))
}

// WriteFinding writes one for a person.
func WriteFinding(w io.Writer, f *folklore.Finding) error {
	const column = 10
	var b strings.Builder
	field := func(name, text string) {
		fmt.Fprintf(&b, "  %-*s", column-2, name)
		wrap(&b, text, column)
	}
	begin := verdictWords(f) + " "
	if f.Control {
		begin += "(control) "
	}
	begin += f.Name + ": "
	b.WriteString(begin)
	wrap(&b, f.Text, len(begin))
	given := f.Given
	if f.Control {
		given = "the other way than: " + given
	}
	field("given", given)
	for i, step := range f.Did {
		name := "did"
		if i > 0 {
			name = ""
		}
		field(name, step)
	}
	if f.Traced {
		field("seen", seenText(f.Seen))
	} else {
		field("seen", "no tracer: by system calls and sock_diag")
	}
	if f.Err != nil {
		field("error", f.Err.Error())
	} else {
		var figures []string
		for _, x := range f.Figures {
			figures = append(figures, figureText(x))
		}
		field("figures", strings.Join(figures, ", "))
		field("why", f.Why)
	}
	if f.Lost != (event.Lost{}) {
		field("lost", LostText(f.Lost)+", of the whole host")
	}
	b.WriteByte('\n')
	_, err := io.WriteString(w, b.String())
	return err
}

func seenText(seen []folklore.Seen) string {
	var parts []string
	for _, s := range seen {
		text := s.From.String() + "→" + s.To.String()
		if s.Cause != event.CauseNone {
			text += " (" + s.Cause.String() + ")"
		}
		parts = append(parts, fmt.Sprintf("%s %d", text, s.Count))
	}
	if parts == nil {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

// figureText: timer 60.0 s, last_ack_descriptors 0.
func figureText(f folklore.Figure) string {
	name := strings.ReplaceAll(strings.TrimSuffix(strings.TrimSuffix(f.Name, "_ns"), "_bytes"), "_", " ")
	switch v := f.Value.(type) {
	case time.Duration:
		return name + " " + Duration(v)
	case int:
		text := name + " " + Thousands(uint64(v))
		if strings.HasSuffix(f.Name, "_bytes") {
			text += " bytes"
		}
		return text
	case bool:
		if v {
			return name + " yes"
		}
		return name + " no"
	case nil:
		return name + " not known"
	case []string:
		if len(v) == 0 {
			return name + ": none"
		}
		return name + ": " + strings.Join(v, "; ")
	}
	return fmt.Sprintf("%s %v", name, f.Value)
}

// The line of lab -o json, described in docs/json.md.
type findingLine struct {
	Time    string         `json:"time"`
	Name    string         `json:"name"`
	Claim   string         `json:"claim"`
	Given   string         `json:"given"`
	Control bool           `json:"control"`
	Verdict *string        `json:"verdict"`
	Since   *string        `json:"since"`
	Figures map[string]any `json:"figures"`
	Why     string         `json:"why"`
	Did     []string       `json:"did"`
	Seen    []seenLine     `json:"seen"`
	Took    int64          `json:"took_ns"`
	Error   *string        `json:"error"`
	Kernel  string         `json:"kernel"`
	Arch    string         `json:"arch"`
	event.Lost
}

type seenLine struct {
	From  string  `json:"from"`
	To    string  `json:"to"`
	Cause *string `json:"cause"`
	Count int     `json:"count"`
}

// WriteFindingJSON writes one as a line of JSON.
func WriteFindingJSON(w io.Writer, f *folklore.Finding) error {
	line := findingLine{
		Time: time.Now().UTC().Format(time.RFC3339Nano), Name: f.Name, Claim: f.Text, Given: f.Given, Control: f.Control,
		Verdict: some(string(f.Verdict), f.Err == nil), Since: some(f.Since, f.Since != ""), Figures: make(map[string]any), Why: f.Why,
		Did: append([]string{}, f.Did...), Took: int64(f.Took), Lost: f.Lost,
	}
	line.Kernel, line.Arch = Kernel()
	for _, x := range f.Figures {
		line.Figures[x.Name] = x.Value
	}
	if f.Traced {
		line.Seen = []seenLine{}
	}
	for _, s := range f.Seen {
		line.Seen = append(line.Seen, seenLine{s.From.String(), s.To.String(), some(s.Cause.String(), s.Cause != event.CauseNone), s.Count})
	}
	if f.Err != nil {
		line.Error = some(f.Err.Error(), true)
	}
	return json.NewEncoder(w).Encode(line)
}
