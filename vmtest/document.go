// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"afterfin/internal/timewait"
	"afterfin/internal/view"
)

// document is a file of docs/ that is written from what a test measures in each guest.
type document struct {
	test, mark string // the mark stands before each line that the test writes for it
	kernels    []string
	host       bool // takes what was measured on this machine as well
	write      func(dir string, rows []tableRow, host []string) error
}

// documents are they, by name.
var documents = map[string]document{
	"2msl": {"TestMSL", " MSL ", slices.Concat(namesOf(measured()), namesOf(built)), false, write2MSL},
	"lab":  {"TestLab", " LAB ", namesOf(kernels), true, writeLab},
}

// measured are the kernels of the matrix that msl works on.
func measured() []kernel {
	return slices.DeleteFunc(slices.Clone(kernels), func(k kernel) bool { return k.lacks != "" })
}

// parseMSL reads what a script would of msl -o json.
func parseMSL(text string) (timewait.Run, error) {
	var doc struct {
		Kernel, Arch string
		HZ           int
		Nominal      time.Duration `json:"nominal_ns"`
		Bucket       time.Duration `json:"bucket_ns"`
		Samples      []struct {
			Phase     time.Duration `json:"phase_ns"`
			Measured  time.Duration `json:"measured_ns"`
			Predicted time.Duration `json:"predicted_ns"`
		}
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		return timewait.Run{}, err
	}
	run := timewait.Run{Kernel: doc.Kernel, Arch: doc.Arch, HZ: doc.HZ, Nominal: doc.Nominal, Bucket: doc.Bucket}
	for _, s := range doc.Samples {
		run.Samples = append(run.Samples, timewait.Sample(s))
	}
	return run, nil
}

// write2MSL writes what every guest measured: one table and one picture.
func write2MSL(dir string, rows []tableRow, _ []string) error {
	var runs []timewait.Run
	var table strings.Builder
	for _, r := range rows {
		if r.err != nil {
			return fmt.Errorf("%s: its 2MSL is not measured: nothing is written", r.job.kernel.name)
		}
		lines := r.outcome.documents["2msl"]
		if len(lines) == 0 {
			return fmt.Errorf("%s: TestMSL measured nothing", r.job.kernel.name)
		}
		run, err := parseMSL(lines[len(lines)-1])
		if err != nil {
			return fmt.Errorf("%s: read what TestMSL measured: %w", r.job.kernel.name, err)
		}
		if len(run.Samples) == 0 {
			return fmt.Errorf("%s: TestMSL measured nothing", r.job.kernel.name)
		}
		runs = append(runs, run)
		fmt.Fprintln(&table, documentRow(&run, hooks[r.job.kernel.accept]))
	}
	text := fmt.Sprintf(text2MSL, len(runs), len(runs[0].Samples), table.String())
	if err := os.WriteFile(filepath.Join(dir, "2msl.md"), []byte(text), 0o644); err != nil {
		return err
	}
	picture, err := os.Create(filepath.Join(dir, "2msl.svg"))
	if err != nil {
		return err
	}
	defer picture.Close()
	if err := view.WriteChart(picture, runs); err != nil {
		return err
	}
	return picture.Close()
}

func documentRow(r *timewait.Run, hooks string) string {
	l := r.Lengths()
	s := func(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }
	seen := "fentry"
	if !strings.Contains(hooks, seen) {
		seen = "timers"
	}
	return fmt.Sprintf("| %s %s | %d | %s | %s to %s | %s / %s / %s | %.3f ms | %s |", r.Kernel, r.Arch, r.HZ, s(r.Nominal),
		s(r.PredictedMin()), s(r.PredictedMax()), s(l[0]), s(timewait.Median(l)), s(l[len(l)-1]),
		float64(r.Worst())/float64(time.Millisecond), seen)
}

const text2MSL = `# How long TIME_WAIT lasts

` + "`afterfin msl`" + ` on %d kernels, in QEMU guests in virtual time: %d connections each, spread over a bucket of the
timer wheel. All figures are seconds if not said otherwise. This file is written by ` + "`make 2msl`" + `.

| kernel | HZ | nominal | predicted | measured min / median / max | worst error | seen by |
|---|---|---|---|---|---|---|
%s
![One panel for each kernel: every dot lies on the line](2msl.svg)

- **Nominal** is what the kernel sets the timer to, TCP_TIMEWAIT_LEN: read from the timers, not assumed. The last kernel
  was built with 15 s instead of 60.
- **Predicted**: the timer wheel rounds up to the end of a bucket, even a timer that is due just then:
  ` + "`((expires >> s) + 1) << s`" + ` jiffies (calc_index(), kernel/time/timer.c). How wide a bucket is, 2^s jiffies, depends on
  how many jiffies lie ahead: 60 s are 6,000 at HZ 100 and 15,000 at 250, both of them on the level with s = 9; at 1000
  they are 60,000, where s = 12; 15 s at 250 are 3,750, where s = 6. So a lower HZ makes a longer TIME_WAIT, and 1000 a
  longer one than 250.
- **Worst error** is the largest difference of a connection's measured end and the end that was predicted at its
  beginning. A jiffy is 10 ms at HZ 100, 4 ms at 250, 1 ms at 1000.
- **Seen by**: the functions of TIME_WAIT where the kernel lets us trace them (fentry), else its timers.

Kernels with versions are Debian's; those named hz100, hz1000 and tw15 are built by ` + "`make kernels`" + ` from Debian's
linux-source with the configurations in vmtest/linux.
`
