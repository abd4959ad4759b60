// SPDX-License-Identifier: Apache-2.0

package view

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"afterfin/internal/timewait"
)

// waits is a run with a sample in each of n places of the bucket, late by what late says.
func waits(hz int, nominal, bucket time.Duration, n int, late func(i int) time.Duration) timewait.Run {
	r := timewait.Run{Kernel: "6.1.0-37-amd64", Arch: "x86_64", HZ: hz, Nominal: nominal, Bucket: bucket}
	for i := range n {
		phase := bucket * time.Duration(i) / time.Duration(n)
		s := timewait.Sample{Phase: phase, Predicted: nominal + bucket - phase}
		s.Measured = s.Predicted + late(i)
		r.Samples = append(r.Samples, s)
	}
	return r
}

func onTime(int) time.Duration { return 0 }

func debian() timewait.Run { return waits(250, 60*time.Second, 2048*time.Millisecond, 64, onTime) }

// mark is an element of a picture, and the class of what it is in.
type mark struct {
	name, group string
	attr        map[string]string
	text        string
}

func (m *mark) number(t *testing.T, attr string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(m.attr[attr], 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		t.Fatalf("%s of %s is %q: %v", attr, m.name, m.attr[attr], err)
	}
	return v
}

// drawn draws the runs, and reads the picture to its end: what is not well-formed fails.
func drawn(t *testing.T, runs ...timewait.Run) []mark {
	t.Helper()
	var out bytes.Buffer
	if err := WriteChart(&out, runs); err != nil {
		t.Fatal(err)
	}
	var marks []mark
	var open []int
	for dec := xml.NewDecoder(&out); ; {
		tok, err := dec.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			m := mark{name: tok.Name.Local, attr: map[string]string{}}
			for _, a := range tok.Attr {
				m.attr[a.Name.Local] = a.Value
			}
			if len(open) > 0 {
				m.group = marks[open[len(open)-1]].attr["class"]
			}
			open, marks = append(open, len(marks)), append(marks, m)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 {
				marks[open[len(open)-1]].text += string(tok)
			}
		}
	}
	inside(t, marks)
	return marks
}

// inside checks that nothing is drawn where nobody sees it.
func inside(t *testing.T, marks []mark) {
	t.Helper()
	box := strings.Fields(marks[0].attr["viewBox"])
	if marks[0].name != "svg" || len(box) != 4 || box[2] != marks[0].attr["width"] || box[3] != marks[0].attr["height"] {
		t.Fatalf("%s has %v", marks[0].name, marks[0].attr)
	}
	width, height := marks[0].number(t, "width"), marks[0].number(t, "height")
	within := func(m *mark, attr string, least, most float64) {
		t.Helper()
		if m.attr[attr] == "" {
			return
		}
		if v := m.number(t, attr); v < least || v > most {
			t.Errorf("%s of %s %q is %v: not in %v to %v", attr, m.name, m.text, v, least, most)
		}
	}
	for i := range marks[1:] {
		m, r := &marks[i+1], 0.0
		switch {
		case m.name == "circle":
			r = m.number(t, "r")
		case m.name == "rect" && m.attr["x"] != "":
			within(m, "width", 0, width-m.number(t, "x"))
			within(m, "height", 0, height-m.number(t, "y"))
		}
		for _, attr := range []string{"x", "x1", "x2", "cx"} {
			within(m, attr, r, width-r)
		}
		for _, attr := range []string{"y", "y1", "y2", "cy"} {
			within(m, attr, r, height-r)
		}
	}
}

func dots(marks []mark, group string) int {
	n := 0
	for _, m := range marks {
		if m.name == "circle" && m.group == group {
			n++
		}
	}
	return n
}

func texts(marks []mark) []string {
	var all []string
	for _, m := range marks {
		if m.name == "text" {
			all = append(all, m.text)
		}
	}
	return all
}

func TestChartOfOneRun(t *testing.T) {
	r := debian()
	r.Samples[3].Measured += 3900 * time.Microsecond
	marks := drawn(t, r)
	if on, off := dots(marks, "dots"), dots(marks, "off"); on != 64 || off != 0 {
		t.Errorf("%d dots and %d that are off, of 64", on, off)
	}
	got := texts(marks)
	for _, want := range []string{"How long TIME_WAIT lasts", "6.1.0-37-amd64, x86_64", "HZ 250, 64 connections, worst error 3.9 ms",
		"min 60.032 s, median 61.040 s, max 62.048 s", "nominal 60 s", "TIME_WAIT, s",
		"where in its bucket of the timer wheel the timer is due, s", "61.0", "1.2"} {
		if !slices.Contains(got, want) {
			t.Errorf("no %q in %q", want, got)
		}
	}
	if slices.Contains(got, "as predicted") {
		t.Error("a legend for what is not there")
	}
}

// Every dot that is on time is on the line: to a pixel, as coordinates are rounded.
func TestChartDotsAreOnTheLine(t *testing.T) {
	var line mark
	marks := drawn(t, debian())
	for _, m := range marks {
		if m.attr["class"] == "predicted" {
			line = m
		}
	}
	x1, y1, x2, y2 := line.number(t, "x1"), line.number(t, "y1"), line.number(t, "x2"), line.number(t, "y2")
	if x1 >= x2 || y1 >= y2 { // y grows downwards
		t.Errorf("the line goes from %v,%v to %v,%v: it is to fall", x1, y1, x2, y2)
	}
	for _, m := range marks {
		if m.group == "dots" {
			x, y := m.number(t, "cx"), m.number(t, "cy")
			if want := y1 + (x-x1)*(y2-y1)/(x2-x1); math.Abs(y-want) > 1 {
				t.Errorf("a dot at %v,%v: the line is at %v", x, y, want)
			}
		}
	}
}

func TestChartMarksWhatIsOff(t *testing.T) {
	late := []time.Duration{0, 4 * time.Millisecond, 5 * time.Millisecond, 5001 * time.Microsecond,
		-5 * time.Millisecond, -5001 * time.Microsecond, 30 * time.Second, -30 * time.Second}
	marks := drawn(t, waits(250, 60*time.Second, 2048*time.Millisecond, len(late), func(i int) time.Duration { return late[i] }))
	if on, off := dots(marks, "dots"), dots(marks, "off"); on != 4 || off != 4 {
		t.Errorf("%d dots and %d that are off, not 4 and 4", on, off)
	}
	if got := texts(marks); !slices.Contains(got, "off by more than a jiffy and 1 ms (a jiffy: 1 s / HZ)") {
		t.Errorf("no legend in %q", got)
	}
	colours := map[string]string{}
	for _, m := range marks {
		if m.name == "g" && m.attr["class"] != "" {
			colours[m.attr["class"]] = m.attr["fill"]
		}
	}
	if colours["dots"] == colours["off"] {
		t.Errorf("colours are %v", colours)
	}
	if off := dots(drawn(t, waits(100, 60*time.Second, 5120*time.Millisecond, 3,
		func(int) time.Duration { return 11 * time.Millisecond })), "off"); off != 0 {
		t.Errorf("%d off at HZ 100, where a jiffy is 10 ms", off)
	}
}

func TestChartOfSeveralRuns(t *testing.T) {
	var runs []timewait.Run
	for n := 1; n <= 10; n++ {
		runs = append(runs, debian())
		if got := dots(drawn(t, runs...), "dots"); got != 64*n {
			t.Errorf("%d dots of %d runs", got, n)
		}
	}
}

// A second is as high in each panel of the same nominal length, and only there.
func TestChartPanelsCompare(t *testing.T) {
	var slopes []float64
	for _, m := range drawn(t, debian(), waits(1000, 60*time.Second, 4096*time.Millisecond, 64, onTime),
		waits(250, 15*time.Second, 256*time.Millisecond, 64, onTime)) {
		if m.attr["class"] == "predicted" {
			slopes = append(slopes, m.number(t, "y2")-m.number(t, "y1"))
		}
	}
	if len(slopes) != 3 || math.Abs(slopes[1]-2*slopes[0]) > 1 || math.Abs(slopes[2]-slopes[1]) > 1 {
		t.Errorf("the lines fall by %v pixels", slopes)
	}
}

func TestChartEscapes(t *testing.T) {
	r := debian()
	r.Kernel, r.Arch = "6.1<script>&\"'\x00\x1b\xff", "</svg>"
	if got := texts(drawn(t, r)); !slices.Contains(got, "6.1<script>&\"'???, </svg>") {
		t.Errorf("texts are %q", got)
	}
	r.Kernel, r.Arch = strings.Repeat("é", 300), strings.Repeat("ü", 300)
	for _, text := range texts(drawn(t, r, r)) {
		if len([]rune(text)) > 80 {
			t.Errorf("%q is too long for a panel", text)
		}
	}
}

func TestChartOfLittle(t *testing.T) {
	at := timewait.Sample{Measured: 60 * time.Second, Predicted: 60 * time.Second}
	for name, r := range map[string]timewait.Run{
		"nothing":       {},
		"no samples":    {Kernel: "6.1", Arch: "x86_64", HZ: 250, Nominal: 60 * time.Second, Bucket: 2048 * time.Millisecond},
		"no bucket":     {HZ: 250, Nominal: 60 * time.Second, Samples: []timewait.Sample{at}},
		"no HZ":         {Nominal: 60 * time.Second, Bucket: time.Second, Samples: []timewait.Sample{at}},
		"before bucket": {HZ: 250, Nominal: 60 * time.Second, Samples: []timewait.Sample{{Phase: -time.Second, Measured: -time.Second}}},
	} {
		marks := drawn(t, r)
		if got := dots(marks, "dots") + dots(marks, "off"); got != len(r.Samples) {
			t.Errorf("%s: %d dots, not %d", name, got, len(r.Samples))
		}
		if got := slices.Contains(texts(marks), "no samples"); got != (len(r.Samples) == 0) {
			t.Errorf("%s: says no samples: %v", name, got)
		}
		drawn(t, r, debian())
	}
}

func TestChartTicks(t *testing.T) {
	for _, c := range []struct {
		lo, hi time.Duration
		most   int
		want   string
	}{
		{60 * time.Second, 62048 * time.Millisecond, 8, "60.0 60.5 61.0 61.5 62.0"},
		{60 * time.Second, 65120 * time.Millisecond, 8, "60 61 62 63 64 65"},
		{15 * time.Second, 15256 * time.Millisecond, 8, "15.00 15.05 15.10 15.15 15.20 15.25"},
		{0, 2048 * time.Millisecond, 12, "0.0 0.2 0.4 0.6 0.8 1.0 1.2 1.4 1.6 1.8 2.0"},
		{-3 * time.Second, 3 * time.Second, 3, "-2 0 2"},
		{0, 400 * time.Second, 4, "0 100 200 300 400"},
	} {
		a := axis{lo: c.lo, hi: c.hi}
		at, decimals := a.ticks(c.most)
		var got []string
		for _, d := range at {
			got = append(got, seconds(d, decimals))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("from %v to %v: %q, not %q", c.lo, c.hi, got, c.want)
		}
	}
}

func TestChartIsTheSameAgain(t *testing.T) {
	var a, b bytes.Buffer
	runs := []timewait.Run{debian(), waits(100, 60*time.Second, 5120*time.Millisecond, 64, onTime)}
	if WriteChart(&a, runs) != nil || WriteChart(&b, runs) != nil || !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the same runs are drawn in two ways")
	}
}

type refusing struct{}

func (refusing) Write([]byte) (int, error) { return 0, errFull }

var errFull = errors.New("no space left on device")

func TestChartErrors(t *testing.T) {
	var out bytes.Buffer
	if err := WriteChart(&out, nil); err == nil || out.Len() > 0 {
		t.Errorf("no runs: %v, and %d bytes", err, out.Len())
	}
	if err := WriteChart(refusing{}, []timewait.Run{debian()}); !errors.Is(err, errFull) {
		t.Errorf("a full disk: %v", err)
	}
}
