// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"afterfin/vmtest/guest"
)

// session is one run of vmtest.
type session struct {
	stdout, stderr io.Writer
	pattern        string
	document       *document // nil: none is wanted
	host           []string  // for it, from this machine
	kernels        []kernel
	lanes          []lane
	given          *image // of --kernel
	cache, logs    string
	builder        builder

	mu   sync.Mutex // of the writers
	rows []tableRow
}

// tableRow is a guest in the table at the end.
type tableRow struct {
	job     *job
	outcome *outcome
	wall    time.Duration
	err     error
}

func (s *session) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.stderr, format+"\n", args...)
}

func (s *session) print(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintln(s.stdout, text)
}

func (s *session) run(ctx context.Context) error {
	dir, remove, err := scratch(filepath.Join(s.cache, "build"))
	if err != nil {
		return err
	}
	defer remove()
	s.builder.dir = dir
	jobs, err := s.jobs(ctx)
	if err != nil {
		return err
	}
	s.runAll(ctx, slices.Clone(jobs))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	slices.SortFunc(s.rows, func(a, b tableRow) int { return slices.Index(jobs, a.job) - slices.Index(jobs, b.job) })
	s.table()
	if s.document != nil {
		if err := s.document.write(filepath.Join(s.builder.module, "docs"), s.rows, s.host); err != nil {
			return err
		}
	}
	failed := 0
	for _, r := range s.rows {
		if r.err != nil {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d guests fail", failed, len(s.rows))
	}
	return nil
}

// jobs prepares every guest: what can fail for want of something fails before any
// starts, and before what takes long.
func (s *session) jobs(ctx context.Context) ([]*job, error) {
	var images []image
	for i := range s.kernels {
		img, err := s.image(ctx, &s.kernels[i])
		if err != nil {
			return nil, err
		}
		images = append(images, img)
	}
	built := make(map[string]*binaries)
	for _, arch := range append(s.archs(), runtime.GOARCH) { // that one can list its tests
		if built[arch] != nil {
			continue
		}
		s.note("building the tests and the C programs for %s", arch)
		var err error
		if built[arch], err = s.builder.build(ctx, arch); err != nil {
			return nil, err
		}
	}
	var jobs []*job
	for i := range s.kernels {
		k := &s.kernels[i]
		for l := range s.lanes {
			qemu, err := sound(ctx, k.arch, s.lanes[l].cpus, s.cache, s.note)
			if err != nil {
				return nil, err
			}
			j := &job{kernel: k, lane: &s.lanes[l], image: images[i], qemu: qemu}
			if err := s.builder.pack(ctx, j, built[k.arch], s.pattern); err != nil {
				return nil, err
			}
			if j.count() > 0 {
				jobs = append(jobs, j)
			}
		}
	}
	if jobs == nil {
		return nil, fmt.Errorf("no test matches %q", s.pattern)
	}
	return jobs, nil
}

// image gets what a kernel's guests are started from, and with.
func (s *session) image(ctx context.Context, k *kernel) (image, error) {
	m := machines[k.arch]
	if err := need(ctx, m.program, m.pkg, s.note); err != nil {
		return image{}, err
	}
	if s.given != nil {
		if s.given.modules == nil {
			s.note("%s: no modules next to it, so %s must be built in", k.name, strings.Join(wantedModules, " and "))
		} else {
			s.note("%s: modules from %s", k.name, filepath.Dir(s.given.modules[0]))
		}
		return *s.given, nil
	}
	if k.suites == nil {
		return builtImage(filepath.Join(s.cache, "linux", k.name))
	}
	img, err := fetch(ctx, k, s.cache, s.note)
	if err != nil {
		return image{}, fmt.Errorf("get kernel %s: %w", k.name, err)
	}
	return img, nil
}

// builtImage is what vmtest/linux/build has left in a folder: no modules.
func builtImage(dir string) (image, error) {
	release, err := os.ReadFile(filepath.Join(dir, "release"))
	if err != nil {
		return image{}, fmt.Errorf("%w: make kernels builds it", err)
	}
	return image{path: filepath.Join(dir, "bzImage"), release: strings.TrimSpace(string(release))}, nil
}

func (s *session) archs() []string {
	var archs []string
	for _, k := range s.kernels {
		archs = append(archs, k.arch)
	}
	slices.Sort(archs)
	return slices.Compact(archs)
}

// runAll runs a pair of guests for every two CPUs: one in virtual time, which takes
// all of a CPU, beside a concurrent one, which has two but leaves them idle at times.
// Who finds none of its own lane left takes of the other, from its end.
func (s *session) runAll(ctx context.Context, jobs []*job) {
	var mu sync.Mutex
	take := func(cpus int) *job {
		mu.Lock()
		defer mu.Unlock()
		if len(jobs) == 0 {
			return nil
		}
		i := slices.IndexFunc(jobs, func(j *job) bool { return j.lane.cpus == cpus })
		if i < 0 {
			i = len(jobs) - 1
		}
		j := jobs[i]
		jobs = slices.Delete(jobs, i, i+1)
		return j
	}
	var group sync.WaitGroup
	for range max(1, runtime.NumCPU()/2) {
		for cpus := range 2 {
			group.Go(func() {
				for j := take(cpus + 1); j != nil && ctx.Err() == nil; j = take(cpus + 1) {
					s.runOne(ctx, j)
				}
			})
		}
	}
	group.Wait()
}

func (s *session) runOne(ctx context.Context, j *job) {
	name := j.kernel.name + "/" + j.lane.name
	log := filepath.Join(s.logs, j.kernel.name+"."+j.lane.name+".log")
	begin := time.Now()
	s.note("%s: %s starts", name, j.image.release)
	o := newOutcome(j, s.print)
	err := boot(ctx, j, log, o.take)
	if ctx.Err() != nil {
		return
	}
	switch {
	case err == nil:
		err = o.verdict()
	case !errors.Is(err, errUnfit): // then what is missing says nothing more, but the log does
		err = fmt.Errorf("%w, after %d of %d tests%s\n%s", err, o.passed+o.failed+o.skips, j.count(), o.at(), tail(log, 30))
	}
	if err != nil {
		s.print(fmt.Sprintf("FAIL: %s: %v\n(boot log: %s)", name, err, log))
	}
	s.note("%s: %d tests in %.0f guest seconds, %.0f s", name, o.passed+o.failed+o.skips, o.end.Seconds(), time.Since(begin).Seconds())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rows = append(s.rows, tableRow{j, o, time.Since(begin), err})
}

// tail gives the last lines of a boot log, without what only we need in them.
func tail(path string, n int) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(strings.ReplaceAll(string(raw), "\r", "")), "\n")
	lines = lines[max(0, len(lines)-n):]
	for i, raw := range lines {
		if l, ok := guest.Parse(raw); ok {
			lines[i] = strings.TrimPrefix(l.Text, frame)
		}
	}
	return "    " + strings.Join(lines, "\n    ")
}

func (s *session) table() {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := tabwriter.NewWriter(s.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nkernel\trelease\thz\tlane\thooks\ttests\tskipped\tguest s\twall s\tdigest\t")
	for _, r := range s.rows {
		verdict := "ok"
		if r.err != nil {
			verdict = "FAIL"
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%d\t%d\t%.1f\t%.1f\t%s\t%s\n", r.job.kernel.name, r.job.image.release, r.outcome.hz, r.job.lane.name, hooks[r.job.kernel.accept],
			r.outcome.passed+r.outcome.failed, r.outcome.skips, r.outcome.end.Seconds(), r.wall.Seconds(), r.outcome.fingerprint(), verdict)
	}
	w.Flush()
}
